"""A study made ready: its file read, everything it names found, its candidates priced."""

import random
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from archsearch import catalog, documents, versions
from archsearch.catalog import load_architecture
from archsearch.cost.price import price
from archsearch.data.spec import BUILT_IN_LATENTS, MINILM
from archsearch.errors import ArchsearchError, InputError, nearest
from archsearch.files import expanded, printable
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
from archsearch.metrics.registry import METRICS, check_settings
from archsearch.metrics.spec import MetricSettings
from archsearch.search_space.proxy import proxy_config
from archsearch.search_space.space import InvalidPointError, Point, Space, load_space
from archsearch.study.parents import find_parent, shipped_parents
from archsearch.study.spec import StudySpec, cost_axis, device_of, of_device, score_of
from archsearch.study.storage import Database
from archsearch.unet.config import UNetConfig
from archsearch.unet.plan import Plan, plan
from archsearch.unet.presets import PRESETS

STEPS = "sampling.steps"
"""The dimension that a study adds to its space where it searches the number of sampling steps."""
MAX_STARTS = 300

ResultT = TypeVar("ResultT")


class InfeasibleError(ArchsearchError):
    """A point of the space that is not to be trained: a rule or a limit is broken, or its latency
    is not known. ``outcome`` is the name of a trial that ends so.
    """

    def __init__(
        self,
        outcome: str,
        reason: str,
        broken: Sequence[str] = (),
        network: UNetConfig | None = None,
        costs: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(reason)
        self.outcome = f"infeasible: {outcome}"
        self.broken = broken
        """What is broken: a rule, limits, the family of a published table."""
        self.network = network
        """The architecture, where there is one."""
        self.costs = costs or {}
        """What it costs, where that is known."""


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


@dataclass(frozen=True)
class Costs:
    """Scores of a candidate that need no training, at deployment scale."""

    scores: dict[str, float]
    provenance: dict[str, str] = field(default_factory=dict)
    """By device: what its figures rest on, where that is not measured units alone."""

    @property
    def note(self) -> str:
        """The provenance in words: ``phone: published estimate; laptop: 3 of its units
        estimated``.
        """
        return "; ".join(f"{device}: {mark}" for device, mark in self.provenance.items())


@dataclass(frozen=True)
class Candidate:
    """A point of the space with its architecture and what that costs."""

    point: Point
    network: UNetConfig
    costs: Costs

    @property
    def steps(self) -> int | None:
        """Steps of its pictures, where the study searches them."""
        return self.point.get(STEPS)


@dataclass(frozen=True)
class Setting:
    """A study with its space and tables."""

    name: str
    spec: StudySpec
    space: Space
    """What is searched: the space of the study, and the number of steps where it is searched."""
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

    def candidate(self, point: Point) -> Candidate:
        """Build and price a point, and hold it against the limits.

        Raises:
            InfeasibleError: It is not to be trained.
        """
        try:
            network = self.space.build(point)
        except InvalidPointError as error:
            raise InfeasibleError("rules", str(error), (str(error),)) from error
        try:
            costs = self.priced(network, point.get(STEPS))
        except MissingEntryError as error:
            raise InfeasibleError("latency entry missing", str(error), (), network) from error
        except OutsideFamilyError as error:
            raise InfeasibleError(
                "outside the published family",
                str(error),
                ("the family of a published table",),
                network,
            ) from error
        broken = {
            name: f"{name} {costs.scores[name]:,.6g} {words}"
            for name, limit in self.spec.limits.items()
            if (words := limit.broken(costs.scores[name]))
        }
        if broken:
            raise InfeasibleError(
                "limits",
                "; ".join(broken.values()),
                [f"limits.{name}" for name in broken],
                network,
                costs.scores,
            )
        return Candidate(point, network, costs)

    def priced(self, network: UNetConfig, steps: int | None = None) -> Costs:
        """Count the scores of a network that need no training, and predict its latencies.

        Args:
            network: The network, at deployment scale.
            steps: Steps a picture takes; by default as ``deployment.pipeline`` says.

        Raises:
            MissingEntryError: A table lacks one of its units; the message names them.
            OutsideFamilyError: A published table says nothing of networks of this family.
        """
        deployment, resolved = self.spec.deployment, plan(network)
        counted = price(resolved)
        scores: dict[str, float] = {
            "params": counted.params,
            "macs": counted.macs,
            "peak_activation_bytes": counted.peak_activation_bytes,
        }
        if not self.devices:
            return Costs(scores)
        found = {d.name: d.predict(resolved, deployment.on_missing) for d in self.devices}
        each = {name: prediction.latency_ms for name, prediction in found.items()}
        scores["latency_ms"] = max(each.values())
        # One table's own score says again what latency_ms says: it is there where it is asked for.
        scores |= {
            of_device(name): ms
            for name, ms in each.items()
            if len(each) > 1 or of_device(name) in self.spec.used
        }
        marks = {name: prediction.mark for name, prediction in found.items()}
        references = {d.name: d.reference for d in self.devices if d.reference}
        if references:
            scores["latency_ratio"] = max(
                each[name] / reference.latency_ms for name, reference in references.items()
            )
            marks |= {f"{name}, reference": r.mark for name, r in references.items()}
        if pipeline := deployment.pipeline:
            passes = (pipeline.steps if steps is None else steps) * pipeline.passes_a_step
            scores |= self.pipeline_latency(each, passes)
        return Costs(scores, {name: mark for name, mark in marks.items() if mark})

    def pipeline_latency(self, each: Mapping[str, float], passes: int) -> dict[str, float]:
        """Latency of a picture on the slowest device: of so many passes of the UNet
        (``pipeline_unet_ms``) and, where the study names text encoder and decoder, from prompt to
        picture (``pipeline_ms``).

        Args:
            each: Milliseconds of one pass, by device.
            passes: Of the UNet.
        """
        whole = [d.parts_ms + passes * each[d.name] for d in self.devices if d.parts_ms is not None]
        found = {"pipeline_unet_ms": passes * max(each.values())}
        return found | ({"pipeline_ms": max(whole)} if whole else {})

    def presets(self) -> dict[str, Point]:
        """The presets that lie in the space, and where; where the number of steps is searched, with
        each of them: the preset is what the others are compared with, and all share one training.
        """
        found: dict[str, Point] = {}
        for name, make in PRESETS.items():
            if (point := self.space.locate(make())) is None:
                continue
            if not self.spec.sampling.searched:
                found[name] = point
            for n in self.spec.sampling.searched:
                found[f"{name}, {n} step{'' if n == 1 else 's'}"] = {**point, STEPS: n}
        return found

    def cheapest(self) -> Point:
        """The cheapest architecture of the space: downhill from its base, one dimension at a time.

        Cheap by the first objective that is a cost, by parameters where there is none. Exact where
        the dimensions do not work against each other.

        Raises:
            InputError: No valid point to begin at was found, or none that every table says
                something of.
        """
        axis = cost_axis(self.spec.objectives) or "params"
        rng = random.Random(self.spec.search.seed)
        fewest = {STEPS: min(searched)} if (searched := self.spec.sampling.searched) else {}
        start = self.space.locate(self.space.base)

        def cost_of(point: Point) -> float:
            return self.priced(self.space.build(point), point.get(STEPS)).scores[axis]

        for _ in range(MAX_STARTS):
            point = {**(start or self.space.draw_valid(rng)[0]), **fewest}
            start = None
            with suppress(OutsideFamilyError):
                cost = cost_of(point)
                break
        else:
            raise InputError(
                f"space '{self.space.name}': the published table says nothing of {MAX_STARTS} "
                "random architectures of it."
            )
        improved = True
        while improved:
            improved = False
            for neighbour in self.space.neighbours(point):
                with suppress(InvalidPointError, MissingEntryError, OutsideFamilyError):
                    if (found := cost_of(neighbour)) < cost:
                        point, cost, improved = neighbour, found, True
                        break
        return point

    def proxy(self, network: UNetConfig) -> UNetConfig:
        """The network that is trained for a candidate.

        Raises:
            InputError: Its resolution does not suit the stages, or, outside a run, latent space or
                text encoder is not there.
        """
        channels, width = self.proxy_ends or self.read_proxy_ends()
        return proxy_config(network, self.spec.proxy.shape, channels, width, self.spec.data.tokens)

    def read_proxy_ends(self) -> tuple[int, int]:
        """Channels of the proxy's sample and width of its context, as latent space and text encoder
        have them.

        Raises:
            InputError: One of these is not there.
        """
        from archsearch.data.latent import latent_space
        from archsearch.data.text import context_dim

        return latent_space(self.spec.proxy.latent).channels, context_dim(self.spec.data.text)

    def versions(self) -> dict[str, int | str]:
        """Version of each part of archsearch, or of another package's metric, that an objective of
        quality rests on, and the digest of the parent that trainings start from: taken up under
        others, a run would mix scores that do not compare.

        Raises:
            InputError: The parent is not there.
        """
        found: dict[str, int | str] = {}
        if self.spec.proxy.parent is not None:
            from archsearch.study.parent import load_parent

            found["the parent"] = load_parent(find_parent(self.spec.proxy.parent)).digest
        for name in self.spec.objectives:
            source = score_of(name).source
            if source in ("trained", "quantised", "sampled"):
                found["training"] = versions.TRAINING
            if source in ("trained", "quantised"):
                found["the held-out loss"] = versions.EVALUATION
            if source == "quantised":
                found[name] = versions.QUANTISING
            if source == "sampled":
                found |= {"sampling": versions.SAMPLING, "prompts": versions.PROMPTS}
                found[name] = METRICS[name].version
        return found

    def check_files(self, network: UNetConfig | None = None) -> None:
        """Refuse a study whose data or metrics need files that are not there, or whose data do not
        fit together. Looking at the results of a run needs none.

        Args:
            network: What is to be trained, at deployment scale, where it is one network: that, in
                place of the largest of the space, must then be able to begin from the parent.

        Raises:
            InputError: The key, and the folder or file where there is one, are named.
        """
        from archsearch.data.pictures import check_source

        check_data(self.document, self.spec)
        with located(self.document):
            for source in check_source(self.spec.data).values():
                source.versions()
                source.state(self.spec.data)
        if self.spec.proxy.parent is not None:
            from archsearch.study.parent import largest, load_parent

            with self.document.located("proxy", "parent"):
                parent = load_parent(find_parent(self.spec.proxy.parent))
                proxy = self.proxy(network or largest(self.space))
                parent.state_for(proxy)
                if self.spec.proxy.distill or not self.spec.proxy.samples:
                    parent.check_compares(proxy)
        inception = self.spec.metrics.inception
        if inception is not None and not inception.is_file():
            raise InputError(f"metrics.inception: {inception}: no such file.")


def load_setting(path: Path, overrides: Iterable[str] = ()) -> Setting:
    """Read a study file and everything it names but its data, which ``Setting.check_files`` looks
    at.

    Raises:
        InputError: Something is missing or wrong; a line for each complaint, with file, line, key
            and what is allowed.
    """
    return _Reader(*read_study(path, overrides)).read()


def read_study(path: Path, overrides: Iterable[str] = ()) -> tuple[documents.Document, StudySpec]:
    """Read a study's file alone, nothing that it names.

    Raises:
        InputError: Something in it is wrong; a line for each complaint.
    """
    document = documents.read(path)
    documents.check_kind(document, "study")
    document = documents.override(document, list(overrides))
    return document, resolve_data(document, documents.validate(document, StudySpec))


class _Reader:
    """One descent through what a study names; what is wrong is collected on the way."""

    def __init__(self, document: documents.Document, spec: StudySpec) -> None:
        self.document, self.spec, self.complaints = document, spec, list[str]()

    def read(self) -> Setting:
        spec, path = self.spec, self.document.path
        space = self._at(("space",), lambda: self._space())
        reference = None
        if (named := spec.deployment.reference) is not None:
            reference = self._at(
                ("deployment", "reference"), lambda: load_architecture(named, path).config
            )
        given = [self._table(i, *named) for i, named in enumerate(spec.deployment.named_tables)]
        tables = [found for found in given if found is not None]
        names = distinct(name or table.name for name, table, _ in tables)
        devices = tuple(
            self._device(name, table, file, reference)
            for name, (_, table, file) in zip(names, tables, strict=True)
        )
        if len(tables) == len(given):
            self._check_device_names(names)
        database = None
        if (address := spec.storage) is not None:
            database = self._at(("storage",), lambda: Database.at(address))
        for section, scores in (("objectives", spec.objectives), ("report", spec.report)):
            for score in scores:
                if score in METRICS:
                    where = f"{self.document.where((section,))}: {section}"
                    self._collect(partial(check_settings, score, spec.metrics, at=where))
        if self.complaints or space is None:
            raise InputError("\n".join(dict.fromkeys(self.complaints)))
        proxy = spec.proxy
        if proxy.precision == "auto":
            from archsearch.diffusion.recipe import best_precision, pick_device

            proxy = proxy.model_copy(update={"precision": best_precision(pick_device())})
        points = [space[0].labels(point) for point in self._first(space[0])]
        if self.complaints:
            raise InputError("\n".join(self.complaints))
        first = {"points": tuple(points), "configs": (), "warm_start": None}
        search = spec.search.model_copy(update=first)
        return Setting(
            printable(path.stem),
            spec.model_copy(
                update={
                    "proxy": proxy,
                    "metrics": self._metrics(),
                    "search": search,
                    "storage": database and database.address,
                }
            ),
            space[0],
            space[1],
            devices,
            reference,
            self.document,
        )

    def _first(self, space: Space) -> Iterator[Point]:
        """Points that the study says are to be tried first."""
        search, steps = self.spec.search, self.spec.sampling.searched
        for index, labels in enumerate(search.points):
            if point := self._at(("search", "points", index), lambda at=labels: space.point(at)):  # type: ignore[misc]
                yield point
        names: list[tuple[documents.Key, str]] = [
            (("search", "configs", i), name) for i, name in enumerate(search.configs)
        ]
        if search.warm_start is not None:
            found = self._at(("search", "warm_start"), self._earlier_front)
            names += [(("search", "warm_start"), name) for name in found or ()]
        for key, name in names:
            network = self._at(key, lambda at=name: load_architecture(at, self.document.path))  # type: ignore[misc]
            if network is None:
                continue
            if (point := space.locate(network.config)) is not None:
                yield from ([{**point, STEPS: n} for n in steps] or [point])
            elif key[1] == "configs":  # an earlier run may well have searched a wider space
                self._complain(key, f"{name} does not lie in space '{space.name}'.")

    def _earlier_front(self) -> list[str]:
        """The members of the front of the run that the study is to begin with."""
        given = expanded(self.spec.search.warm_start or "")
        folder = next((f for f in (self.document.path.parent / given, given) if f.is_dir()), given)
        front = documents.read(folder / "pareto.json").data.get("front", [])
        return [f"{folder}#{member['trial']}" for member in front]

    def _space(self) -> tuple[Space, Path]:
        path = self.document.path
        space, found = (
            load_space(self.spec.space, path),
            catalog.find("space", self.spec.space, path),
        )
        if searched := self.spec.sampling.searched:
            try:
                space = space.beside(STEPS, searched)
            except InputError as error:
                raise InputError(f"{found}: {error}") from error
        return space, found

    def _metrics(self) -> MetricSettings:
        """The section with the path of Inception's file, which is relative to the study's."""
        metrics, near = self.spec.metrics, self.document.path.parent
        if metrics.inception is None:
            return metrics
        given = expanded(metrics.inception)
        found = given if given.is_file() else near / given
        return metrics.model_copy(update={"inception": found.resolve()})

    def _table(
        self, index: int, device: str | None, given: str
    ) -> tuple[str | None, AnyTable, Path] | None:
        key: documents.Key = ("deployment", "tables", index if device is None else device)
        path = self._at(key, lambda: catalog.find("table", given, self.document.path))
        table = None if path is None else self._collect(lambda: load_table(path))
        if path is None or table is None:
            return None
        if device is not None and table.device != device:
            self._complain(
                key,
                f"{path} is a table of another device than the study names: of '{table.device}', "
                f"but got it under '{device}'.",
            )
        return device, table, path

    def _device(
        self, name: str, table: AnyTable, path: Path, reference: UNetConfig | None
    ) -> Device:
        deployment = self.spec.deployment
        latency = None
        if reference is not None:
            latency = self._at(
                ("deployment", "reference"),
                lambda: predict(plan(reference), table, deployment.on_missing),
                f"{deployment.reference} in {path}: ",
            )
        parts = deployment.pipeline.parts if deployment.pipeline else {}
        published = isinstance(table, PublishedTable)
        known = {line.part: line.p50 for line in table.parts}
        total = 0.0
        for role, given in parts.items():
            part = PUBLISHED_PARTS[role] if published else given
            if part not in known:
                there = f"it has {', '.join(known)}" if known else "it has none"
                cure = f" Measure it with: archsearch latency measure --part {shlex.quote(given)}"
                self._complain(
                    ("deployment", "pipeline", role),
                    f"table {path} has no part '{part}', {there}.{'' if published else cure}",
                )
            total += known.get(part, 0.0)
        return Device(name, table, path, latency, total if parts else None)

    def _check_device_names(self, names: list[str]) -> None:
        spec = self.spec
        sections: dict[str, Iterable[str]] = {
            "objectives": spec.objectives,
            "limits": spec.limits,
            "report": spec.report,
        }
        for section, scores in sections.items():
            for score in scores:
                device = device_of(score)
                if device is not None and device not in names:
                    self.complaints.append(
                        f"{self.document.where((section, score))}: {section}: '{score}' is of no "
                        f"table of the study.{nearest(device, names)} "
                        f"Allowed are: {', '.join(map(of_device, names))}."
                    )

    def _at(
        self, key: documents.Key, work: Callable[[], ResultT], what: str = ""
    ) -> ResultT | None:
        """Do ``work``; what it complains of is said to be at ``key``."""
        try:
            return work()
        except InputError as error:
            self._complain(key, f"{what}{error}")
            return None

    def _complain(self, key: documents.Key, words: str) -> None:
        self.complaints.append(f"{self.document.where(key)}: {documents.dotted(key)}: {words}")

    def _collect(self, work: Callable[[], ResultT]) -> ResultT | None:
        """Do ``work``, whose complaints say themselves where they belong."""
        try:
            return work()
        except InputError as error:
            self.complaints.append(str(error))
            return None


PUBLISHED_PARTS: dict[Role, str] = {"text_encoder": "text-encoder", "decoder": "decoder"}
"""What published tables call a part: they have one of each role, their own."""


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


def resolve_data(document: documents.Document, spec: StudySpec) -> StudySpec:
    """Make the paths of data and artifacts absolute. Nothing is opened, nor asked of the hub: a run
    can be looked at without its models.

    A path is looked for beside the study's file, then in the working folder; what is in neither is
    left as it is, an id perhaps.
    """

    def found(name: str | None, built_in: Iterable[str] = ()) -> str | None:
        if name is None or name in built_in:
            return name
        given = expanded(name)
        for path in (document.path.parent / given, given):
            pattern = any(sign in path.name for sign in "*?[{")
            if path.parent.is_dir() if pattern else path.exists():
                # A link keeps its name: in a cache of the hub it leads to what has none.
                return str(path.parent.resolve() / path.name)
        return name

    data = {key: found(getattr(spec.data, key)) for key in ("path", "images")}
    data["text"] = found(spec.data.text, [MINILM])
    proxy = {
        "latent": found(spec.proxy.latent, BUILT_IN_LATENTS),
        "parent": found(spec.proxy.parent, shipped_parents()),
    }
    artifacts = spec.artifacts
    if artifacts is not None and "://" not in artifacts:
        artifacts = str(expanded(artifacts).resolve())  # as --output: of the working folder
    return spec.model_copy(
        update={
            "data": spec.data.model_copy(update=data),
            "proxy": spec.proxy.model_copy(update=proxy),
            "artifacts": artifacts,
        }
    )


def check_data(document: documents.Document, spec: StudySpec) -> None:
    """Refuse keys of the data that do not fit together: from the models' configurations, before
    anything is loaded.

    Raises:
        InputError: A source, encoder or latent space is not known or not there, or the sizes do not
            fit together.
    """
    from archsearch.data.latent import latent_space
    from archsearch.data.pictures import check_source
    from archsearch.data.text import text_encoder

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
                f"divided by {space.factor}, the factor of proxy.latent ({space.name})."
            )


@contextmanager
def located(document: documents.Document) -> Iterator[None]:
    """Put file and line before a message that begins with a key of the data: ``data.path: …``."""
    try:
        yield
    except InputError as error:
        key = tuple(str(error).partition(":")[0].partition(" ")[0].split("."))
        if key[0] not in ("data", "proxy"):
            raise
        raise InputError(f"{document.where(key)}: {error}") from error
