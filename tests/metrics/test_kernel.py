import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from archsearch.metrics.kernel import polynomial_mmd


def features(count: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 12, generator=generator, dtype=torch.double) + shift


def test_equals_torchmetrics_on_sets_of_one_size() -> None:
    x, y = features(40, 0), features(40, 1, 0.5)
    assert polynomial_mmd(x, y) == pytest.approx(float(poly_mmd(x, y)), rel=1e-6)


def test_by_hand_on_sets_of_two_sizes() -> None:
    x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.double)
    y = torch.tensor([[1.0], [3.0]], dtype=torch.double)
    # off the diagonal: x: (1 + 1 + 27) / 3; y: 64; between: 1, 1, 8, 64, 27, 343
    assert polynomial_mmd(x, y) == pytest.approx(29 / 3 + 64 - 2 * 444 / 6)


def test_is_unbiased() -> None:
    """Over many draws of one distribution the mean is zero within its error; a biased estimate would not be."""
    values = torch.tensor([polynomial_mmd(features(10, 2 * i), features(25, 2 * i + 1)) for i in range(300)])
    assert abs(float(values.mean())) < 4 * float(values.std()) / 300**0.5
    assert values.min() < 0


def test_grows_with_distance_and_ignores_order() -> None:
    x = features(50, 0)
    near, far = (polynomial_mmd(x, features(30, 1, shift)) for shift in (0.2, 1.0))
    assert near < far
    assert polynomial_mmd(x.flip(0), features(30, 1, 1.0).flip(0)) == pytest.approx(far)
