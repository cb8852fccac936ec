import pytest
import torch

from archsearch.metrics.frechet import FdEffnet, frechet_distance


def features(count: int, seed: int, size: int = 5) -> torch.Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def test_diagonal_gaussians_by_hand() -> None:
    """Independent axes: Σ (μ₁ − μ₂)² + (σ₁ − σ₂)²."""
    square = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.double)
    sigma = (4 / 3) ** 0.5
    assert frechet_distance(square, 3 * square + 1) == pytest.approx(2 * (1 + (2 * sigma) ** 2))


@pytest.mark.parametrize("sizes", [(60, 40), (8, 30), (4, 3)])
def test_equals_the_nuclear_norm_form_even_with_few_samples(sizes: tuple[int, int]) -> None:
    """tr((Σx Σy)^½) is the nuclear norm of Xc Ycᵀ / √((n − 1)(m − 1)): another road to the same number."""
    x, y = features(sizes[0], 0), features(sizes[1], 1) * 2 + 0.3
    centred_x, centred_y = x - x.mean(0), y - y.mean(0)
    cross = torch.linalg.svdvals(centred_x @ centred_y.T).sum() / ((len(x) - 1) * (len(y) - 1)) ** 0.5
    expected = (x.mean(0) - y.mean(0)).square().sum() + x.var(0).sum() + y.var(0).sum() - 2 * cross
    assert frechet_distance(x, y) == pytest.approx(float(expected), rel=1e-6)


def test_zero_for_itself_and_symmetric() -> None:
    x, y = features(50, 0), features(50, 1)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x))


def test_efficientnet_distance_is_not_called_fid() -> None:
    assert "fid" not in FdEffnet.name
