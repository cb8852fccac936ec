"""The default quality objective: denoising loss on held-out pictures, at fixed times and noise."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from archsearch.data.prepare import Prepared
from archsearch.diffusion.recipe import (
    TRAIN_STEPS,
    Draws,
    Loss,
    denoising_loss,
    make_scheduler,
    spread_times,
)
from archsearch.diffusion.spec import Recipe

# Thirds of the schedule, from little noise, where fine detail is decided, to much, where the layout
# is.
BANDS = ("fine", "middle", "coarse")

_SEED = 20_231_118  # of all studies: every network of every study meets the same times and noise
_BATCH = 32
_RESAMPLES = 1000


@dataclass(frozen=True)
class HeldOut:
    """The held-out loss of a network.

    Attributes:
        loss: Mean over all draws.
        bands: Mean over the draws of each third of the schedule.
        low: Lower end of the 95 % bootstrap interval, held-out pictures resampled.
        high: Its upper end. It tells what other held-out pictures would say of this network, not of
            another seed.
        losses: Of each draw. Two networks are compared draw by draw: what makes a picture, a time
            or a noise hard is the same for both.
        pictures: Which picture each draw is of, as an index into all of the data.
    """

    loss: float
    bands: dict[str, float]
    low: float
    high: float
    losses: tuple[float, ...]
    pictures: tuple[int, ...]

    def scores(self, name: str = "val_loss") -> dict[str, float]:
        """The loss under ``name``, and its companions under names that begin with it."""
        bands = {f"{name}_{band}": value for band, value in self.bands.items()}
        return {name: self.loss, f"{name}_low": self.low, f"{name}_high": self.high} | bands


@torch.no_grad()
def held_out(
    model: nn.Module,
    data: Prepared,
    recipe: Recipe,
    device: torch.device,
    loss: Loss = denoising_loss,
) -> HeldOut:
    """Mean loss of the prediction over ``recipe.draws`` fixed triples of held-out picture, time and
    noise.

    Times are stratified over the schedule, pictures are taken in turn, captions are given, and all
    times weigh alike. The triples are the same for every network. A network that predicts v and one
    that predicts noise cannot be compared by it. Another ``loss`` is taken over the same triples.
    """
    generator = torch.Generator().manual_seed(_SEED)
    scheduler = make_scheduler(recipe.prediction)
    times = spread_times(recipe.draws, generator)
    turn = _turns(recipe.draws, len(data.held_out))
    pictures = data.held_out[turn]
    losses = []
    for start in range(0, recipe.draws, _BATCH):
        chunk = slice(start, start + _BATCH)
        index = pictures[chunk]
        x0 = data.samples(index)
        noise = torch.randn(x0.shape, generator=generator)
        draws = Draws(x0, data.context[index].float(), times[chunk], noise)
        losses.append(loss(model, draws.to(device), scheduler, recipe).cpu())
    each = torch.cat(losses).double()
    band = times * len(BANDS) // TRAIN_STEPS
    low, high = _interval(each, turn)
    return HeldOut(
        loss=float(each.mean()),
        bands={name: float(each[band == index].mean()) for index, name in enumerate(BANDS)},
        low=low,
        high=high,
        losses=tuple(each.tolist()),
        pictures=tuple(pictures.tolist()),
    )


def _turns(draws: int, count: int) -> Tensor:
    # Which held-out picture each draw is of: all of them in turn, or as many as there are draws,
    # spread over all.
    if count <= draws:
        return torch.arange(draws) % count
    return torch.linspace(0, count - 1, draws).long()


def _interval(losses: Tensor, pictures: Tensor) -> tuple[float, float]:
    # 95 % interval of the mean, pictures resampled with all their draws: those of one picture are
    # not independent.
    _, row = torch.unique(pictures, return_inverse=True)
    count = int(row.max()) + 1
    sums = torch.zeros(count, dtype=torch.float64).index_add_(0, row, losses)
    draws = torch.zeros(count, dtype=torch.float64).index_add_(0, row, torch.ones_like(losses))
    chosen = torch.randint(
        0, count, (_RESAMPLES, count), generator=torch.Generator().manual_seed(_SEED)
    )
    means = sums[chosen].sum(1) / draws[chosen].sum(1)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
