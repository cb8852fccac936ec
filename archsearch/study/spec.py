"""The format of a study file."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from archsearch.data.spec import DataSpec
from archsearch.diffusion.recipe import Recipe
from archsearch.diffusion.sample import Sampling
from archsearch.errors import nearest
from archsearch.metrics.settings import MetricSettings
from archsearch.space.proxy import ProxyShape
from archsearch.study.scores import LATENCY, LIMITABLE, SCORES

Direction = Literal["minimize", "maximize"]
First = Literal["presets", "cheapest", "none"]
Positive = Annotated[int, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True, allow_inf_nan=False
    )


class Proxy(ProxyShape, Recipe):
    """The small network that stands for a candidate, and how it is trained."""

    @property
    def shape(self) -> ProxyShape:
        """What decides the proxy's architecture."""
        return ProxyShape(**{name: getattr(self, name) for name in ProxyShape.model_fields})

    @property
    def recipe(self) -> Recipe:
        """What decides its training."""
        return Recipe(**{name: getattr(self, name) for name in Recipe.model_fields})


class Pipeline(_Strict):
    """How the deployed network is used."""

    steps: Positive = 8
    """Passes of the UNet for a picture; ``pipeline_unet_ms`` is that many times the latency of one."""


class Deployment(_Strict):
    """Where the candidate will run."""

    tables: tuple[str, ...] = ()
    """Latency tables, by name or path. With more than one, ``latency_ms`` is the slowest device's."""
    pipeline: Pipeline | None = None


class Sampler(_Strict):
    """Which Optuna sampler proposes candidates."""

    name: Literal["nsga2", "tpe", "random"] = "nsga2"
    population_size: Annotated[int, Field(ge=2)] | None = None
    """nsga2 only: candidates a generation (default 50)."""
    startup_trials: Annotated[int, Field(ge=0)] | None = None
    """tpe only: random candidates first (default 10)."""

    @model_validator(mode="after")
    def _options_of_the_named_one(self) -> Self:
        for option, owner in (("population_size", "nsga2"), ("startup_trials", "tpe")):
            if getattr(self, option) is not None and self.name != owner:
                raise ValueError(f"{option} belongs to the sampler {owner}, but the sampler is {self.name}")
        return self


class Search(_Strict):
    """How the space is searched."""

    sampler: Sampler = Sampler()
    trials: Positive = 24
    """Finished trials in all."""
    seed: Annotated[int, Field(ge=0)] = 0
    enqueue: First | tuple[First, ...] = "presets"
    """What is tried first: the presets that lie in the space, the cheapest architecture of the space, both as a list, or none."""
    confirm_seeds: Annotated[int, Field(ge=1, le=32)] = 3
    """Seeds, the first included, with which the presets and their strongest rival are trained before they are compared."""

    @property
    def first(self) -> frozenset[str]:
        """What is tried first, as a set."""
        named = {self.enqueue} if isinstance(self.enqueue, str) else set(self.enqueue)
        return frozenset(named - {"none"})


class EngineSpec(_Strict):
    """What runs the trials."""

    kind: Literal["local", "ray"] = "local"
    workers: Positive | Literal["auto"] = "auto"
    """auto: one a core, or one a GPU."""


class StudySpec(_Strict):
    """A study: what is searched, on which data, for which objectives, with which budget."""

    schema_version: Literal[1] = Field(alias="schema")
    space: str
    """A search space, by name or path."""
    data: DataSpec = DataSpec()
    proxy: Proxy = Proxy()
    objectives: dict[str, Direction] = Field(min_length=1, max_length=6)
    """Scores to search by, each with its direction."""
    report: tuple[str, ...] = ()
    """Further scores of the front and the presets, computed at the end."""
    deployment: Deployment = Deployment()
    limits: dict[str, float] = {}
    """Largest allowed values of costs; checked before anything is trained."""
    sampling: Sampling = Sampling()
    metrics: MetricSettings = MetricSettings()
    search: Search = Search()
    engine: EngineSpec = EngineSpec()

    @model_validator(mode="after")
    def _scores_exist(self) -> Self:
        for name, direction in self.objectives.items():
            _require_score("objectives", name)
            if direction != SCORES[name].direction:
                raise ValueError(f"objectives.{name} must be {SCORES[name].direction}d, but got {direction}")
        for name in self.report:
            _require_score("report", name)
        for name, limit in self.limits.items():
            if name not in LIMITABLE:
                raise ValueError(f"limits.{name} cannot be limited.{nearest(name, LIMITABLE)} Allowed are: {', '.join(LIMITABLE)}")
            if limit <= 0:
                raise ValueError(f"limits.{name} must be positive, but got {limit:g}")
        used = {*self.objectives, *self.limits, *self.report}
        if not self.deployment.tables and (needing := sorted(used & set(LATENCY))):
            raise ValueError(f"deployment.tables is empty, but {', '.join(needing)} needs a latency table")
        if self.deployment.pipeline is None and "pipeline_unet_ms" in used:
            raise ValueError("pipeline_unet_ms needs deployment.pipeline, which says how many passes a picture takes")
        if self.proxy.sample_size != self.data.size and self.proxy.latent == "pixels":
            raise ValueError(f"proxy.sample_size ({self.proxy.sample_size}) and data.size ({self.data.size}) must agree in pixels")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Every key spelled out: the ``study.yaml`` of a run."""
        dumped: dict[str, Any] = self.model_dump(mode="json", by_alias=True)
        return dumped


def _require_score(section: str, name: str) -> None:
    if name not in SCORES:
        raise ValueError(f"{section}: '{name}' is not a known score.{nearest(name, SCORES)} Allowed are: {', '.join(SCORES)}")
