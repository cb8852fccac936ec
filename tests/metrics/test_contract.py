"""What every metric promises, whichever it is."""

import math

import pytest
import torch
from torch import Tensor

from archsearch.data.prepare import Prepared
from archsearch.errors import ArchsearchError, InputError
from archsearch.metrics.base import Metric
from archsearch.metrics.registry import METRICS, build_metric
from archsearch.metrics.settings import MetricSettings

COMPANIONS = {
    "kid_effnet": {"floor"},
    "fd_effnet": {"floor"},
    "fid": {"floor"},
    "clip_score": set(),
    "alignment": {"mismatched", "recall_at_1", "recall_at_5", "recall_at_10"},
}


@pytest.fixture(scope="module", params=sorted(METRICS))
def built(request: pytest.FixtureRequest, data: Prepared, settings: MetricSettings) -> Metric:
    return build_metric(request.param, data, settings)


@pytest.fixture
def metric(built: Metric) -> Metric:
    built.reset()
    return built


@pytest.fixture
def batch(data: Prepared) -> tuple[Tensor, list[str]]:
    """Twelve train pictures, brightened a little, and their captions."""
    rows = data.train[:12]
    return (data.images[rows].float() * 0.9 + 20).clamp(0, 255).byte(), [data.captions[i] for i in rows]


def test_agrees_with_the_registry(metric: Metric) -> None:
    info = METRICS[metric.name]
    assert (metric.version, metric.direction) == (info.version, info.direction)
    assert info.description


def test_names_and_values(metric: Metric, batch: tuple[Tensor, list[str]]) -> None:
    metric.update(*batch)
    result = metric.compute()
    assert set(result) == {metric.name} | {f"{metric.name}_{c}" for c in COMPANIONS[metric.name]}
    assert all(type(v) is float and math.isfinite(v) for v in result.values())


def test_repeats_exactly_after_reset_whatever_the_global_rng(metric: Metric, batch: tuple[Tensor, list[str]]) -> None:
    metric.update(*batch)
    first = metric.compute()
    assert metric.compute() == first  # computing changes nothing
    torch.manual_seed(123)
    state = torch.get_rng_state()
    metric.reset()
    metric.update(*batch)
    assert metric.compute() == first
    assert torch.equal(torch.get_rng_state(), state)


def test_batches_add_up(metric: Metric, batch: tuple[Tensor, list[str]]) -> None:
    images, captions = batch
    metric.update(images, captions)
    at_once = metric.compute()
    metric.reset()
    metric.update(images[:0], [])
    for start in (0, 5, 10):
        metric.update(images[start : start + 5], captions[start : start + 5])
    assert metric.compute() == pytest.approx(at_once, rel=1e-3, abs=1e-4)


def test_another_instance_gives_the_same(
    metric: Metric, data: Prepared, settings: MetricSettings, batch: tuple[Tensor, list[str]]
) -> None:
    metric.update(*batch)
    other = build_metric(metric.name, data, settings)
    other.update(*batch)
    assert other.compute() == metric.compute()


@pytest.mark.parametrize("built", sorted(METRICS.keys() - {"clip_score"}), indirect=True)  # CLIP's weights are random here
def test_knows_pictures_from_noise(metric: Metric, data: Prepared) -> None:
    rows = data.train[:24]
    captions = [data.captions[i] for i in rows]
    metric.update(data.images[rows], captions)
    pictures = metric.compute()[metric.name]
    metric.reset()
    generator = torch.Generator().manual_seed(0)
    metric.update(torch.randint(0, 256, (24, 3, 32, 32), dtype=torch.uint8, generator=generator), captions)
    noise = metric.compute()[metric.name]
    assert pictures < noise if metric.direction == "minimize" else pictures > noise


@pytest.mark.parametrize("size", [16, 40])
def test_takes_any_size(metric: Metric, size: int, batch: tuple[Tensor, list[str]]) -> None:
    images = torch.nn.functional.interpolate(batch[0].float(), size=(size, size)).byte()
    metric.update(images, batch[1])
    assert math.isfinite(metric.compute()[metric.name])


def test_nothing_to_compute_from_is_named(metric: Metric) -> None:
    with pytest.raises(ArchsearchError, match=f"{metric.name} needs at least"):
        metric.compute()


def test_refuses_what_is_not_uint8_images(metric: Metric, batch: tuple[Tensor, list[str]]) -> None:
    images, captions = batch
    with pytest.raises(InputError, match="uint8"):
        metric.update(images.float() / 255, captions)
    with pytest.raises(InputError, match="shape"):
        metric.update(images[:, :1], captions)
    with pytest.raises(InputError, match="11 captions"):
        metric.update(images, captions[:-1])
