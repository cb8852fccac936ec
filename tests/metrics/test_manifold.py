from collections.abc import Callable

import pytest
import torch

from archsearch.metrics.distances import balls, coverage, density, precision, radii, recall

COMPARE = (precision, recall, density, coverage)


def features(count: int, seed: int, shift: float = 0.0, spread: float = 1.0) -> torch.Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)) * spread + shift


def scores(real: torch.Tensor, generated: torch.Tensor) -> dict[str, float]:
    return {compare.__name__: compare(real, generated)[0] for compare in COMPARE}


def test_radii_and_balls_by_hand() -> None:
    line = torch.tensor([[0.0], [1.0], [3.0], [10.0]])
    assert radii(line, 1).tolist() == [1, 1, 2, 7]
    assert radii(line, 2).tolist() == [3, 2, 3, 9]
    assert radii(line, 9).tolist() == [10, 9, 7, 10]  # as many neighbours as there are
    assert balls(line, torch.tensor([[1.5], [6.0], [-9.0]]), radii(line, 1)).tolist() == [2, 1, 0]


def test_equals_the_definition_pair_by_pair() -> None:
    real, generated = features(12, 0), features(12, 1, 0.5)

    def reach(x: torch.Tensor, k: int) -> list[float]:
        return [sorted(float((a - b).norm()) for b in x)[k] for a in x]

    inside = [[float((g - r).norm()) for r in real] for g in generated]
    of_real, of_generated, fives = reach(real, 3), reach(generated, 3), reach(real, 5)
    n = range(12)
    assert scores(real, generated) == pytest.approx(
        {
            "precision": sum(any(inside[g][r] <= of_real[r] for r in n) for g in n) / 12,
            "recall": sum(any(inside[g][r] <= of_generated[g] for g in n) for r in n) / 12,
            "density": sum(inside[g][r] <= fives[r] for g in n for r in n) / 12 / 5,
            "coverage": sum(any(inside[g][r] <= fives[r] for g in n) for r in n) / 12,
        }
    )


def test_density_is_over_the_neighbours_that_there_are() -> None:
    real = features(4, 0)  # each has three others, not five: every ball holds all of them
    assert scores(real, real)["density"] == pytest.approx(4 / 3)


def test_what_each_is_blind_to() -> None:
    real = features(400, 0)
    like, crowd, far = (
        scores(real, features(400, 1, *how)) for how in ((0.0, 1.0), (0.0, 0.1), (9.0, 1.0))
    )
    assert like["density"] == pytest.approx(1, abs=0.15)
    assert min(like["precision"], like["recall"]) > 0.8
    assert like["coverage"] > 0.9
    assert crowd["precision"] == 1  # one good picture over and over: precise
    assert crowd["density"] > 2
    assert max(crowd["recall"], crowd["coverage"]) < 0.3  # but most of the data is missing
    assert max(far.values()) == 0


@pytest.mark.parametrize("compare", COMPARE)
def test_resamples_spread_as_new_pictures_do(
    compare: Callable[[torch.Tensor, torch.Tensor], tuple[float, torch.Tensor]],
) -> None:
    real = features(100, 0)
    fresh = torch.tensor([compare(real, features(100, 10 + i, 0.4))[0] for i in range(60)])
    resampled = torch.stack([compare(real, features(100, 10 + i, 0.4))[1].std() for i in range(5)])
    assert float(resampled.mean()) == pytest.approx(float(fresh.std()), rel=0.6)
