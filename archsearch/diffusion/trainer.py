"""A training that can stop anywhere and go on exactly: step by step, with checkpoints and a log."""

import csv
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from archsearch import versions
from archsearch.data.prepare import Prepared
from archsearch.diffusion.recipe import (
    Draws,
    Loss,
    denoising_loss,
    draw_times,
    is_out_of_memory,
    make_scheduler,
    memory_format,
    min_snr_weights,
)
from archsearch.diffusion.spec import CHECKPOINT, DIVERGED, Recipe
from archsearch.documents import parse_json
from archsearch.errors import ArchsearchError, InputError, import_package
from archsearch.files import check_regular, in_utf8, write_bytes, write_text
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet

CHECK_EVERY = 10  # steps between two looks at the losses: reading one makes an accelerator wait
CHECKPOINT_SECONDS = 20.0
CHECKPOINT_SHARE = 0.05  # largest share of a training's time that its checkpoints take
CHECKPOINT_SCHEMA = "1"
COLUMNS = ("samples", "loss", "learning_rate", "gradient_norm", "seconds")  # of the log

BETAS = (0.9, 0.999)

Progress = Callable[[int, float], None]


@runtime_checkable
class Learning(Protocol):
    """A loss that learns itself, such as a discriminator: its state is in the checkpoint."""

    def tensors(self) -> dict[str, Tensor]:
        """Its state."""
        ...

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take a state back."""
        ...


class TrainingEndedError(ArchsearchError):
    """A training ended by itself before its budget. ``last_good`` says where its last good state
    lies, if there is one.
    """

    outcome = "failed"

    def __init__(self, message: str, last_good: str | None = None) -> None:
        kept = f"; its last good state is {last_good}" if last_good else ""
        super().__init__(message + kept)
        self.last_good = last_good


class DivergedError(TrainingEndedError):
    """The loss was not a finite number any more."""

    outcome = DIVERGED


class TrainingMemoryError(TrainingEndedError):
    """Memory ran out."""

    outcome = "infeasible: memory"


class Trainer:
    """Trains one network. The same seed gives the same weights on one machine, however often the
    training was stopped in between.

    Args:
        config: Network at proxy scale.
        data: Pictures and text features.
        recipe: Its precision must be resolved. ``recipe.samples`` only decides how the learning
            rate rises and falls; how far to go is said to ``run``.
        seed: Seed of initialisation, order, times, noise and dropout.
        device: Where to train.
        folder: Where checkpoint and log go. A training whose checkpoint lies there goes on, also
            one that began in another folder. None keeps nothing.
        tensorboard: Whether TensorBoard's events are written too.
        loss: What is minimised, as ``denoising_loss`` is called. A checkpoint knows it by its name.
        initial: Weights to begin with; by default random ones.
        module: What is trained in place of a network of its own, in those of its parameters that
            require a gradient. The loss's name must tell what it is.
        betas: Of the optimiser.
        decays: Whether the learning rate falls evenly, to nothing at ``recipe.samples``.

    Attributes:
        model: The network in training.
        step: Steps done.
        seconds: Time that they took, over all sittings.
        losses: Of every step.
        log: The log; None without a folder.

    Raises:
        InputError: The data cannot feed a batch, or the folder holds another training.
    """

    def __init__(
        self,
        config: UNetConfig,
        data: Prepared,
        recipe: Recipe,
        seed: int,
        device: torch.device,
        folder: Path | None = None,
        tensorboard: bool = False,
        loss: Loss = denoising_loss,
        initial: Mapping[str, Tensor] | None = None,
        module: nn.Module | None = None,
        betas: tuple[float, float] = BETAS,
        decays: bool = False,
    ) -> None:
        from diffusers.training_utils import EMAModel

        if len(data.train) < recipe.batch:
            raise InputError(
                f"proxy.batch: {recipe.batch} is more than the {len(data.train)} pictures there "
                "are to train on."
            )
        self.config, self.data, self.recipe = config, data, recipe
        self.seed, self.device, self.loss = seed, device, loss
        torch.manual_seed(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._format = memory_format(device, recipe.channels_last)
        self.model: nn.Module = (UNet(config) if module is None else module).to(
            device, memory_format=self._format
        )  # type: ignore[call-overload]
        self._initial = None if initial is None else digest_of(initial)
        if initial is not None:
            self.model.load_state_dict(initial)
        self._forward = cast(nn.Module, torch.compile(self.model)) if recipe.compile else self.model
        self._betas = betas
        self._optimizer = torch.optim.AdamW(
            trained(self.model),
            lr=recipe.learning_rate,
            betas=betas,
            fused=device.type in ("cpu", "cuda"),
        )
        self._average = EMAModel(trained(self.model), decay=recipe.ema, foreach=True)
        self._scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        self._scheduler = make_scheduler(recipe.prediction)
        self._order = torch.empty(0, dtype=torch.int64)
        self._planned, self._decays = recipe.steps_for(recipe.samples), decays
        self._warmup = max(1, round(recipe.warmup * self._planned))
        self.step, self.seconds = 0, 0.0
        self.losses: list[float] = []
        self._saved_at, self._save_seconds = time.monotonic(), 0.0
        self._checkpoint = folder / CHECKPOINT if folder else None
        if self._checkpoint and self._checkpoint.is_file():
            self._restore(*_read_checkpoint(self._checkpoint, self._identity()))
        self.log = TrainingLog(folder, self.samples, tensorboard) if folder else None

    @property
    def samples(self) -> int:
        """Pictures seen so far."""
        return self.step * self.recipe.batch

    def run(self, samples: int, progress: Progress | None = None) -> bool:
        """Train until ``samples`` pictures were seen, or the recipe's cap on time is met.

        Args:
            samples: Where to stop; beyond ``recipe.samples`` a learning rate that does not fall
                stays as it is.
            progress: Called with samples seen and loss, once in a while.

        Returns:
            Whether it got there.

        Raises:
            DivergedError: The loss is not finite.
            TrainingMemoryError: Memory ran out.
        """
        started = time.monotonic() - self.seconds
        pending: list[tuple[Tensor, Tensor]] = []
        steps = self.recipe.steps_for(samples)
        while self.step < steps:
            try:
                pending.append(self._train_step())
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                raise TrainingMemoryError(
                    f"memory ran out at sample {self.samples}: {error}", self._last_good()
                ) from error
            self.step += 1
            self.seconds = time.monotonic() - started
            done = self.step == steps
            capped = not done and self.seconds > (self.recipe.max_seconds or math.inf)
            if done or capped or self.step % CHECK_EVERY == 1:
                self._look_at(pending)
                pending.clear()
                if progress:
                    progress(self.samples, self.losses[-1])
                pause = max(CHECKPOINT_SECONDS, self._save_seconds / CHECKPOINT_SHARE)
                if time.monotonic() - self._saved_at > pause:
                    self.save()
            if capped:
                return False
        return True

    def averaged(self) -> UNet:
        """A copy of the network with the moving average of its weights, ready to evaluate."""
        model = UNet(self.config).to(self.device, memory_format=self._format)  # type: ignore[call-overload]
        self.average_into(model)
        return model.eval()  # type: ignore[no-any-return]

    def average_into(self, module: nn.Module) -> None:
        """Copy the moving average of the weights into a module like the one in training."""
        self._average.copy_to(trained(module))

    def save(self) -> None:
        """Write the checkpoint atomically, where there is a folder for it.

        Raises:
            ArchsearchError: The file cannot be written.
        """
        if self._checkpoint is None:
            return
        began = time.monotonic()
        tensors = {
            "generator": self._generator.get_state(),
            "order": self._order,
            "losses": torch.tensor(self.losses, dtype=torch.float64),
        }
        if isinstance(self.loss, Learning):
            tensors |= {f"loss.{name}": tensor for name, tensor in self.loss.tensors().items()}
        for name, parameter, average in self._parameters():
            tensors |= {f"model.{name}": parameter, f"average.{name}": average}
            for key, value in self._optimizer.state[parameter].items():
                tensors[f"optimizer.{name}.{key}"] = value
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "average_step": self._average.optimization_step,
            "scaler": self._scaler.state_dict(),
        }
        metadata = {
            "schema": CHECKPOINT_SCHEMA,
            "identity": json.dumps(self._identity(), sort_keys=True),
            "state": json.dumps(state),
        }
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_bytes(self._checkpoint, save(plain, metadata))
        self._saved_at = time.monotonic()
        self._save_seconds = self._saved_at - began

    @torch.no_grad()
    def _restore(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        for name, parameter, average in self._parameters():
            parameter.copy_(tensors[f"model.{name}"])
            average.copy_(tensors[f"average.{name}"])
            steps = tensors.get(f"optimizer.{name}.step")
            if steps is None:  # fp16: saved before the scaler let any step through
                continue
            moments = {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
            for key, moment in moments.items():  # copied into the parameter's own layout
                moment.copy_(tensors[f"optimizer.{name}.{key}"])
            self._optimizer.state[parameter] = {"step": steps.to(parameter.device), **moments}
        if isinstance(self.loss, Learning):
            own = {name: each for name, each in tensors.items() if name.startswith("loss.")}
            self.loss.restore({name.removeprefix("loss."): each for name, each in own.items()})
        self._generator.set_state(tensors["generator"])
        self._order = tensors["order"]
        self.losses = tensors["losses"].tolist()
        self.step, self.seconds = state["step"], state["seconds"]
        self._average.optimization_step = state["average_step"]
        self._scaler.load_state_dict(state["scaler"])

    def _parameters(self) -> list[tuple[str, nn.Parameter, Tensor]]:
        averages = self._average.shadow_params
        named = [pair for pair in self.model.named_parameters() if pair[1].requires_grad]
        return [(*pair, average) for pair, average in zip(named, averages, strict=True)]

    def _identity(self) -> dict[str, Any]:
        # What must not change between two sittings; how far to go and for how long at most may, and
        # so may the folder.
        recipe = {
            name: value
            for name, value in self.recipe.of_key().items()
            if name not in ("max_seconds", "draws")
        }
        if self.data.latent.fixed:
            recipe["latent"] = self.data.latent.key
        identity = {
            "network": self.config.digest,
            "data": self.data.fingerprint,
            "seed": self.seed,
            "device": self.device.type,
            "training": versions.TRAINING,
        }
        if self._initial is not None:
            identity["initial weights"] = self._initial
        if self._decays:
            identity["steps until the learning rate is nothing"] = self._planned
        if self._betas != BETAS:
            identity["betas"] = list(self._betas)
        if self.loss is not denoising_loss:
            identity["loss"] = getattr(self.loss, "__name__", type(self.loss).__name__)
        return identity | {f"recipe.{name}": value for name, value in recipe.items()}

    def _last_good(self) -> str | None:
        return str(self._checkpoint) if self._checkpoint and self._checkpoint.is_file() else None

    def _look_at(self, pending: list[tuple[Tensor, Tensor]]) -> None:
        losses = torch.stack([loss for loss, _ in pending]).tolist()
        norm = float(pending[-1][1])
        for step, loss in enumerate(losses, self.step - len(losses) + 1):
            if not math.isfinite(loss):
                raise DivergedError(
                    f"the training diverged at sample {step * self.recipe.batch}: loss {loss}",
                    self._last_good(),
                )
        # under fp16 the scaler leaves such a step out
        if not math.isfinite(norm) and not self._scaler.is_enabled():
            raise DivergedError(
                f"the training diverged at sample {self.samples}: gradient norm {norm}",
                self._last_good(),
            )
        self.losses += losses
        if self.log:
            self.log.write(
                samples=self.samples,
                loss=sum(losses) / len(losses),
                learning_rate=self._optimizer.param_groups[0]["lr"],
                gradient_norm=norm,
                seconds=self.seconds,
            )

    def _train_step(self) -> tuple[Tensor, Tensor]:
        # Returns loss and norm of the gradient, on the device.
        recipe = self.recipe
        rise, left = (self.step + 1) / self._warmup, 1 - self.step / self._planned
        for group in self._optimizer.param_groups:
            group["lr"] = recipe.learning_rate * min(1.0, rise)
            group["lr"] *= max(0.0, left) if self._decays else 1.0
        self._optimizer.zero_grad(set_to_none=True)
        draws = self._next_draws()
        total = torch.zeros((), device=self.device)
        for part in torch.arange(recipe.batch).tensor_split(recipe.accumulate):
            rows = draws.rows(part).to(self.device)
            losses = self.loss(self._forward, rows, self._scheduler, recipe)
            if recipe.min_snr:
                losses = losses * min_snr_weights(self._scheduler, rows.times, recipe.min_snr)
            loss = losses.sum() / recipe.batch
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        self._scaler.unscale_(self._optimizer)
        norm = torch.nn.utils.clip_grad_norm_(trained(self.model), recipe.clip, foreach=True)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._average.step(trained(self.model))
        return total, norm.detach()

    def _next_draws(self) -> Draws:
        index = self._next_batch()
        x0 = self.data.samples(index)
        context = self.data.context[index].float()
        dropped = torch.rand(len(index), generator=self._generator) < self.recipe.caption_dropout
        context[dropped] = self.data.null_context.float()
        times = draw_times(len(index), self.recipe.times, self._generator)
        return Draws(x0, context, times, torch.randn(x0.shape, generator=self._generator))

    def _next_batch(self) -> Tensor:
        # Every picture comes once before any comes again.
        train, batch = self.data.train, self.recipe.batch
        while len(self._order) < batch:
            again = train[torch.randperm(len(train), generator=self._generator)]
            self._order = torch.cat([self._order, again])
        index, self._order = self._order[:batch], self._order[batch:]
        return index


def trained(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a module that are trained."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def digest_of(state: Mapping[str, Tensor]) -> str:
    """What tells weights from others: 16 hex digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _read_checkpoint(
    path: Path, identity: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        check_regular(path)
        with in_utf8(path) as spelled, safe_open(spelled, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        schema = metadata.get("schema")
        if schema != CHECKPOINT_SCHEMA:
            raise InputError(
                f"{path}: is no checkpoint of schema {CHECKPOINT_SCHEMA}, but of {schema}."
            )
        kept, state = (parse_json(metadata[name], path) for name in ("identity", "state"))
        if not isinstance(kept, dict) or not isinstance(state, dict):
            raise ValueError("identity or state is no object")
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read as a checkpoint: {error}. Remove it to begin anew."
        ) from error
    differing = [
        f"{name} ({kept.get(name)} there, {identity.get(name)} here)"
        for name in sorted(kept.keys() | identity.keys())
        if kept.get(name) != identity.get(name)
    ]
    if differing:
        raise InputError(
            f"{path}: is the checkpoint of another training; these differ: {'; '.join(differing)}."
        )
    return state, tensors


class TrainingLog:
    """Rows of a training by samples seen, appended as they come. When the training is taken up
    again, what lies beyond its checkpoint is cut off.

    Args:
        folder: Where ``log.csv`` and the events go.
        samples: Pictures seen so far: rows up to there are kept.
        tensorboard: Whether events are written too.

    Raises:
        InputError: TensorBoard is asked for but not installed.
    """

    def __init__(self, folder: Path, samples: int = 0, tensorboard: bool = False) -> None:
        self.path, self._writer = folder / "log.csv", None
        if tensorboard:
            library = import_package("torch.utils.tensorboard", "tensorboard", "logs")
            resumed = samples + 1 if samples else None
            self._writer = library.SummaryWriter(str(folder), purge_step=resumed)
        rows = [list(COLUMNS)]
        if samples and self.path.is_file():
            with self.path.open(encoding="utf-8", newline="") as file:
                rows += [row for row in csv.reader(file) if _is_kept(row, samples)]
        write_text(self.path, "".join(f"{','.join(row)}\n" for row in rows))

    def write(self, **values: float) -> None:
        """Append a row with a value for every column."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(",".join(f"{values[name]:.8g}" for name in COLUMNS) + "\n")
        for name in COLUMNS[1:]:
            self.scalar(f"training/{name}", values[name], int(values["samples"]))

    def scalar(self, name: str, value: float, samples: int) -> None:
        """Add a number to the events; nothing where there are none."""
        if self._writer is not None:
            self._writer.add_scalar(name, value, samples)

    def close(self) -> None:
        """Write out what is pending."""
        if self._writer is not None:
            self._writer.close()


def _is_kept(row: list[str], samples: int) -> bool:
    # Whether a row was written to its end, and lies before the checkpoint.
    whole = len(row) == len(COLUMNS) and all(row) and row[0].isdecimal()
    return whole and int(row[0]) <= samples


def steps_in(checkpoint: Path) -> int:
    """Steps of the training that a checkpoint holds; 0 where it cannot be read."""
    try:
        check_regular(checkpoint)
        with in_utf8(checkpoint) as spelled, safe_open(spelled, framework="pt") as file:
            return int(parse_json((file.metadata() or {})["state"], checkpoint)["step"])
    except (OSError, SafetensorError, InputError, LookupError, TypeError, ValueError):
        return 0
