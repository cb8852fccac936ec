"""A study made ready: its file read, its space and tables found, everything a worker needs to price and score a candidate."""

import random
from dataclasses import dataclass, field
from pathlib import Path

from archsearch import documents, resources
from archsearch.data.latent import latent_space
from archsearch.data.text import context_dim
from archsearch.diffusion.device import pick_device
from archsearch.errors import InputError
from archsearch.files import expanded
from archsearch.latency.predict import MissingEntryError
from archsearch.metrics.registry import METRICS, check_settings
from archsearch.space.proxy import proxy_config
from archsearch.space.space import InvalidPointError, Point, Space, load_space
from archsearch.study.data_section import check_data_files, resolve_data
from archsearch.study.devices import Device, OutsideFamilyError, load_devices, load_reference
from archsearch.study.pricing import Costs, costs_of
from archsearch.study.scores import score_of
from archsearch.study.spec import StudySpec
from archsearch.unet.config import UNetConfig
from archsearch.unet.presets import PRESETS

MAX_STARTS = 300
STEPS_PARAMETER = "sampling.steps"
"""Name under which Optuna and the tables of a run know the number of steps, where it is searched."""


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
    document: documents.Document = field(default_factory=lambda: documents.Document(Path("study"), {}), compare=False)
    """The file it was read from, so that a message can say the line."""
    proxy_ends: tuple[int, int] | None = None
    """What ``read_proxy_ends`` said when a run began, where this is the setting of a run: it needs no models any more."""

    def priced(self, config: UNetConfig, steps: int | None = None) -> Costs:
        """Counted and predicted scores of a candidate, at deployment scale, and what has to be said of them.

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
        return [f"{name} {costs[name]:,.6g} > {limit:,.6g}" for name, limit in limits.items() if costs[name] > limit]

    def presets(self) -> dict[str, Point]:
        """The presets that lie in the space, and where."""
        located = {name: self.space.locate(make()) for name, make in PRESETS.items()}
        return {name: point for name, point in located.items() if point is not None}

    def cheapest(self) -> Point:
        """The cheapest architecture of the space: downhill from its base, one dimension at a time.

        Cheap by the first objective that is a cost, by parameters where there is none. Exact where the dimensions do not work
        against each other.

        Raises:
            InputError: No valid point to begin at was found, or none that every table says something of.
        """
        axis = next((name for name in self.spec.objectives if score_of(name).source in ("counted", "predicted")), "params")
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
        raise InputError(f"space '{self.space.name}': the published table says nothing of {MAX_STARTS} random architectures of it.")

    def proxy(self, config: UNetConfig) -> UNetConfig:
        """The network that is trained for the candidate.

        Raises:
            InputError: Its resolution does not suit the stages, or, outside a run, latent space or text encoder is not there.
        """
        channels, width = self.proxy_ends or self.read_proxy_ends()
        return proxy_config(config, self.spec.proxy.shape, channels, width, self.spec.data.tokens)

    def read_proxy_ends(self) -> tuple[int, int]:
        """Channels of the proxy's sample and width of its context, as latent space and text encoder have them.

        Raises:
            InputError: One of these is not there.
        """
        return latent_space(self.spec.proxy.latent).channels, context_dim(self.spec.data.text)


def load_setting(path: Path, overrides: list[str] | None = None) -> Setting:
    """Read a study file and everything it names but its data, which :func:`check_metric_files` looks at.

    Raises:
        InputError: Something is missing or wrong; the message has file, line, key and what is allowed.
    """
    document = documents.override(documents.read(path), overrides or [])
    spec = resolve_data(document, documents.validate(document, StudySpec))
    if spec.metrics.inception is not None:  # relative to the file that names it
        inception = (path.parent / expanded(spec.metrics.inception)).resolve()
        given = expanded(spec.metrics.inception).resolve()
        found = given if given.is_file() else inception
        spec = spec.model_copy(update={"metrics": spec.metrics.model_copy(update={"inception": found})})
    try:
        space = load_space(spec.space, path)
        space_path = resources.find("space", spec.space, path)
    except InputError as error:
        raise InputError(f"{document.where(('space',))}: space: {error}") from error
    if STEPS_PARAMETER in space.dimensions and spec.sampling.searched:
        raise InputError(f"{space_path}: dimensions: '{STEPS_PARAMETER}' is the name of the study's own; choose another.")
    reference = load_reference(document, spec.deployment)
    devices = load_devices(document, spec, reference)
    _check_metric_files(document, spec)
    resolved = spec.proxy.model_copy(update={"precision": spec.proxy.recipe.resolved(pick_device()).precision})
    return Setting(path.stem, spec.model_copy(update={"proxy": resolved}), space, space_path, devices, reference, document)


def _check_metric_files(document: documents.Document, spec: StudySpec) -> None:
    """A metric that needs a file of the user's is refused here, not after an hour."""
    for section, names in (("objectives", spec.objectives), ("report", spec.report)):
        for name in names:
            if name in METRICS:
                check_settings(name, spec.metrics, at=f"{document.where((section,))}: {section}")


def check_metric_files(setting: Setting) -> None:
    """Refuse a study whose data or metrics need files that are not there. Looking at its results needs none.

    Raises:
        InputError: The file is named.
    """
    check_data_files(setting.document, setting.spec)
    inception = setting.spec.metrics.inception
    if inception is not None and not inception.is_file():
        raise InputError(f"metrics.inception: {inception}: no such file.")
