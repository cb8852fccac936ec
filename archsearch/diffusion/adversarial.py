"""One to four steps by a generator that learns against a copy of the network it began as.

``Ufogen`` (Xu et al. 2023, "UFOGen: You forward once large scale text-to-image generation via
diffusion GANs"): the opponent tells real samples from the generator's, both with noise added; the
generator is also drawn to the picture that its input was made of.

``Dmd`` (Yin et al. 2024, "Improved distribution matching distillation for fast image synthesis",
DMD2): the opponent learns to denoise what the generator draws; where its prediction and the trained
network's part tells the generator where to move. It tells real from drawn samples as well.

Both are written from the papers. What these leave open is marked "reconstructed".
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import BaseModel
from torch import Tensor, nn
from typing_extensions import override

from archsearch import documents
from archsearch.data.prepare import Prepared
from archsearch.diffusion.distill import grid, guidance_weights, levels
from archsearch.diffusion.recipe import (
    TRAIN_STEPS,
    Draws,
    autocast,
    make_scheduler,
    memory_format,
    target_of,
)
from archsearch.diffusion.sample import guided
from archsearch.diffusion.spec import Precision, Recipe
from archsearch.diffusion.trained import Trained, save_trained
from archsearch.diffusion.trainer import Trainer, TrainingEndedError, digest_of
from archsearch.errors import InputError
from archsearch.files import write_json
from archsearch.unet.model import UNet

MOST_STEPS = 4
STEPS = (1, 2, 4)
"""Steps that a generator may draw in."""
LAG = TRAIN_STEPS // 4
"""UFOGen: how much less noise the opponent sees than the generator was given."""
RECONSTRUCTION = 1.0
"""UFOGen: weight of the distance to the picture (reconstructed)."""
REAL_OR_DRAWN = (3e-3, 1e-2)
"""DMD2: weight of telling real from drawn samples, in the loss of the generator and of the
opponent."""
OPPONENT_STEPS = 5
"""DMD2: steps of the opponent for one of the generator."""
EXTREMES = (TRAIN_STEPS // 50, TRAIN_STEPS - TRAIN_STEPS // 50)
"""DMD: the times between which both predictions are compared."""
BETAS = (0.0, 0.999)
LOOKS = 16
SATURATED = 0.98
"""A discriminator that is so sure of itself has nothing left to teach."""
LEAST_VARIANCE = 0.1
"""Share of the variance of real pictures below which those that are drawn are one and the same."""
VARIANCE_PICTURES = 64
CURVE = "curve.json"
TRAINING = "training"

Report = Callable[[str, float], None]


class CollapsedError(TrainingEndedError):
    """The generator and its opponent do not teach each other any more."""

    outcome = "collapsed"


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
        self.opponent = Opponent(trained.model, recipe.learning_rate, seed, recipe.precision)
        self._rng = torch.Generator().manual_seed(seed)
        self._calls, self._sums = 0, torch.zeros(4, dtype=torch.float64)

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
        self._calls += 1
        told = [float(loss.detach().mean()), *(taught or (0.0, 0.0)), float(taught is not None)]
        self._sums += torch.tensor(told, dtype=torch.float64)
        return loss

    def _teach(
        self, model: nn.Module, draws: Draws, weights: Tensor, scheduler: Any, recipe: Recipe
    ) -> tuple[float, float] | None:
        # Let the opponent learn: its loss, and how sure it is of real and drawn samples.
        raise NotImplementedError

    def _loss(self, model: nn.Module, draws: Draws, weights: Tensor, scheduler: Any) -> Tensor:
        raise NotImplementedError

    def means(self, calls: int) -> dict[str, float]:
        """Means over the last ``calls`` calls, since this was last asked; of the opponent where it
        has learned in them.
        """
        generator, opponent, sure, taught = self._sums.tolist()
        self._sums.zero_()
        found = {"generator": generator / max(1, calls)}
        if taught:
            found |= {"opponent": opponent / taught, "discriminator": sure / taught}
        return found

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
        self._calls, self._sums = int(tensors["calls"]), tensors["sums"].clone()
        prefix = "opponent."
        theirs = {k: v for k, v in tensors.items() if k.startswith(prefix)}
        self.opponent.restore({k.removeprefix(prefix): v for k, v in theirs.items()})


class Ufogen(Adversarial):
    """UFOGen: x̂₀ of the generator at t is given the noise of t − T/4, as the real picture is, and
    the opponent is to tell both apart; it learns in every second step.

    The distance to the picture is weighed by ᾱ_t, which vanishes where the input tells nothing of
    it (reconstructed). The generator's half is log D(x̂), which does not saturate.
    """

    method = "ufogen"

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
    ) -> tuple[float, float] | None:
        if self._calls % 2:
            return None
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
        return float(loss.detach()), sureness(*logits)

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
    ) -> tuple[float, float] | None:
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


def check_generator(trained: Trained, to: int, method: str) -> None:
    """Refuse what no generator can begin as, or draw in.

    Raises:
        InputError: The network predicts noise, was distilled already, or ``to`` is none of
            ``STEPS``.
    """
    conditions = trained.conditions
    if conditions.prediction != "v":
        raise InputError(
            f"--method {method}: the network predicts noise; only one that predicts v can begin a "
            "generator (train it with --set proxy.prediction=v)."
        )
    if conditions.steps is not None:
        raise InputError(
            f"--method {method}: the network was distilled to {conditions.steps} steps; give the "
            "one that it came from, which draws in any number, or the rounds/guidance of its "
            "distillation."
        )
    if to not in STEPS:
        raise InputError(
            f"--to: {to}, but a generator draws in {', '.join(map(str, STEPS))} steps."
        )


def generator_weights(
    trained: Trained, asked: tuple[float, float] | None, method: str
) -> tuple[float, float]:
    """The guidance weights of what a generator learns to draw.

    Raises:
        InputError: They are not what network and method allow.
    """
    own = trained.conditions.guidance
    if own is not None and asked in (None, own):
        return own
    if own is not None:
        raise InputError(
            f"--guidance: the network gives {own[0]:g} to {own[1]:g}, and its generator no other "
            "weights; leave --guidance out."
        )
    if method == Ufogen.method:
        if asked is not None:
            raise InputError(
                "--guidance: ufogen learns from pictures alone, without guidance; leave --guidance "
                "out, or begin from the rounds/guidance of a progressive distillation."
            )
        return 1.0, 1.0
    asked = asked or (3.0, 3.0)
    if asked[0] != asked[1] or not 1 <= asked[0] <= 30:
        raise InputError(
            f"--guidance: {asked[0]:g} {asked[1]:g}, but a network that does not take the guidance "
            "weight learns one, from 1 to 30: give it twice, such as 3 3."
        )
    return asked


def adversarial(
    trained: Trained,
    data: Prepared,
    recipe: Recipe,
    folder: Path,
    method: str,
    to: int,
    weights: tuple[float, float],
    seed: int,
    device: torch.device,
    report: Report,
) -> list[dict[str, Any]]:
    """Train a generator, or go on where an earlier call stopped. ``folder`` holds the last good one
    as a trained network, ``curve.json`` in it how both have learned.

    Args:
        trained: What it begins as.
        data: What that learned from.
        recipe: How it is trained.
        folder: Where everything goes.
        method: ``ufogen`` or ``dmd``.
        to: Steps that it is to draw in.
        weights: Guidance weights of what it learns to draw.
        seed: Of the training.
        device: Where to train.
        report: Told how far it is.

    Returns:
        A row a look: pictures seen, ``generator`` and ``opponent``, their losses, how sure the
        ``discriminator`` is, and the ``variance`` of what is drawn, as a share of real pictures'.

    Raises:
        CollapsedError: The discriminator is sure of everything, or all pictures look alike.
        TrainingEndedError: The training diverged, or memory ran out.
    """
    if recipe.precision == "fp16":  # whose scaler knows of one optimiser only
        recipe = recipe.model_copy(update={"precision": "fp32"})
    loss = METHODS[method](trained, recipe, data.null_context, to, weights, seed)
    state = trained.model.state_dict()
    trainer = Trainer(
        trained.model.config,
        data,
        recipe,
        seed,
        device,
        folder / TRAINING,
        loss=loss,
        initial=state,
        betas=BETAS,
    )
    update = {"steps": to, "guidance": weights, "sampler": "renoise"}
    conditions = trained.conditions.model_copy(update=update)
    kept = folder / CURVE
    curve: list[dict[str, Any]] = read_curve(folder)
    if not (curve and "collapsed" in curve[-1]):
        curve = [row for row in curve if row["samples"] <= trainer.samples]
    for look in range(1, LOOKS + 1):
        goal = round(recipe.samples * look / LOOKS)
        if curve and recipe.steps_for(goal) * recipe.batch <= curve[-1]["samples"]:
            continue
        if curve and "collapsed" in curve[-1]:
            break
        before = curve[-1]["samples"] // recipe.batch if curve else 0
        trainer.run(
            goal,
            lambda seen, at: report(f"{method}: loss {at:.3f}", min(1.0, seen / recipe.samples)),
        )
        model = trainer.averaged()
        row = {**(curve[-1] if curve else {}), **loss.means(trainer.step - before)}
        row["samples"] = trainer.samples
        row["variance"] = variance_share(model, data, weights, to, device)
        why = collapsed(row, curve)
        curve.append(row | ({"collapsed": why} if why else {}))
        write_json(kept, {"schema": 1, "method": method, "curve": curve})
        if why is None:
            save_trained(folder, model, conditions, row)
            trainer.save()
    if (last := curve[-1]).get("collapsed"):
        good = str(folder) if len(curve) > 1 else None
        raise CollapsedError(
            f"the training collapsed at sample {last['samples']}: {last['collapsed']}", good
        )
    return curve


def read_curve(folder: Path) -> list[dict[str, Any]]:
    """How both networks have learned so far.

    Raises:
        InputError: The file is damaged.
    """
    if not (folder / CURVE).is_file():
        return []
    return list(documents.validate(documents.read(folder / CURVE), _Curve).curve)


class _Curve(BaseModel):
    curve: list[dict[str, Any]]


def collapsed(row: dict[str, Any], earlier: list[dict[str, Any]]) -> str | None:
    """Why a look finds that nothing more is learned, if it does. A generator begins as a network
    that draws one mean picture of noise alone: only what has varied can stop to.
    """
    if row.get("discriminator", 0.0) > SATURATED:  # it may not have learned yet
        return (
            f"the discriminator is right with a probability of {row['discriminator']:.3f}, and "
            "teaches nothing any more"
        )
    varied = max((each["variance"] for each in earlier), default=0.0) >= LEAST_VARIANCE
    if varied and not row["variance"] >= LEAST_VARIANCE:
        return (
            f"what is drawn varies {row['variance']:.3f} times as much as real pictures do: they "
            "all look alike"
        )
    return None


@torch.no_grad()
def variance_share(
    model: UNet, data: Prepared, weights: tuple[float, float], steps: int, device: torch.device
) -> float:
    """Variance of drawn samples over that of real ones: over samples, the mean of all positions;
    from fixed noise and held-out captions, in the first of ``steps``.
    """
    rows = data.held_out[:VARIANCE_PICTURES]
    x0, text = data.samples(rows).to(device), data.context[rows].float().to(device)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(x0.shape, generator=generator).to(device)
    times = torch.full((len(x0),), int(grid(steps)[-1]), device=device)
    middle = torch.full((len(x0),), sum(weights) / 2, device=device)
    drawn = clean(make_scheduler(), noise, told(model, noise, times, text, middle), times)
    return float(drawn.var(0).mean() / x0.var(0).mean())
