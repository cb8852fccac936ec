"""Score a candidate: train its proxy, measure it, keep the result under its key."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from filelock import FileLock

from archsearch import files
from archsearch.data.prepare import Prepared
from archsearch.diffusion import evaluate, quantise
from archsearch.diffusion import sample as sampler
from archsearch.diffusion import trainer as trainer_module
from archsearch.diffusion.evaluate import held_out
from archsearch.diffusion.quantise import quantise_for
from archsearch.diffusion.sample import Sampling, sample
from archsearch.diffusion.trainer import CHECKPOINT, DivergedError, train
from archsearch.errors import ArchsearchError
from archsearch.metrics.evaluate import PROMPTS_VERSION, build_metrics, prompts_for
from archsearch.metrics.evaluate import evaluate as evaluate_pictures
from archsearch.metrics.networks import Networks
from archsearch.metrics.registry import METRICS
from archsearch.study.rundir import RunDir
from archsearch.study.setting import Setting
from archsearch.study.spec import MEASURED, QUANTISED, StudySpec
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet

_SCHEMA = 2


def conditions(spec: StudySpec, name: str, steps: int | None = None) -> dict[str, Any]:
    """What score ``name`` depends on beside its training and the networks of its metric, as JSON
    values.

    Args:
        spec: The study.
        name: A score out of ``MEASURED``.
        steps: Steps of the pictures, where these are searched.
    """
    if name in QUANTISED:
        return {"version": quantise.VERSION}
    return {
        "version": METRICS[name].version,
        "sampler": sampler.VERSION,
        "prompts": PROMPTS_VERSION,
        "sampling": spec.sampling.at(steps).model_dump(mode="json"),
        "images": spec.metrics.images,
        "seed": spec.metrics.seed,
    }


def read(
    path: Path,
    spec: StudySpec,
    steps: int | None = None,
    networks: Networks | None = None,
    names: Collection[str] = MEASURED,
) -> dict[str, dict[str, float]]:
    """The stored scores of a training that are what the study would compute now.

    Args:
        path: File of the training's sampled scores.
        spec: The study.
        steps: Steps of the pictures, where these are searched.
        networks: Those of the study's metrics; the scores must be of them. None where they are not
            at hand.
        names: Scores that are asked for.

    Returns:
        For each score its value and companions.

    Raises:
        InputError: A network that a score needs cannot be used.
    """
    found = {}
    for name, record in _records(path).items():
        if (
            name not in names
            or name not in MEASURED
            or record["under"] != conditions(spec, name, steps)
        ):
            continue
        if networks is None or _of_these(name, record["networks"], networks):
            found[name] = record["values"]
    return found


def add(
    path: Path,
    key: str,
    spec: StudySpec,
    steps: int | None,
    networks: Networks,
    scores: dict[str, dict[str, float]],
) -> None:
    """Put scores of the training ``key`` into its file; the others stay. The caller holds the lock."""
    records = _records(path)
    for name, values in scores.items():
        records[name] = {
            "under": conditions(spec, name, steps),
            "networks": _networks(name, networks),
            "values": values,
        }
    files.write_json(path, {"schema": _SCHEMA, "key": key, "scores": records})


def _networks(name: str, networks: Networks) -> dict[str, Any]:
    uses = METRICS[name].uses if name in METRICS else ()
    keys: dict[str, Any] = json.loads(
        json.dumps({use: networks.key(use) for use in uses})
    )  # as it is read again
    return keys


def _of_these(name: str, kept: dict[str, Any] | None, networks: Networks) -> bool:
    if (
        kept is None
    ):  # of schema 1: packages' networks had one version then, what a path meant is not known
        return name not in METRICS or METRICS[name].needs_setting is None
    return kept == _networks(name, networks)


def _records(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    records: dict[str, dict[str, Any]] = (
        content["scores"] if content["schema"] == _SCHEMA else _from_schema_1(content)
    )
    return records


def _from_schema_1(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Records of a file in which all scores lay side by side, under the versions of all metrics."""
    under, scores = content["under"], content["scores"]
    names = [name for name in MEASURED if name in scores]
    versions, metrics = under.get("versions", {}), under.get("metrics", {})
    records: dict[str, dict[str, Any]] = {}
    for name in names:
        values = {label: value for label, value in scores.items() if _owner(label, names) == name}
        if name in QUANTISED:
            its: dict[str, Any] = {"version": versions.get("int8")}
        else:
            its = {
                "version": versions.get(name),
                "sampler": 1,
                "prompts": 1,
                "sampling": under.get("sampling"),
            }
            its |= {"images": metrics.get("images"), "seed": metrics.get("seed")}
        records[name] = {"under": its, "networks": None, "values": values}
    return records


def _owner(label: str, names: Iterable[str]) -> str:
    """Which score a value belongs to: kid_effnet_low is of kid_effnet, not of kid."""
    return max((name for name in names if f"{label}_".startswith(f"{name}_")), key=len, default="")


def measure(
    model: UNet,
    data: Prepared,
    spec: StudySpec,
    names: tuple[str, ...],
    sampling: Sampling,
    device: torch.device,
    networks: Networks,
) -> dict[str, dict[str, float]]:
    """Compute the scores ``names`` of a trained network: each with its companions, under its name.

    Args:
        model: The network, at proxy scale.
        data: What it was trained on.
        spec: The study.
        names: Scores out of ``MEASURED``.
        sampling: Steps and guidance of the pictures, one number of steps.
        device: Where to compute.
        networks: Those of the study's metrics.

    Raises:
        InputError: A metric lacks its file, or the captions allow no recombinations.
    """
    values: dict[str, dict[str, float]] = {}
    recipe = spec.proxy.recipe
    for which in dict.fromkeys(METRICS[name].prompts for name in names if name in METRICS):
        prompts = prompts_for(data, which, spec.metrics.images, spec.search.seed)
        context = (
            data.encode(prompts.captions) if prompts.index is None else data.context[prompts.index]
        )
        pictures = sample(
            model,
            context,
            data.null_context,
            sampling,
            spec.search.seed,
            device,
            data.latent,
            recipe.prediction,
        )
        chosen = [name for name in names if name in METRICS and METRICS[name].prompts == which]
        values |= evaluate_pictures(
            build_metrics(chosen, data, spec.metrics, networks), pictures, prompts.captions
        )
    for name in names:
        if name in QUANTISED:
            values[name] = held_out(
                quantise_for(model, data, recipe, device), data, recipe, device
            ).scores(name)
    return values


def check_sampled(names: Iterable[str], data: Prepared, spec: StudySpec) -> None:
    """Build what sampled scores need of the real pictures, and refuse what would fail: here, not
    after an hour.

    Args:
        names: Scores; those that are not sampled are passed over.
        data: The data.
        spec: The study.

    Raises:
        InputError: A metric lacks its file, or the captions allow no recombinations.
    """
    sampled = [name for name in names if name in METRICS]
    build_metrics(sampled, data, spec.metrics)
    for which in {METRICS[name].prompts for name in sampled}:
        prompts_for(data, which, spec.metrics.images, spec.search.seed)


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
        """Everything that a training's score depends on. ``seed`` counts the repetitions of a
        network from 0.
        """
        recipe = self.setting.spec.proxy.recipe.model_dump(mode="json")
        if self.data.latent.fixed:
            recipe["latent"] = (
                self.data.latent.key
            )  # where it lies does not matter, what it is does
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
        """Train and measure ``proxy``, or answer from the store; a training that was cut off goes
        on from its checkpoint.

        Two workers with one key do not train it twice: the second waits and reads.

        Raises:
            TrainingMemoryError: Memory ran out. Nothing is kept but the checkpoint: with more
                memory it may go on.
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
            trained = train(
                proxy,
                self.data,
                recipe,
                self.seed_of(key),
                self.device,
                progress,
                folder,
                spec.engine.tensorboard,
            )
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
        record = {
            "schema": 1,
            "key": self.key(proxy, seed),
            "outcome": outcome,
            "scores": scores,
            "details": details,
        }
        files.write_json(self.run.scores / f"{key}.json", record)
        return Scored(key, outcome, scores, details, from_store=False)

    @staticmethod
    def keep(model: UNet, path: Path, key: str) -> None:
        """Write the weights of a trained network, with its configuration and the key of its
        training.
        """
        tensors = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
        metadata = {"config": model.config.to_json(), "key": key}
        files.write_bytes(path, safetensors.torch.save(tensors, metadata))

    def load(self, proxy: UNetConfig, key: str) -> UNet:
        """Rebuild a trained proxy from the run's weights; where they are gone, train it again: the
        same key, the same weights.

        Raises:
            ArchsearchError: The weights are of another network, or gone and not to be made again.
        """
        path = self.run.weights / f"{key}.safetensors"
        if not path.is_file():
            if self.digest(proxy) != key:
                raise ArchsearchError(
                    f"{path}: is gone and cannot be made again: data, code or device have "
                    "changed since."
                )
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
            raise ArchsearchError(
                f"{path}: does not hold the weights of network {proxy.digest}: {error}"
            ) from error
        return model.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    @cached_property
    def networks(self) -> Networks:
        """Those of the study's metrics, each loaded when it is first needed, and once."""
        return Networks(self.setting.spec.metrics)

    def stored(
        self, key: str, names: tuple[str, ...], steps: int | None = None
    ) -> dict[str, dict[str, float]]:
        """Those of the scores ``names`` of a training that need not be computed again: each with
        its companions.

        Raises:
            InputError: A network that a score needs cannot be used.
        """
        return read(self.run.sampled(key, steps), self.setting.spec, steps, self.networks, names)

    def sampled(
        self, proxy: UNetConfig, key: str, names: tuple[str, ...], steps: int | None = None
    ) -> dict[str, float]:
        """Scores of the trained proxy that are taken when they are asked for, of its pictures and
        in int8, with their companions.

        Each is kept in the store with what it was computed under, and computed again where that is
        another. ``steps`` is what the trial chose, where steps are searched: it belongs to the key
        of these scores, but not to that of the training.
        """
        spec = self.setting.spec
        with FileLock(self.run.locks / f"sampled-{key}.lock"):
            known = self.stored(key, names, steps)
            if missing := tuple(name for name in names if name not in known):
                found = self.measure(self.load(proxy, key), missing, steps)
                add(self.run.sampled(key, steps), key, spec, steps, self.networks, found)
                known |= found
        return {label: value for name in names for label, value in known[name].items()}

    def measure(
        self, model: UNet, names: tuple[str, ...], steps: int | None = None
    ) -> dict[str, dict[str, float]]:
        """Compute the scores ``names`` of a trained network, each with its companions."""
        spec = self.setting.spec
        return measure(
            model, self.data, spec, names, spec.sampling.at(steps), self.device, self.networks
        )
