"""A study made ready: its file read, its space, tables and data found, everything a worker needs."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from archsearch import catalog, documents
from archsearch.catalog import load_architecture
from archsearch.cost.price import price
from archsearch.data.latent import BUILT_IN, latent_space
from archsearch.data.pictures import check_source
from archsearch.data.text import MiniLM, context_dim, text_encoder
from archsearch.diffusion import evaluate, quantise, sample, trainer
from archsearch.diffusion.recipe import pick_device
from archsearch.errors import InputError, nearest
from archsearch.files import expanded
from archsearch.latency.parts import Role
from archsearch.latency.predict import (
    AnyTable,
    MissingEntryError,
    OnMissing,
    Prediction,
    load_table,
    predict,
)
from archsearch.latency.table import PublishedTable
from archsearch.metrics.evaluate import PROMPTS_VERSION
from archsearch.metrics.registry import METRICS, check_settings
from archsearch.search_space.proxy import proxy_config
from archsearch.search_space.space import InvalidPointError, Point, Space, load_space
from archsearch.study.spec import Deployment, Pipeline, StudySpec, device_of, of_device, score_of
from archsearch.unet.config import UNetConfig
from archsearch.unet.plan import Plan, plan
from archsearch.unet.presets import PRESETS

_PATTERN = "*?[{"


def resolve_data(document: documents.Document, spec: StudySpec) -> StudySpec:
    """Make the paths of the data absolute. Nothing is opened, nor asked of the hub: a run can be
    looked at without its models.

    A path is looked for beside the study's file, then in the working folder; what is in neither is
    left as it is, an id perhaps.
    """
    near = document.path.parent
    found = {key: _found(getattr(spec.data, key), near) for key in ("path", "images")}
    text, latent = spec.data.text, spec.proxy.latent
    data = spec.data.model_copy(
        update=found | {"text": text if text == MiniLM.name else _found(text, near)}
    )
    proxy = spec.proxy.model_copy(
        update={"latent": latent if latent in BUILT_IN else _found(latent, near)}
    )
    return spec.model_copy(update={"data": data, "proxy": proxy})


def check_data(document: documents.Document, spec: StudySpec) -> None:
    """Refuse keys of the data that do not fit together: from the models' configurations, before
    anything is loaded.

    Raises:
        InputError: A source, encoder or latent space is not known or not there, or the sizes do not
            fit together.
    """
    data, proxy = spec.data, spec.proxy
    with located(document):
        check_source(data)
        longest = text_encoder(data.text).max_tokens
        if data.tokens > longest:
            raise InputError(
                f"data.tokens: {data.tokens} is more than the {longest} tokens that data.text "
                f"({data.text}) takes."
            )
        space = latent_space(proxy.latent)
        if proxy.sample_size * space.factor != data.size:
            raise InputError(
                f"proxy.sample_size ({proxy.sample_size}) must be data.size ({data.size}) "
                f"divided by {space.factor}, "
                f"the factor of proxy.latent ({space.name})."
            )


def check_data_files(document: documents.Document, spec: StudySpec) -> None:
    """Refuse a study whose data do not fit together or are not there. Looking at its results needs
    none.

    Raises:
        InputError: The key, and the folder or file where there is one, are named.
    """
    check_data(document, spec)
    with located(document):
        for source in check_source(spec.data).values():
            source.versions()
            source.state(spec.data)


def _found(name: str | None, near: Path) -> str | None:
    """An absolute path if there is such a file, folder or, for a pattern, the folder it lies in;
    else the name itself.
    """
    if name is None:
        return None
    given = expanded(name)
    for candidate in (near / given, given):
        there = (
            candidate.parent.is_dir()
            if any(sign in candidate.name for sign in _PATTERN)
            else candidate.exists()
        )
        if there:
            return str(candidate.resolve())
    return name


@contextmanager
def located(document: documents.Document) -> Iterator[None]:
    """Put file and line before a message that begins with a key of the data: ``data.path: …``."""
    try:
        yield
    except InputError as error:
        key = tuple(str(error).partition(":")[0].partition(" ")[0].split("."))
        raise (
            InputError(f"{document.where(key)}: {error}") if key[0] in ("data", "proxy") else error
        ) from error


ResultT = TypeVar("ResultT")

PUBLISHED_PARTS: dict[Role, str] = {"text_encoder": "text-encoder", "decoder": "decoder"}
"""What published tables call a part: they have one of each role, their own."""


class OutsideFamilyError(InputError):
    """A published table says nothing of a network: it is of another family."""


@dataclass(frozen=True)
class Device:
    """A latency table of the study, and the name its device goes by."""

    name: str
    table: AnyTable
    path: Path
    reference: Prediction | None = None
    """Latency of the reference network."""
    parts_ms: float | None = None
    """What the pipeline takes beside the UNet: text encoder and decoder, once each."""

    def predict(self, network: Plan, on_missing: OnMissing) -> Prediction:
        """Predict the latency of a network.

        Raises:
            MissingEntryError: The table lacks units of it.
            OutsideFamilyError: The table is a published one, of another family.
        """
        try:
            return predict(network, self.table, on_missing)
        except MissingEntryError:
            raise
        except InputError as error:
            raise OutsideFamilyError(str(error)) from error


def distinct(names: Iterable[str]) -> list[str]:
    """The names in order; one that was there before gets a number: ``a, b, a`` becomes ``a, b,
    a-2``.
    """
    found: list[str] = []
    for name in names:
        number, candidate = 1, name
        while candidate in found:
            number += 1
            candidate = f"{name}-{number}"
        found.append(candidate)
    return found


def load_devices(
    document: documents.Document, spec: StudySpec, reference: UNetConfig | None
) -> tuple[Device, ...]:
    """Read the tables of a study and check them against it.

    Args:
        document: The study's file: messages name its lines, and tables are looked for beside it.
        spec: What it says.
        reference: The network of ``deployment.reference``.

    Raises:
        InputError: A table is missing, damaged, of another device than the study names, lacks a
            part of the pipeline or says nothing of the reference; or a score is of a device that is
            not there.
    """
    found = [
        _load(document, index, *named) for index, named in enumerate(spec.deployment.named_tables)
    ]
    names = distinct(name or table.name for name, table, _ in found)
    devices = []
    for name, (_, table, path) in zip(names, found, strict=True):
        latency = (
            None
            if reference is None
            else _of_reference(document, spec.deployment, table, path, reference)
        )
        devices.append(
            Device(name, table, path, latency, _parts_ms(document, spec.deployment, table, path))
        )
    _check_names(document, spec, names)
    return tuple(devices)


def load_reference(document: documents.Document, deployment: Deployment) -> UNetConfig | None:
    """Read the architecture that ``latency_ratio`` compares with, if the study names one.

    Raises:
        InputError: It is none.
    """
    if deployment.reference is None:
        return None
    return _at(
        document,
        ("deployment", "reference"),
        lambda: load_architecture(str(deployment.reference), document.path).config,
    )


def _load(
    document: documents.Document, index: int, device: str | None, given: str
) -> tuple[str | None, AnyTable, Path]:
    key: documents.Key = ("deployment", "tables", index if device is None else device)
    path = _at(document, key, lambda: catalog.find("table", given, document.path))
    table = load_table(path)
    if device is not None and table.device != device:
        raise InputError(
            f"{document.where(key)}: {documents.dotted(key)}: {path} is a table of another "
            "device than the study names: "
            f"of '{table.device}', but got it under '{device}'."
        )
    return device, table, path


def _of_reference(
    document: documents.Document,
    deployment: Deployment,
    table: AnyTable,
    path: Path,
    reference: UNetConfig,
) -> Prediction:
    key = ("deployment", "reference")
    return _at(
        document,
        key,
        lambda: predict(plan(reference), table, deployment.on_missing),
        f"{deployment.reference} in {path}: ",
    )


def _parts_ms(
    document: documents.Document, deployment: Deployment, table: AnyTable, path: Path
) -> float | None:
    parts = deployment.pipeline.parts if deployment.pipeline else {}
    if not parts:
        return None
    published = isinstance(table, PublishedTable)
    known = {line.part: line.p50 for line in table.parts}
    total = 0.0
    for role, given in parts.items():
        part = PUBLISHED_PARTS[role] if published else given
        if part not in known:
            key = ("deployment", "pipeline", role)
            there = f"it has {', '.join(known)}" if known else "it has none"
            cure = (
                f" Measure it with: archsearch latency measure --part {given}"
                if not published
                else ""
            )
            raise InputError(
                f"{document.where(key)}: {documents.dotted(key)}: table {path} has no part "
                f"'{part}', {there}.{cure}"
            )
        total += known[part]
    return total


def _check_names(document: documents.Document, spec: StudySpec, names: list[str]) -> None:
    for section, scores in (
        ("objectives", spec.objectives),
        ("limits", spec.limits),
        ("report", spec.report),
    ):
        for score in scores:
            device = device_of(score)
            if device is not None and device not in names:
                allowed = ", ".join(of_device(name) for name in names)
                raise InputError(
                    f"{document.where((section, score))}: {section}: '{score}' is of no table "
                    "of the study."
                    f"{nearest(device, names)} Allowed are: {allowed}."
                )


def _at(
    document: documents.Document, key: documents.Key, work: Callable[[], ResultT], what: str = ""
) -> ResultT:
    """Do ``work``; what it complains of is said to be at ``key``."""
    try:
        return work()
    except InputError as error:
        raise InputError(
            f"{document.where(key)}: {documents.dotted(key)}: {what}{error}"
        ) from error


@dataclass(frozen=True)
class Costs:
    """Scores of a candidate that need no training."""

    scores: dict[str, float]
    note: str = ""
    """What has to be said of the latencies, by device: ``phone: published estimate; laptop: 3 of
    its units estimated``.
    """


def costs_of(
    config: UNetConfig, spec: StudySpec, devices: Sequence[Device], steps: int | None = None
) -> Costs:
    """Count and predict.

    Args:
        config: The candidate, at deployment scale.
        spec: The study.
        devices: Its devices.
        steps: Steps a picture takes; by default as ``deployment.pipeline`` says.

    Raises:
        MissingEntryError: A table lacks one of its units; the message names them.
        OutsideFamilyError: A published table says nothing of networks of this family.
    """
    network = plan(config)
    counted = price(network)
    scores: dict[str, float] = {
        "params": counted.params,
        "macs": counted.macs,
        "peak_activation_bytes": counted.peak_activation_bytes,
    }
    if not devices:
        return Costs(scores)
    found = {device.name: device.predict(network, spec.deployment.on_missing) for device in devices}
    each = {name: prediction.latency_ms for name, prediction in found.items()}
    scores["latency_ms"] = max(each.values())
    # One table's own score says again what latency_ms says: it is there where it is asked for.
    scores |= {
        of_device(name): ms
        for name, ms in each.items()
        if len(each) > 1 or of_device(name) in spec.used
    }
    marks = [(name, prediction.mark) for name, prediction in found.items()]
    references = {device.name: device.reference for device in devices if device.reference}
    if references:
        scores["latency_ratio"] = max(
            each[name] / reference.latency_ms for name, reference in references.items()
        )
        marks += [(f"{name}, reference", reference.mark) for name, reference in references.items()]
    if spec.deployment.pipeline:
        scores |= _pipeline(spec.deployment.pipeline, devices, each, steps)
    return Costs(scores, "; ".join(f"{name}: {mark}" for name, mark in marks if mark))


def _pipeline(
    pipeline: Pipeline, devices: Sequence[Device], each: dict[str, float], steps: int | None
) -> dict[str, float]:
    """From prompt to picture, on the slowest device: text encoder + steps x passes x UNet +
    decoder.
    """
    passes = (pipeline.steps if steps is None else steps) * pipeline.passes_a_step
    scores = {"pipeline_unet_ms": passes * max(each.values())}
    whole = [
        device.parts_ms + passes * each[device.name]
        for device in devices
        if device.parts_ms is not None
    ]
    return scores | ({"pipeline_ms": max(whole)} if whole else {})


def versions(spec: StudySpec) -> dict[str, int]:
    """Version of each part of archsearch, or of another package's metric, that an objective of
    quality rests on.
    """
    found: dict[str, int] = {}
    for name in spec.objectives:
        match score_of(name).source:
            case "trained":
                found |= {"training": trainer.VERSION, "the held-out loss": evaluate.VERSION}
            case "quantised":
                found |= {
                    "training": trainer.VERSION,
                    "the held-out loss": evaluate.VERSION,
                    name: quantise.VERSION,
                }
            case "sampled":
                found |= {
                    "training": trainer.VERSION,
                    "sampling": sample.VERSION,
                    "prompts": PROMPTS_VERSION,
                }
                found[name] = METRICS[name].version
    return found


MAX_STARTS = 300
STEPS_PARAMETER = "sampling.steps"
"""Name under which Optuna and the tables of a run know the number of steps, where it is searched.
"""


@dataclass(frozen=True)
class Setting:
    """A study with its space and tables."""

    name: str
    spec: StudySpec
    space: Space
    space_path: Path
    devices: tuple[Device, ...] = ()
    reference: UNetConfig | None = None
    """What ``latency_ratio`` compares with."""
    document: documents.Document = field(
        default_factory=lambda: documents.Document(Path("study"), {}), compare=False
    )
    """The file it was read from, so that a message can say the line."""
    proxy_ends: tuple[int, int] | None = None
    """What ``read_proxy_ends`` said when a run began, where this is the setting of a run: it needs
    no models any more.
    """

    def priced(self, config: UNetConfig, steps: int | None = None) -> Costs:
        """Counted and predicted scores of a candidate, at deployment scale, and what has to be said
        of them.

        Args:
            config: The candidate.
            steps: Steps that its trial takes for a picture, where these are searched.

        Raises:
            MissingEntryError: A table lacks one of its units; the message names them.
            OutsideFamilyError: A published table says nothing of networks of this family.
        """
        return costs_of(config, self.spec, self.devices, steps)

    def costs(self, config: UNetConfig, steps: int | None = None) -> dict[str, float]:
        """The scores of ``priced`` alone."""
        return self.priced(config, steps).scores

    def broken_limits(self, costs: dict[str, float]) -> list[str]:
        """The limits that ``costs`` break, each as a phrase."""
        limits = self.spec.limits
        return [
            f"{name} {costs[name]:,.6g} > {limit:,.6g}"
            for name, limit in limits.items()
            if costs[name] > limit
        ]

    def presets(self) -> dict[str, Point]:
        """The presets that lie in the space, and where."""
        located = {name: self.space.locate(make()) for name, make in PRESETS.items()}
        return {name: point for name, point in located.items() if point is not None}

    def cheapest(self) -> Point:
        """The cheapest architecture of the space: downhill from its base, one dimension at a time.

        Cheap by the first objective that is a cost, by parameters where there is none. Exact where
        the dimensions do not work against each other.

        Raises:
            InputError: No valid point to begin at was found, or none that every table says
                something of.
        """
        axis = next(
            (
                name
                for name in self.spec.objectives
                if score_of(name).source in ("counted", "predicted")
            ),
            "params",
        )
        steps = min(self.spec.sampling.searched, default=None)
        point, cost = self._start(axis, steps)
        improved = True
        while improved:
            improved = False
            for neighbour in self.space.neighbours(point):
                try:
                    found = self.costs(self.space.build(neighbour), steps)[axis]
                except (InvalidPointError, MissingEntryError, OutsideFamilyError):
                    continue
                if found < cost:
                    point, cost, improved = neighbour, found, True
                    break
        return point

    def _start(self, axis: str, steps: int | None) -> tuple[Point, float]:
        """A point whose cost is known: the base, or else a random one."""
        rng = random.Random(self.spec.search.seed)
        point = self.space.locate(self.space.base) or self.space.sample_valid(rng)[0]
        for _ in range(MAX_STARTS):
            try:
                return point, self.costs(self.space.build(point), steps)[axis]
            except OutsideFamilyError:
                point = self.space.sample_valid(rng)[0]
        raise InputError(
            f"space '{self.space.name}': the published table says nothing of {MAX_STARTS} "
            "random architectures of it."
        )

    def proxy(self, config: UNetConfig) -> UNetConfig:
        """The network that is trained for the candidate.

        Raises:
            InputError: Its resolution does not suit the stages, or, outside a run, latent space or
                text encoder is not there.
        """
        channels, width = self.proxy_ends or self.read_proxy_ends()
        return proxy_config(config, self.spec.proxy.shape, channels, width, self.spec.data.tokens)

    def read_proxy_ends(self) -> tuple[int, int]:
        """Channels of the proxy's sample and width of its context, as latent space and text encoder
        have them.

        Raises:
            InputError: One of these is not there.
        """
        return latent_space(self.spec.proxy.latent).channels, context_dim(self.spec.data.text)


def load_setting(path: Path, overrides: list[str] | None = None) -> Setting:
    """Read a study file and everything it names but its data, which :func:`check_metric_files`
    looks at.

    Raises:
        InputError: Something is missing or wrong; the message has file, line, key and what is
            allowed.
    """
    document = documents.override(documents.read(path), overrides or [])
    spec = resolve_data(document, documents.validate(document, StudySpec))
    if spec.metrics.inception is not None:  # relative to the file that names it
        inception = (path.parent / expanded(spec.metrics.inception)).resolve()
        given = expanded(spec.metrics.inception).resolve()
        found = given if given.is_file() else inception
        spec = spec.model_copy(
            update={"metrics": spec.metrics.model_copy(update={"inception": found})}
        )
    try:
        space = load_space(spec.space, path)
        space_path = catalog.find("space", spec.space, path)
    except InputError as error:
        raise InputError(f"{document.where(('space',))}: space: {error}") from error
    if STEPS_PARAMETER in space.dimensions and spec.sampling.searched:
        raise InputError(
            f"{space_path}: dimensions: '{STEPS_PARAMETER}' is the name of the study's own; "
            "choose another."
        )
    reference = load_reference(document, spec.deployment)
    devices = load_devices(document, spec, reference)
    _check_metric_files(document, spec)
    resolved = spec.proxy.model_copy(
        update={"precision": spec.proxy.recipe.resolved(pick_device()).precision}
    )
    return Setting(
        path.stem,
        spec.model_copy(update={"proxy": resolved}),
        space,
        space_path,
        devices,
        reference,
        document,
    )


def _check_metric_files(document: documents.Document, spec: StudySpec) -> None:
    """A metric that needs a file of the user's is refused here, not after an hour."""
    for section, names in (("objectives", spec.objectives), ("report", spec.report)):
        for name in names:
            if name in METRICS:
                check_settings(name, spec.metrics, at=f"{document.where((section,))}: {section}")


def check_metric_files(setting: Setting) -> None:
    """Refuse a study whose data or metrics need files that are not there. Looking at its results
    needs none.

    Raises:
        InputError: The file is named.
    """
    check_data_files(setting.document, setting.spec)
    inception = setting.spec.metrics.inception
    if inception is not None and not inception.is_file():
        raise InputError(f"metrics.inception: {inception}: no such file.")
