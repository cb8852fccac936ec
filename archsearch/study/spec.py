"""The format of a study file."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from archsearch.data.spec import DataSpec
from archsearch.diffusion.recipe import Recipe
from archsearch.diffusion.sample import Sampling
from archsearch.errors import nearest
from archsearch.metrics.settings import MetricSettings
from archsearch.space.proxy import ProxyShape
from archsearch.study.deployment import Deployment
from archsearch.study.scores import LATENCY, LIMITABLE, OF_STEPS, SCORES, device_of, score_of
from archsearch.study.strict import Positive, Strict

Direction = Literal["minimize", "maximize"]
First = Literal["presets", "cheapest", "none"]


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


class Sampler(Strict):
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


class Search(Strict):
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


class EngineSpec(Strict):
    """What runs the trials."""

    kind: Literal["local", "ray"] = "local"
    workers: Positive | Literal["auto"] = "auto"
    """auto: one a core, or one a GPU."""
    tensorboard: bool = False
    """Whether trainings write TensorBoard's events too, beside their log (needs the extra ``logs``)."""


class StudySpec(Strict):
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
    limits: dict[str, float] = Field(default_factory=dict)
    """Largest allowed values of costs; checked before anything is trained."""
    sampling: Sampling = Sampling()
    metrics: MetricSettings = MetricSettings()
    search: Search = Search()
    engine: EngineSpec = EngineSpec()

    @property
    def used(self) -> set[str]:
        """Every score that is named."""
        return {*self.objectives, *self.limits, *self.report}

    @model_validator(mode="after")
    def _scores_exist(self) -> Self:
        for name, direction in self.objectives.items():
            _require_score("objectives", name)
            if direction != score_of(name).direction:
                raise ValueError(f"objectives.{name} must be {score_of(name).direction}d, but got {direction}")
        for name in self.report:
            _require_score("report", name)
        for name, limit in self.limits.items():
            if name not in LIMITABLE and device_of(name) is None:
                raise ValueError(f"limits.{name} cannot be limited.{nearest(name, LIMITABLE)} Allowed are: {', '.join(LIMITABLE)}")
            if limit <= 0:
                raise ValueError(f"limits.{name} must be positive, but got {limit:g}")
        return self

    @model_validator(mode="after")
    def _latencies_can_be_had(self) -> Self:
        needing = sorted(name for name in self.used if name in LATENCY or device_of(name) is not None)
        if not self.deployment.tables and needing:
            raise ValueError(f"deployment.tables is empty, but {', '.join(needing)} needs a latency table")
        if self.deployment.reference is None and "latency_ratio" in self.used:
            raise ValueError("latency_ratio needs deployment.reference, the architecture that it compares with")
        pipeline = self.deployment.pipeline
        if pipeline is None and (needing := sorted(self.used & OF_STEPS)):
            raise ValueError(f"{', '.join(needing)} needs deployment.pipeline, which says how many passes a picture takes")
        if pipeline is not None and not pipeline.parts and "pipeline_ms" in self.used:
            raise ValueError("pipeline_ms needs deployment.pipeline.text_encoder and deployment.pipeline.decoder")
        return self

    @model_validator(mode="after")
    def _steps_can_be_searched(self) -> Self:
        if not self.sampling.searched:
            return self
        sources = {name: SCORES[name].source for name in self.objectives if name in SCORES}
        if trained := [name for name, source in sources.items() if source in ("trained", "quantised")]:
            raise ValueError(
                f"sampling.steps is a list, so it is searched, but {', '.join(trained)} does not depend on it: fewer steps would "
                "always win. Give one number, or take a sampled score as the objective"
            )
        if "sampled" not in sources.values():
            raise ValueError("sampling.steps is a list, so it is searched, but no objective is taken from sampled pictures")
        if not OF_STEPS & {*self.objectives, *self.limits}:
            raise ValueError(
                "sampling.steps is a list, so it is searched, but nothing makes steps dear: more would always win. "
                f"Take one of {', '.join(sorted(OF_STEPS))} as an objective or a limit"
            )
        if self.deployment.pipeline is not None and "steps" in self.deployment.pipeline.model_fields_set:
            raise ValueError(
                f"deployment.pipeline.steps is {self.deployment.pipeline.steps}, but sampling.steps is a list: a picture takes as "
                "many steps as its trial chose. Leave deployment.pipeline.steps out, or give sampling.steps one number"
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Every key spelled out that means something: the ``study.yaml`` of a run."""
        dumped: dict[str, Any] = self.model_dump(mode="json", by_alias=True)
        if self.sampling.searched and self.deployment.pipeline is not None:
            del dumped["deployment"]["pipeline"]["steps"]
        return dumped


def _require_score(section: str, name: str) -> None:
    if name not in SCORES and device_of(name) is None:
        allowed = f"{', '.join(SCORES)}, and latency_ms[TABLE]"
        raise ValueError(f"{section}: '{name}' is not a known score.{nearest(name, SCORES)} Allowed are: {allowed}")
