import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance

from archsearch.data.prepare import Prepared
from archsearch.metrics.distances import GramMatrices, frechet_distance, influence, moments
from archsearch.metrics.registry import METRICS
from archsearch.metrics.spec import MetricSettings
from tests.metrics.conftest import build_metric


def features(count: int, seed: int, size: int = 5) -> torch.Tensor:
    return torch.randn(
        count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.double
    )


def test_diagonal_gaussians_by_hand() -> None:
    """Independent axes: Σ (μ₁ − μ₂)² + (σ₁ − σ₂)²."""
    square = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.double)
    sigma = (4 / 3) ** 0.5
    assert frechet_distance(square, 3 * square + 1) == pytest.approx(2 * (1 + (2 * sigma) ** 2))


@pytest.mark.parametrize("sizes", [(60, 40), (8, 30), (4, 3)])
def test_equals_the_nuclear_norm_form_even_with_few_samples(sizes: tuple[int, int]) -> None:
    """tr((Σx Σy)^½) is the nuclear norm of Xc Ycᵀ / √((n − 1)(m − 1)): another road to the same
    number.
    """
    x, y = features(sizes[0], 0), features(sizes[1], 1) * 2 + 0.3
    centred_x, centred_y = x - x.mean(0), y - y.mean(0)
    cross = (
        torch.linalg.svdvals(centred_x @ centred_y.T).sum() / ((len(x) - 1) * (len(y) - 1)) ** 0.5
    )
    expected = (x.mean(0) - y.mean(0)).square().sum() + x.var(0).sum() + y.var(0).sum() - 2 * cross
    assert frechet_distance(x, y) == pytest.approx(float(expected), rel=1e-6)


def test_zero_for_itself_and_symmetric() -> None:
    x, y = features(50, 0), features(50, 1)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x))


def test_efficientnet_distance_is_not_called_fid() -> None:
    assert not any("fid" in name for name, info in METRICS.items() if info.uses == ("effnet",))


@pytest.mark.parametrize("sizes", [(60, 40), (60, 4)])
def test_equals_torchmetrics(sizes: tuple[int, int]) -> None:
    class Given(torch.nn.Module):
        num_features = 5

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    x, y = features(sizes[0], 0), features(sizes[1], 1) * 2 + 0.3
    other = FrechetInceptionDistance(feature=Given())
    other.update(x, real=True)
    other.update(y, real=False)
    assert frechet_distance(x, y) == pytest.approx(float(other.compute()), rel=1e-5)


def test_forms_of_few_pictures_give_the_distance_of_any_choice_of_them() -> None:
    x, y = features(60, 0, size=20), features(8, 1, size=20) + 0.3
    indices = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7], [0, 0, 1, 3, 3, 3, 6, 7]])
    found = GramMatrices(x, y).distances(indices)
    assert found.tolist() == pytest.approx(
        [frechet_distance(x, y[rows]) for rows in indices], rel=1e-8
    )


def test_influence_is_the_derivative_by_the_weight_of_a_picture() -> None:
    """A picture added a thousandth of a time: whole copies of the set stand for the fraction."""
    x, y = features(80, 0), features(30, 1) * 1.5 + 0.4
    many = y.repeat(2000, 1)

    def population(z: torch.Tensor) -> float:  # divisor n, for which copies change nothing
        return frechet_distance(x, torch.cat([z, z]))

    step = 30 * 2000
    for i in (0, 7):
        change = (population(torch.cat([many, y[i : i + 1].repeat(60, 1)])) - population(many)) / (
            60 / (step + 60)
        )
        assert float(influence(x, y)[i]) == pytest.approx(change, rel=0.05, abs=0.05)


@pytest.mark.parametrize(("count", "size"), [(30, 40), (200, 5)])
def test_resamples_spread_as_new_pictures_do(
    count: int, size: int, data: Prepared, settings: MetricSettings
) -> None:
    metric = build_metric("fd_effnet", data, settings)
    metric._reference = features(300, 0, size)
    fresh = torch.tensor([metric._score(features(count, 10 + i, size) + 0.3)[0] for i in range(60)])
    resampled = torch.stack(
        [metric._score(features(count, 10 + i, size) + 0.3)[1].std() for i in range(4)]
    )
    assert float(resampled.mean()) == pytest.approx(float(fresh.std()), rel=0.3)


def test_many_pictures_are_taken_in_blocks() -> None:
    """Float32 in, blocks of it in double: as the whole in double."""
    x, y = features(9000, 0).float(), features(8500, 1).float() * 1.1
    mean, sigma = moments(x)
    torch.testing.assert_close(mean, x.double().mean(0))
    torch.testing.assert_close(sigma, x.double().T.cov())
    expected = sum(
        (float(x.double().std(0)[i]) - float(y.double().std(0)[i])) ** 2 for i in range(5)
    )
    assert frechet_distance(x, y) == pytest.approx(expected, abs=5e-3)
