"""One to four steps by a generator that learns against a copy of the network it began as.

``Ufogen`` (Xu et al. 2023, "UFOGen: You forward once large scale text-to-image generation via
diffusion GANs"): the opponent tells real samples from the generator's, both with noise added; the
generator is also drawn to the picture that its input was made of.

``Dmd`` (Yin et al. 2024, "Improved distribution matching distillation for fast image synthesis",
DMD2): the opponent learns to denoise what the generator draws; where its prediction and the trained
network's part tells the generator where to move. It tells real from drawn samples as well.

Both are written from the papers. What these leave open is marked "reconstructed".
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from archsearch.diffusion.distill import grid, guidance_weights, levels
from archsearch.diffusion.recipe import (
    TRAIN_STEPS,
    Draws,
    autocast,
    memory_format,
    target_of,
)
from archsearch.diffusion.sample import guided
from archsearch.diffusion.spec import Precision, Recipe
from archsearch.diffusion.trained import Trained
from archsearch.diffusion.trainer import digest_of
from archsearch.unet.model import UNet

MOST_STEPS = 4
"""UFOGen: times of its training lie on the grid of so many steps."""
LAG = TRAIN_STEPS // 4
"""UFOGen: how much less noise the opponent sees than the generator was given."""
RECONSTRUCTION = 1.0
"""UFOGen: weight of the distance to the picture (reconstructed)."""
WARM_UP = 40
"""UFOGen: batches from which the opponent learns alone (reconstructed). One that begins with the
generator never tells real from drawn samples: the generator evades faster than it learns."""
UFOGEN_RATE = 10.0
"""UFOGen: learning rate of the opponent, as a multiple of the generator's (reconstructed)."""
REAL_OR_DRAWN = (3e-3, 1e-2)
"""DMD2: weight of telling real from drawn samples, in the loss of the generator and of the
opponent."""
OPPONENT_STEPS = 5
"""Steps of the opponent for one of the generator: DMD2's; for UFOGen reconstructed."""
EXTREMES = (TRAIN_STEPS // 50, TRAIN_STEPS - TRAIN_STEPS // 50)
"""DMD: the times between which both predictions are compared."""
BETAS = (0.0, 0.999)


class Opponent(nn.Module):
    """A copy of a trained network that learns besides the generator, with a head on its innermost
    features that tells real from drawn samples.

    Args:
        network: The trained network.
        learning_rate: Of its own optimiser.
        seed: Of the head's weights.
        precision: What it computes in.
    """

    def __init__(
        self, network: UNet, learning_rate: float, seed: int, precision: Precision = "fp32"
    ) -> None:
        super().__init__()
        self.precision = precision
        self.network = UNet(network.config)
        self.network.load_state_dict(network.state_dict())
        width = network.config.stages[-1].channels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = nn.Sequential(
                nn.GroupNorm(network.config.norm_groups, width),
                nn.SiLU(),
                nn.Conv2d(width, width, 1),
                nn.SiLU(),
                nn.Conv2d(width, 1, 1),
            )
        device = next(network.parameters()).device
        self.to(device)
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=learning_rate, betas=BETAS)

    def judge(self, x: Tensor, times: Tensor, text: Tensor, weights: Tensor) -> Tensor:
        """Logits (B,) that the noisy samples ``x`` are of real pictures: the mean over positions
        (reconstructed).
        """
        network = self.network
        with autocast(x.device, self.precision):
            time = network.time(times, *([weights] if network.config.guidance_dim else []))
            innermost, _ = network.encode(x, time, text)
            logits: Tensor = self.head(innermost).float().flatten(1).mean(1)
        return logits

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within, gradients pass through it and leave none in it."""
        self.requires_grad_(False)
        yield
        self.requires_grad_(True)

    def learn(self, loss: Tensor, clip: float) -> None:
        """One step down ``loss``."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters(), clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """Weights and the optimiser's state."""
        found = {name: parameter.data for name, parameter in self.named_parameters()}
        for name, parameter in self.named_parameters():
            state = self.optimizer.state.get(parameter, {})
            found |= {f"optimizer.{key}.{name}": value for key, value in state.items()}
        return found

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take them back."""
        for name, parameter in self.named_parameters():
            parameter.copy_(tensors[name])
            if f"optimizer.step.{name}" in tensors:
                self.optimizer.state[parameter] = {
                    key: tensors[f"optimizer.{key}.{name}"].to(
                        "cpu" if key == "step" else parameter.device
                    )
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }


class Adversarial:
    """The loss of a generator, which teaches its opponent on the way.

    Args:
        trained: The network that both begin as, on the device of the training.
        recipe: Of the training.
        empty: Features of the empty caption (tokens, width).
        steps: Steps that the generator is to draw in.
        weights: The least and the largest guidance weight of what it learns to draw.
        seed: Of the opponent's head, and of noise beyond what a batch brings.

    Attributes:
        curve: Means since they were last read: losses of both, and how sure the discriminator is.
    """

    method = ""
    opponent_rate = 1.0
    """Learning rate of the opponent, as a multiple of the generator's."""
    warm_up = 0
    """Batches from which the opponent learns alone."""

    def __init__(
        self,
        trained: Trained,
        recipe: Recipe,
        empty: Tensor,
        steps: int,
        weights: tuple[float, float],
        seed: int,
    ) -> None:
        self.teacher, self.steps, self.weights, self.empty = trained.model, steps, weights, empty
        self.precision = recipe.precision
        rate = self.opponent_rate * recipe.learning_rate
        self.opponent = Opponent(trained.model, rate, seed, recipe.precision)
        self._rng = torch.Generator().manual_seed(seed)
        self._calls, self._sums = 0, torch.zeros(3, dtype=torch.float64)

    @cached_property
    def __name__(self) -> str:
        taught = digest_of(self.teacher.state_dict())
        return f"{self.method}, {self.steps} steps, guidance {self.weights}, of {taught}"

    def __call__(self, model: nn.Module, draws: Draws, scheduler: Any, recipe: Recipe) -> Tensor:
        """One number a sample, as ``denoising_loss``; the opponent learns first."""
        layout = memory_format(draws.x0.device, recipe.channels_last)
        draws = draws._replace(noise=draws.noise.contiguous(memory_format=layout))
        weights = guidance_weights(draws.noise, *self.weights)
        taught = self._teach(model, draws, weights, scheduler, recipe)
        with self.opponent.held():
            loss = self._loss(model, draws, weights, scheduler)
        loss = loss * float(self._calls >= self.warm_up)
        self._calls += 1
        told = [float(loss.detach().mean()), *taught]
        self._sums += torch.tensor(told, dtype=torch.float64)
        return loss

    def _teach(
        self, model: nn.Module, draws: Draws, weights: Tensor, scheduler: Any, recipe: Recipe
    ) -> tuple[float, float]:
        # Let the opponent learn: its loss, and how sure it is of real and drawn samples.
        raise NotImplementedError

    def _loss(self, model: nn.Module, draws: Draws, weights: Tensor, scheduler: Any) -> Tensor:
        raise NotImplementedError

    def means(self, calls: int) -> dict[str, float]:
        """Means over the last ``calls`` calls, since this was last asked."""
        means = (self._sums / max(1, calls)).tolist()
        self._sums.zero_()
        return dict(zip(("generator", "opponent", "discriminator"), means, strict=True))

    def told(
        self, model: nn.Module, x: Tensor, times: Tensor, text: Tensor, weights: Tensor
    ) -> Tensor:
        """A network's prediction, as ``told``, in the precision of the training."""
        return told(model, x, times, text, weights, self.precision)

    def noise(self, like: Tensor) -> Tensor:
        """Fresh noise of the shape of ``like``."""
        return torch.randn(like.shape, generator=self._rng).to(like)

    def times(self, low: int, high: int, like: Tensor) -> Tensor:
        """Fresh times (B,) from ``low`` up to ``high``."""
        return torch.randint(low, high, (len(like),), generator=self._rng).to(like.device)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of it."""
        counts = torch.tensor([self._calls])
        own = {"rng": self._rng.get_state(), "calls": counts, "sums": self._sums}
        return own | {f"opponent.{k}": v for k, v in self.opponent.tensors().items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take it back."""
        self._rng.set_state(tensors["rng"])
        self._calls = int(tensors["calls"])
        self._sums = tensors["sums"][: len(self._sums)].clone()  # earlier versions kept a count too
        prefix = "opponent."
        theirs = {k: v for k, v in tensors.items() if k.startswith(prefix)}
        self.opponent.restore({k.removeprefix(prefix): v for k, v in theirs.items()})


class Ufogen(Adversarial):
    """UFOGen: x̂₀ of the generator at t is given the noise of t − T/4, as the real picture is, and
    the opponent is to tell both apart. It learns alone from the first ``WARM_UP`` batches.

    The distance to the picture is weighed by ᾱ_t, which vanishes where the input tells nothing of
    it (reconstructed). The generator's half is log D(x̂), which does not saturate.
    """

    method = "ufogen"
    opponent_rate, warm_up = UFOGEN_RATE, WARM_UP

    def _draw(
        self, model: nn.Module, draws: Draws, weights: Tensor, scheduler: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        # What the generator makes of real samples with noise, with its times and those LAG before.
        x0, text, times, noise = draws
        times = grid(MOST_STEPS).to(times.device)[times * MOST_STEPS // TRAIN_STEPS]
        noisy = scheduler.add_noise(x0, noise, times)
        drawn = clean(scheduler, noisy, self.told(model, noisy, times, text, weights), times)
        return drawn, times, (times - LAG).clamp(min=0)

    @override
    def _teach(
        self, model: nn.Module, draws: Draws, weights: Tensor, scheduler: Any, recipe: Recipe
    ) -> tuple[float, float]:
        losses, sure = 0.0, 0.0
        for _ in range(OPPONENT_STEPS):
            with torch.no_grad():
                drawn, _, earlier = self._draw(model, draws, weights, scheduler)
            logits = [
                self.opponent.judge(
                    scheduler.add_noise(x, self.noise(x), earlier), earlier, draws.context, weights
                )
                for x in (draws.x0, drawn)
            ]
            loss = discrimination(*logits)
            self.opponent.learn(loss, recipe.clip)
            losses += float(loss.detach()) / OPPONENT_STEPS
            sure += sureness(*logits) / OPPONENT_STEPS
            # The same pictures again, at other times.
            again = self.times(0, TRAIN_STEPS, draws.times)
            draws = draws._replace(times=again, noise=self.noise(draws.noise))
        return losses, sure

    @override
    def _loss(self, model: nn.Module, draws: Draws, weights: Tensor, scheduler: Any) -> Tensor:
        drawn, times, earlier = self._draw(model, draws, weights, scheduler)
        seen = scheduler.add_noise(drawn, self.noise(drawn), earlier)
        fooled = F.softplus(-self.opponent.judge(seen, earlier, draws.context, weights))
        kept = levels(scheduler, times)[0].flatten().square()
        distance = (draws.x0 - drawn).square().flatten(1).mean(1)
        return fooled + RECONSTRUCTION * kept * distance


class Dmd(Adversarial):
    """DMD2: the generator draws from noise in its own steps, the last of them with a gradient; it
    is moved by the difference of the opponent's and the trained network's prediction of x₀.
    """

    method = "dmd"

    def _draw(
        self, model: nn.Module, noise: Tensor, text: Tensor, weights: Tensor, scheduler: Any
    ) -> Tensor:
        # As it will be drawn, up to a step that is drawn by lot ("backward simulation").
        steps = grid(self.steps).flip(0).tolist()
        last = int(torch.randint(len(steps), (), generator=self._rng))
        x = noise
        for number, time in enumerate(steps[: last + 1]):
            times = torch.full((len(x),), time, device=x.device)
            with torch.set_grad_enabled(torch.is_grad_enabled() and number == last):
                drawn = clean(scheduler, x, self.told(model, x, times, text, weights), times)
            if number < last:
                then = torch.full((len(x),), steps[number + 1], device=x.device)
                x = scheduler.add_noise(drawn, self.noise(drawn), then)
        return drawn

    @override
    def _teach(
        self, model: nn.Module, draws: Draws, weights: Tensor, scheduler: Any, recipe: Recipe
    ) -> tuple[float, float]:
        text, losses, sure = draws.context, 0.0, 0.0
        for _ in range(OPPONENT_STEPS):
            with torch.no_grad():
                noise = self.noise(draws.x0)
                drawn = self._draw(model, noise, text, weights, scheduler)
            times, noise = self.times(0, TRAIN_STEPS, drawn), self.noise(drawn)
            noisy = scheduler.add_noise(drawn, noise, times)
            real = scheduler.add_noise(draws.x0, self.noise(drawn), times)
            predicted = self.told(self.opponent.network, noisy, times, text, weights)
            loss = (predicted - target_of(scheduler, drawn, noise, times)).square().mean()
            logits = [self.opponent.judge(x, times, text, weights) for x in (real, noisy)]
            self.opponent.learn(loss + REAL_OR_DRAWN[1] * discrimination(*logits), recipe.clip)
            losses += float(loss.detach()) / OPPONENT_STEPS
            sure += sureness(*logits) / OPPONENT_STEPS
        return losses, sure

    @override
    def _loss(self, model: nn.Module, draws: Draws, weights: Tensor, scheduler: Any) -> Tensor:
        text = draws.context
        drawn = self._draw(model, draws.noise, text, weights, scheduler)
        with torch.no_grad():
            times = self.times(*EXTREMES, drawn)
            noisy = scheduler.add_noise(drawn, self.noise(drawn), times)
            ours = self.told(self.opponent.network, noisy, times, text, weights)
            theirs = self._teacher(noisy, times, text, weights)
            fake, real = (clean(scheduler, noisy, v, times) for v in (ours, theirs))
            scale = (drawn - real).abs().flatten(1).mean(1).clamp(min=1e-6)
            goal = drawn - (fake - real) / scale[:, None, None, None]
        moved = 0.5 * (drawn - goal).square().flatten(1).mean(1)
        times = self.times(0, TRAIN_STEPS, drawn)
        seen = scheduler.add_noise(drawn, self.noise(drawn), times)
        fooled = F.softplus(-self.opponent.judge(seen, times, text, weights))
        return moved + REAL_OR_DRAWN[0] * fooled

    def _teacher(self, noisy: Tensor, times: Tensor, text: Tensor, weights: Tensor) -> Tensor:
        # What the trained network predicts under guidance.
        if self.teacher.config.guidance_dim:
            return self.told(self.teacher, noisy, times, text, weights)
        empty = self.empty.to(text).expand_as(text)
        with autocast(noisy.device, self.precision):
            return guided(self.teacher, noisy, times, text, empty, weights).float()


METHODS: dict[str, type[Adversarial]] = {"ufogen": Ufogen, "dmd": Dmd}


def told(
    model: Any,
    x: Tensor,
    times: Tensor,
    text: Tensor,
    weights: Tensor,
    precision: Precision = "fp32",
) -> Tensor:
    """A network's prediction, given the guidance weights where it takes them.

    Each call is an autocast of its own: within one, torch goes on with the weights as it has cast
    them first, though an opponent's have changed since.
    """
    with autocast(x.device, precision):
        v: Tensor = model(x, times, text, *([weights] if model.config.guidance_dim else []))
    return v.float()


def clean(scheduler: Any, x: Tensor, v: Tensor, times: Tensor) -> Tensor:
    """The x₀ that a prediction of v means."""
    alpha, sigma = levels(scheduler, times)
    return alpha * x - sigma * v


def discrimination(real: Tensor, drawn: Tensor) -> Tensor:
    """−log D(real) − log(1 − D(drawn)), the mean of both sums, from logits (B,)."""
    return F.softplus(-real).mean() + F.softplus(drawn).mean()


def sureness(real: Tensor, drawn: Tensor) -> float:
    """Probability that the discriminator gives the truth, on the average: 0.5 where it guesses."""
    return float((real.detach().sigmoid().mean() + (-drawn.detach()).sigmoid().mean()) / 2)
