"""Scores of a network that nobody trained, as controls: what a ranking has to beat.

Each is taken of the proxy at random weights, in fp32, with fixed random numbers.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from archsearch.data.prepare import Prepared
from archsearch.diffusion.recipe import Draws, denoising_loss, make_scheduler, spread_times
from archsearch.diffusion.spec import Recipe
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet

PICTURES = 16
_SEED = 20_261_128


def _draws(data: Prepared) -> Draws:
    generator = torch.Generator().manual_seed(_SEED)
    index = data.train[torch.randperm(len(data.train), generator=generator)[:PICTURES]]
    x0 = data.samples(index)
    times = spread_times(len(index), generator)
    noise = torch.randn(x0.shape, generator=generator)
    return Draws(x0, data.context[index].float(), times, noise)


def _fresh(config: UNetConfig) -> UNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return UNet(config)


def gradient_norm(config: UNetConfig, data: Prepared, recipe: Recipe) -> float:
    """Norm of the gradient of the denoising loss over one batch (Abdelfattah et al. 2021)."""
    model = _fresh(config)
    recipe = recipe.model_copy(update={"precision": "fp32"})
    scheduler = make_scheduler(recipe.prediction)
    denoising_loss(model, _draws(data), scheduler, recipe).mean().backward()  # type: ignore[no-untyped-call]
    squares = [p.grad.square().sum() for p in model.parameters() if p.grad is not None]
    return float(torch.stack(squares).sum().sqrt())


def synflow(config: UNetConfig, data: Prepared, recipe: Recipe) -> float:
    """Logarithm of the sum of |weight · gradient| where all weights and inputs are positive (Tanaka
    et al. 2020), normalisations left in: their outputs are what keeps the sum finite here.
    """
    model = _fresh(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    draws = _draws(data)
    ones = [torch.ones_like(draws.x0[:1]), draws.times[:1], torch.ones_like(draws.context[:1])]
    model(*ones).abs().sum().backward()
    flows = [(p * p.grad).abs().sum() for p in model.parameters() if p.grad is not None]
    return float(torch.stack(flows).detach().double().sum().log())


def naswot(config: UNetConfig, data: Prepared, recipe: Recipe) -> float:
    """Log-determinant of how many signs two pictures have in common (Mellor et al. 2021), over the
    outputs of all convolutions: the networks here have no ReLU whose pattern could be read.
    """
    model = _fresh(config)
    draws, total = _draws(data), torch.zeros(PICTURES, PICTURES, dtype=torch.float64)

    def look(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        signs = (output.detach().flatten(1) > 0).double()
        same = signs @ signs.T + (1 - signs) @ (1 - signs).T
        total.add_(same / signs.shape[1])

    hooks = [m.register_forward_hook(look) for m in model.modules() if isinstance(m, nn.Conv2d)]
    noisy = make_scheduler(recipe.prediction).add_noise(draws.x0, draws.noise, draws.times)
    with torch.no_grad():
        model(noisy, draws.times, draws.context)
    for hook in hooks:
        hook.remove()
    return float(torch.linalg.slogdet(total)[1])


ZERO_COST: dict[str, Callable[[UNetConfig, Prepared, Recipe], float]] = {
    "gradient_norm": gradient_norm,
    "synflow": synflow,
    "naswot": naswot,
}
"""By name; each takes a network at proxy scale, the data and the recipe."""
