from pathlib import Path

import pytest
import torch
from torchmetrics.image.kid import KernelInceptionDistance, poly_mmd

from archsearch.data.prepare import Prepared
from archsearch.metrics import distances as module
from archsearch.metrics.base import draw_rows, resamples
from archsearch.metrics.distances import Cmmd, KernelMetric, mmd
from archsearch.metrics.networks import Inception, Networks
from archsearch.metrics.spec import MetricSettings
from tests.metrics.conftest import build_metric


def features(count: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 12, generator=generator, dtype=torch.double) + shift


def test_equals_torchmetrics_on_sets_of_one_size() -> None:
    x, y = features(40, 0), features(40, 1, 0.5)
    assert mmd(x, y) == pytest.approx(float(poly_mmd(x, y)), rel=1e-6)


def test_by_hand_on_sets_of_two_sizes() -> None:
    x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.double)
    y = torch.tensor([[1.0], [3.0]], dtype=torch.double)
    # off the diagonal: x: (1 + 1 + 27) / 3; y: 64; between: 1, 1, 8, 64, 27, 343
    assert mmd(x, y) == pytest.approx(29 / 3 + 64 - 2 * 444 / 6)


def test_is_unbiased() -> None:
    """Over many draws of one distribution the mean is zero within its error; a biased estimate
    would not be.
    """
    values = torch.tensor([mmd(features(10, 2 * i), features(25, 2 * i + 1)) for i in range(300)])
    assert abs(float(values.mean())) < 4 * float(values.std()) / 300**0.5
    assert values.min() < 0


def test_grows_with_distance_and_ignores_order() -> None:
    x = features(50, 0)
    near, far = (mmd(x, features(30, 1, shift)) for shift in (0.2, 1.0))
    assert near < far
    assert mmd(x.flip(0), features(30, 1, 1.0).flip(0)) == pytest.approx(far)


def test_resamples_leave_out_pairs_of_one_picture(data: Prepared, settings: MetricSettings) -> None:
    """By the definition, over every pair of places in the resample that hold different pictures."""
    metric = build_metric("kid_effnet", data, settings)
    x, y = metric._reference, metric._reference[:6] * 0.9
    value, resampled = metric._score(y)
    assert value == pytest.approx(mmd(x, y), rel=1e-9, abs=1e-12)
    rows = resamples(6)[0].tolist()
    pairs = [(i, j) for a, i in enumerate(rows) for b, j in enumerate(rows) if a != b and i != j]
    k = KernelMetric.kernel
    within_y = sum(float(k(y[i : i + 1].double(), y[j : j + 1].double())) for i, j in pairs) / len(
        pairs
    )
    matrix = k(x.double(), x.double())
    within_x = (matrix.sum() - matrix.trace()) / (len(x) * (len(x) - 1))
    assert float(resampled[0]) == pytest.approx(
        float(within_x + within_y - 2 * k(x.double(), y[rows].double()).mean()), abs=1e-9
    )


def test_blocks_change_nothing(
    data: Prepared, settings: MetricSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = build_metric("kid_effnet", data, settings)
    y = metric._reference[:11] * 0.9
    rows = draw_rows(len(metric._reference), 9, seed=0)
    whole, floor = metric._score(y), metric._real_against_real(*rows)
    monkeypatch.setattr(module, "_BLOCK", 4)
    parts = metric._score(y)
    assert parts[0] == pytest.approx(whole[0], abs=1e-12)
    torch.testing.assert_close(parts[1], whole[1])
    assert metric._real_against_real(*rows) == pytest.approx(floor, abs=1e-12)


def test_floors_from_sums_are_those_of_the_draws(data: Prepared, settings: MetricSettings) -> None:
    metric = build_metric("kid_effnet", data, settings)
    for seed in range(5):
        rest, draw = draw_rows(len(metric._reference), 9, seed)
        expected = metric._between(metric._reference[rest], metric._reference[draw])
        assert metric._real_against_real(rest, draw) == pytest.approx(expected, abs=1e-10)


def test_resamples_spread_as_new_pictures_do(data: Prepared, settings: MetricSettings) -> None:
    metric = build_metric("kid_effnet", data, settings)
    metric._reference = features(300, 0)
    fresh = torch.tensor([metric._score(features(40, 10 + i, 0.4))[0] for i in range(60)])
    resampled = torch.stack([metric._score(features(40, 10 + i, 0.4))[1].std() for i in range(5)])
    assert float(resampled.mean()) == pytest.approx(float(fresh.std()), rel=0.4)


def test_kid_equals_torchmetrics_on_the_same_features(
    data: Prepared, settings: MetricSettings, inception_file: Path
) -> None:
    """One subset of all pictures, which is what the exact value is the limit of; then both sides
    are of one size.
    """

    class Wrapped(torch.nn.Module):
        num_features = 6

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return Inception(inception_file)(images).double()

    images = 255 - data.images[data.train]
    other = KernelInceptionDistance(feature=Wrapped(), subsets=1, subset_size=len(images))
    other.update(data.images[data.train], real=True)
    other.update(images, real=False)
    metric = build_metric("kid", data, settings)
    metric.update(images, [""] * len(images))
    assert metric.compute()["kid"] == pytest.approx(float(other.compute()[0]), rel=1e-3)


def test_cmmd_by_hand(data: Prepared, settings: MetricSettings) -> None:
    clip = Networks(settings).clip
    x, y = clip(data.images[data.train]).double(), clip(255 - data.images[:5]).double()
    assert x.norm(dim=1).tolist() == pytest.approx([1] * len(x), abs=1e-5)

    def mean(a: torch.Tensor, b: torch.Tensor, same: bool) -> float:
        values = [
            float(torch.exp(-(p - q).square().sum() / 200))
            for i, p in enumerate(a)
            for j, q in enumerate(b)
            if not same or i != j
        ]
        return sum(values) / len(values)

    metric = build_metric("cmmd", data, settings)
    metric.update(255 - data.images[:5], [""] * 5)
    expected = 1000 * (mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False))
    assert metric.compute()["cmmd"] == pytest.approx(expected, rel=1e-6, abs=1e-7)
    assert 1000 * mmd(x, y, Cmmd.kernel) == pytest.approx(expected, rel=1e-6, abs=1e-7)
