"""What every metric promises, whichever it is."""

import math

import pytest
import torch
from torch import Tensor

from archsearch.data.prepare import Prepared
from archsearch.errors import ArchsearchError, InputError
from archsearch.metrics.base import Metric
from archsearch.metrics.evaluate import build_metrics, evaluate
from archsearch.metrics.networks import EfficientNetLite0, Networks
from archsearch.metrics.registry import METRICS
from archsearch.metrics.spec import MetricSettings
from tests.metrics.conftest import build_metric

RECALL = {"mismatched", "recall_at_1", "recall_at_5", "recall_at_10"}
COMPANIONS = {"alignment": RECALL, "alignment_recombined": RECALL}
FLOOR = {"floor", "floor_sd"}
OF_RANDOM_WEIGHTS = {"clip_score", "clip_score_recombined", "kid", "cmmd"}
"""Networks that were never trained cannot tell which caption belongs to a picture, nor surely a
picture from noise.
"""
REGIONS = {"precision_effnet", "recall_effnet", "density_effnet", "coverage_effnet"}
"""A few pictures far apart span regions that hold everything: what these are worth shows in
test_manifold.py.
"""


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
    return (data.images[rows].float() * 0.9 + 20).clamp(0, 255).byte(), [
        data.captions[i] for i in rows
    ]


def test_says_which_shared_networks_it_uses(data: Prepared, settings: MetricSettings) -> None:
    """What it does not name would not be part of its stored scores' key."""
    for name, info in METRICS.items():
        networks = Networks(settings)
        build_metrics([name], data, settings, networks)
        assert vars(networks).keys() - {"_settings"} == set(info.uses)


def test_agrees_with_the_registry(metric: Metric) -> None:
    info = METRICS[metric.name]
    assert (metric.version, metric.direction) == (info.version, info.direction)
    assert info.description


def test_names_and_values(metric: Metric, batch: tuple[Tensor, list[str]]) -> None:
    metric.update(*batch)
    result = metric.compute()
    floor = FLOOR if METRICS[metric.name].prompts == "seen" else set()
    companions = {"low", "high"} | floor | COMPANIONS.get(metric.name, set())
    assert set(result) == {metric.name} | {f"{metric.name}_{c}" for c in companions}
    assert all(type(v) is float and math.isfinite(v) for v in result.values())


def ends(metric: Metric, data: Prepared, rows: Tensor) -> tuple[float, float, float]:
    """Low end, value, high end for darkened train pictures."""
    metric.reset()
    metric.update(data.images[rows].flip(3) // 2 + 60, [data.captions[i] for i in rows])
    result = metric.compute()
    return result[f"{metric.name}_low"], result[metric.name], result[f"{metric.name}_high"]


@pytest.mark.parametrize("copies", [1, 8])
def test_the_interval_holds_the_value(metric: Metric, data: Prepared, copies: int) -> None:
    low, value, high = ends(metric, data, data.train[:8].repeat(copies))
    assert low <= value <= high


@pytest.mark.parametrize("built", sorted(METRICS.keys() - REGIONS), indirect=True)
def test_the_interval_of_all_but_region_scores_narrows_with_more_pictures(
    metric: Metric, data: Prepared
) -> None:
    (low, _, high), (nearer_low, _, nearer_high) = (
        ends(metric, data, data.train[:8].repeat(copies)) for copies in (1, 8)
    )
    assert 0 < nearer_high - nearer_low < high - low


def test_a_floor_depends_on_the_number_of_pictures_and_the_seed_alone(
    metric: Metric, data: Prepared, settings: MetricSettings, batch: tuple[Tensor, list[str]]
) -> None:
    if METRICS[metric.name].prompts == "recombined":
        pytest.skip("recombinations have no real pictures")
    floors = {f"{metric.name}_floor", f"{metric.name}_floor_sd"}

    def floor(of: Metric, images: Tensor, captions: list[str]) -> dict[str, float]:
        of.reset()
        of.update(images, captions)
        return {name: value for name, value in of.compute().items() if name in floors}

    images, captions = batch
    first = floor(metric, images, captions)
    assert floor(metric, 255 - images, captions) == first
    twice = floor(metric, torch.cat([images, images]), captions * 2)
    assert twice != first
    if metric.name not in REGIONS:
        reseeded = build_metric(metric.name, data, settings.model_copy(update={"seed": 5}))
        assert (floor(reseeded, images, captions) != first) == (
            METRICS[metric.name].axis == "fidelity"
        )


def test_real_pictures_are_within_reach_of_the_floor(metric: Metric, data: Prepared) -> None:
    """The floor is what real pictures get: the held-out ones come nearer to it than noise does."""
    if METRICS[metric.name].prompts == "recombined" or metric.name in OF_RANDOM_WEIGHTS | REGIONS:
        pytest.skip("nothing real to compare with")
    rows = data.held_out
    captions = [data.captions[i] for i in rows]
    metric.update(data.images[rows], captions)
    real = metric.compute()
    metric.reset()
    noise = torch.randint(
        0,
        256,
        (len(rows), 3, 32, 32),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(0),
    )
    metric.update(noise, captions)
    floor = real[f"{metric.name}_floor"]
    assert abs(real[metric.name] - floor) < abs(metric.compute()[metric.name] - floor)


def test_repeats_exactly_after_reset_whatever_the_global_rng(
    metric: Metric, batch: tuple[Tensor, list[str]]
) -> None:
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


@pytest.mark.parametrize(
    "built",
    sorted(METRICS.keys() - OF_RANDOM_WEIGHTS - {"precision_effnet", "density_effnet"}),
    indirect=True,
)
def test_knows_pictures_from_noise(metric: Metric, data: Prepared) -> None:
    rows = data.train[:24]
    captions = [data.captions[i] for i in rows]
    metric.update(data.images[rows], captions)
    pictures = metric.compute()[metric.name]
    metric.reset()
    generator = torch.Generator().manual_seed(0)
    metric.update(
        torch.randint(0, 256, (24, 3, 32, 32), dtype=torch.uint8, generator=generator), captions
    )
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


def test_all_at_once_give_what_each_gives_alone_and_features_are_extracted_once(
    data: Prepared,
    settings: MetricSettings,
    batch: tuple[Tensor, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images, captions = batch
    alone: dict[str, dict[str, float]] = {}
    for name in METRICS:
        metric = build_metric(name, data, settings)
        metric.update(images, captions)
        alone[name] = metric.compute()
    seen: list[int] = []
    plain = EfficientNetLite0._look
    monkeypatch.setattr(
        EfficientNetLite0,
        "_look",
        lambda self, images: seen.append(len(images)) or plain(self, images),
    )
    together = evaluate(build_metrics(METRICS, data, settings), images, captions)
    assert together == alone
    assert seen == [len(images)]


def test_what_is_missing_is_said_before_any_work(
    data: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        EfficientNetLite0, "_look", lambda self, images: pytest.fail("features were extracted")
    )
    with pytest.raises(InputError, match=r"metrics\.clip: cmmd needs"):
        build_metrics(["kid_effnet", "cmmd"], data, MetricSettings())
