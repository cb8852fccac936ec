"""Score a candidate's proxy: train it, measure it, keep the result under its key; an equal key is answered from the store."""

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from filelock import FileLock

from archsearch import files
from archsearch.data.prepare import Prepared
from archsearch.diffusion import evaluate
from archsearch.diffusion import trainer as trainer_module
from archsearch.diffusion.endings import DivergedError
from archsearch.diffusion.train import train
from archsearch.diffusion.trainer import CHECKPOINT
from archsearch.errors import ArchsearchError
from archsearch.metrics.networks import Networks
from archsearch.study import sampled
from archsearch.study.measuring import measure
from archsearch.study.rundir import RunDir
from archsearch.study.setting import Setting
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet

Progress = Callable[[int, float], None]


@dataclass(frozen=True)
class Scored:
    """What is known of a trained proxy."""

    key: str
    outcome: str
    """``complete`` or ``diverged``."""
    scores: dict[str, float]
    details: dict[str, Any]
    """Samples seen, seconds of training and scoring, training loss, whether it was capped."""
    from_store: bool


class Scorer:
    """Scores proxies for one study on one device.

    Raises:
        InputError: The run's scores are of other data than these.
    """

    def __init__(self, run: RunDir, setting: Setting, data: Prepared, device: torch.device) -> None:
        run.keep_data(data.fingerprint)
        self.run = run
        self.setting = setting
        self.data = data
        self.device = device

    def key(self, proxy: UNetConfig, seed: int = 0) -> dict[str, Any]:
        """Everything that a training's score depends on. ``seed`` counts the repetitions of a network from 0."""
        recipe = self.setting.spec.proxy.recipe.model_dump(mode="json")
        if self.data.latent.fixed:
            recipe["latent"] = self.data.latent.key  # where it lies does not matter, what it is does
        return {
            "proxy": proxy.digest,
            "data": self.data.fingerprint,
            "recipe": recipe,
            "seed": [self.setting.spec.search.seed, seed],
            "device": self.device.type,
            "training": trainer_module.VERSION,
            "evaluation": evaluate.VERSION,
        }

    def digest(self, proxy: UNetConfig, seed: int = 0) -> str:
        """The key in 16 hex digits: names its files and seeds its random numbers."""
        text = json.dumps(self.key(proxy, seed), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @staticmethod
    def seed_of(key: str) -> int:
        """Seed of the training that ``key`` names."""
        return int(key[:15], 16)

    def score(self, proxy: UNetConfig, seed: int = 0, progress: Progress | None = None) -> Scored:
        """Train and measure ``proxy``, or answer from the store; a training that was cut off goes on from its checkpoint.

        Two workers with one key do not train it twice: the second waits and reads.

        Raises:
            TrainingMemoryError: Memory ran out. Nothing is kept but the checkpoint: with more memory it may go on.
        """
        key = self.digest(proxy, seed)
        with FileLock(self.run.locks / f"score-{key}.lock"):
            if stored := self._read(key):
                return stored
            return self._train(proxy, key, seed, progress)

    def _read(self, key: str) -> Scored | None:
        path = self.run.scores / f"{key}.json"
        if not path.is_file():
            return None
        record = json.loads(path.read_text(encoding="utf-8"))
        return Scored(key, record["outcome"], record["scores"], record["details"], from_store=True)

    def _train(self, proxy: UNetConfig, key: str, seed: int, progress: Progress | None) -> Scored:
        spec, folder = self.setting.spec, self.run.training(key)
        recipe = spec.proxy.recipe
        scores: dict[str, float] = {}
        details: dict[str, Any]
        try:
            trained = train(proxy, self.data, recipe, self.seed_of(key), self.device, progress, folder, spec.engine.tensorboard)
        except DivergedError as error:
            outcome, details = error.outcome, {"reason": str(error), "last_good": error.last_good}
        else:
            started = time.monotonic()
            scores = evaluate.held_out(trained.model, self.data, recipe, self.device).scores()
            outcome = "complete" if math.isfinite(scores["val_loss"]) else DivergedError.outcome
            details = {
                "samples": trained.samples,
                "train_seconds": round(trained.seconds, 3),
                "scoring_seconds": round(time.monotonic() - started, 3),
                "train_loss": trained.train_loss,
                "capped": trained.capped,
            }
            if outcome == "complete":
                self.keep(trained.model, self.run.weights / f"{key}.safetensors", key)
            else:
                details["reason"] = f"the held-out loss is {scores['val_loss']}"
                scores = {}
            (folder / CHECKPOINT).unlink(missing_ok=True)
        record = {"schema": 1, "key": self.key(proxy, seed), "outcome": outcome, "scores": scores, "details": details}
        files.write_json(self.run.scores / f"{key}.json", record)
        return Scored(key, outcome, scores, details, from_store=False)

    @staticmethod
    def keep(model: UNet, path: Path, key: str) -> None:
        """Write the weights of a trained network, with its configuration and the key of its training."""
        tensors = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
        metadata = {"config": model.config.to_json(), "key": key}
        files.write_bytes(path, safetensors.torch.save(tensors, metadata))

    def load(self, proxy: UNetConfig, key: str) -> UNet:
        """Rebuild a trained proxy from the run's weights; where they are gone, train it again: the same key, the same weights.

        Raises:
            ArchsearchError: The weights are of another network, or gone and not to be made again.
        """
        path = self.run.weights / f"{key}.safetensors"
        if not path.is_file():
            if self.digest(proxy) != key:
                raise ArchsearchError(f"{path}: is gone and cannot be made again: data, code or device have changed since.")
            (self.run.scores / f"{key}.json").unlink(missing_ok=True)
            self.score(proxy)
        return self._load(proxy, path)

    def kept(self, proxy: UNetConfig, path: Path) -> UNet | None:
        """A trained network as ``keep`` wrote it; None where the file is not there.

        Raises:
            ArchsearchError: The weights are of another network.
        """
        return self._load(proxy, path) if path.is_file() else None

    def _load(self, proxy: UNetConfig, path: Path) -> UNet:
        model = UNet(proxy)
        try:
            model.load_state_dict(safetensors.torch.load_file(path))
        except (RuntimeError, safetensors.SafetensorError) as error:
            raise ArchsearchError(f"{path}: does not hold the weights of network {proxy.digest}: {error}") from error
        return model.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    @cached_property
    def networks(self) -> Networks:
        """Those of the study's metrics, each loaded when it is first needed, and once."""
        return Networks(self.setting.spec.metrics)

    def stored(self, key: str, names: tuple[str, ...], steps: int | None = None) -> dict[str, dict[str, float]]:
        """Those of the scores ``names`` of a training that need not be computed again: each with its companions.

        Raises:
            InputError: A network that a score needs cannot be used.
        """
        return sampled.read(self.run.sampled(key, steps), self.setting.spec, steps, self.networks, names)

    def sampled(self, proxy: UNetConfig, key: str, names: tuple[str, ...], steps: int | None = None) -> dict[str, float]:
        """Scores of the trained proxy that are taken when they are asked for, of its pictures and in int8, with their companions.

        Each is kept in the store with what it was computed under, and computed again where that is another. ``steps`` is what the
        trial chose, where steps are searched: it belongs to the key of these scores, but not to that of the training.
        """
        spec = self.setting.spec
        with FileLock(self.run.locks / f"sampled-{key}.lock"):
            known = self.stored(key, names, steps)
            if missing := tuple(name for name in names if name not in known):
                found = self.measure(self.load(proxy, key), missing, steps)
                sampled.add(self.run.sampled(key, steps), key, spec, steps, self.networks, found)
                known |= found
        return {label: value for name in names for label, value in known[name].items()}

    def measure(self, model: UNet, names: tuple[str, ...], steps: int | None = None) -> dict[str, dict[str, float]]:
        """Compute the scores ``names`` of a trained network, each with its companions."""
        spec = self.setting.spec
        return measure(model, self.data, spec, names, spec.sampling.at(steps), self.device, self.networks)
