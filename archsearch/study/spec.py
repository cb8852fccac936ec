"""The format of a study file, and the scores it can name."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

from archsearch.data.spec import DataSpec
from archsearch.diffusion.spec import Recipe, Sampling
from archsearch.errors import nearest
from archsearch.latency.parts import PARTS, Role
from archsearch.latency.predict import OnMissing
from archsearch.metrics.registry import METRICS
from archsearch.metrics.spec import MetricSettings
from archsearch.search_space.proxy import ProxyShape
from archsearch.study.storage import masked

Positive = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    """A section of a study: nothing unknown in it, no infinities."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        populate_by_name=True,
        allow_inf_nan=False,
    )


Source = Literal["counted", "predicted", "trained", "quantised", "sampled"]


@dataclass(frozen=True)
class Score:
    """One number of a candidate.

    ``source`` says how it is had: counted in closed form, predicted from a latency table (both at
    deployment scale), from training the proxy, from the trained proxy in int8, or from sampling it.
    """

    direction: Literal["minimize", "maximize"]
    source: Source
    label: str


_OURS: dict[str, Score] = {
    "params": Score("minimize", "counted", "parameters"),
    "macs": Score("minimize", "counted", "MACs"),
    "peak_activation_bytes": Score("minimize", "counted", "peak activation bytes"),
    "latency_ms": Score("minimize", "predicted", "latency of one UNet pass (ms)"),
    "latency_ratio": Score(
        "minimize", "predicted", "latency against the reference network, worst device"
    ),
    "pipeline_unet_ms": Score("minimize", "predicted", "latency of all UNet passes (ms)"),
    "pipeline_ms": Score(
        "minimize", "predicted", "latency of the pipeline, from prompt to picture (ms)"
    ),
    "val_loss": Score("minimize", "trained", "held-out denoising loss (EMA weights)"),
    "val_loss_fine": Score(
        "minimize", "trained", "held-out denoising loss in the third of least noise"
    ),
    "val_loss_middle": Score(
        "minimize", "trained", "held-out denoising loss in the middle third of noise"
    ),
    "val_loss_coarse": Score(
        "minimize", "trained", "held-out denoising loss in the third of most noise"
    ),
    "val_loss_int8": Score(
        "minimize", "quantised", "held-out denoising loss with int8 weights and activations"
    ),
}

SCORES: dict[str, Score] = _OURS | {
    name: Score(info.direction, "sampled", info.description)
    for name, info in METRICS.items()
    if name not in _OURS
}

LATENCY = tuple(name for name, score in SCORES.items() if score.source == "predicted")
LIMITABLE = tuple(
    name for name, score in SCORES.items() if score.source in ("counted", "predicted")
)
SAMPLED = tuple(name for name, score in SCORES.items() if score.source == "sampled")
QUANTISED = tuple(name for name, score in SCORES.items() if score.source == "quantised")
MEASURED = SAMPLED + QUANTISED
"""Scores taken from a trained network, when they are asked for."""
OF_PROXY: tuple[Source, ...] = ("trained", "quantised", "sampled")
"""Sources of quality: they need a training, and belong to proxy scale."""
OF_STEPS = frozenset({"pipeline_unet_ms", "pipeline_ms"})
"""Costs that grow with the number of steps a picture takes."""

_OF_DEVICE = re.compile(r"latency_ms\[(.+)\]")


def of_device(device: str) -> str:
    """Name of the score that is ``latency_ms`` on one device."""
    return f"latency_ms[{device}]"


def device_of(name: str) -> str | None:
    """The device of ``latency_ms[DEVICE]``, or None where ``name`` is not of that form."""
    match = _OF_DEVICE.fullmatch(name)
    return match[1] if match else None


def is_score(name: str) -> bool:
    """Whether ``name`` is that of a score."""
    return name in SCORES or device_of(name) is not None


def score_of(name: str) -> Score:
    """The score called ``name``.

    Raises:
        KeyError: There is none.
    """
    device = device_of(name)
    return (
        SCORES[name]
        if device is None
        else Score("minimize", "predicted", f"latency of one UNet pass on {device} (ms)")
    )


def is_marked(name: str, provenance: Mapping[str, str]) -> bool:
    """Whether the figure of score ``name`` rests on more than measured units.

    Args:
        name: A score.
        provenance: Of its network's latencies: by device, what they rest on.
    """
    if not is_score(name) or score_of(name).source != "predicted":
        return False
    device = device_of(name)
    return bool(provenance) if device is None else device in provenance


def quality_axis(objectives: Iterable[str]) -> str | None:
    """The first objective that needs training."""
    return next((name for name in objectives if score_of(name).source in OF_PROXY), None)


def cost_axis(objectives: Iterable[str]) -> str | None:
    """The first objective that does not."""
    return next((name for name in objectives if score_of(name).source not in OF_PROXY), None)


DEFAULT_STEPS = 8


class Pipeline(Strict):
    """How the deployed network is used: text encoder, then the UNet as often as there are steps,
    then the decoder.
    """

    steps: Positive = DEFAULT_STEPS
    """Steps a picture takes. Left out where ``sampling.steps`` is searched: there every trial has
    its own.
    """
    text_encoder: str | None = None
    """Part that encodes the prompt, by name. It counts once also under guidance: the empty prompt's
    encoding never changes and is kept with the weights.
    """
    decoder: str | None = None
    """Part that makes the picture from the latent, by name."""
    guidance: Literal["none", "plain"] = "none"
    """plain: classifier-free guidance by two passes a step, with the prompt and without. none: one
    pass, as distilled networks take.
    """

    @property
    def passes_a_step(self) -> int:
        """Passes of the UNet in one step."""
        return 2 if self.guidance == "plain" else 1

    @property
    def parts(self) -> dict[Role, str]:
        """Names of the parts beside the UNet, by role; none where they are not given."""
        if self.text_encoder is None or self.decoder is None:
            return {}
        return {"text_encoder": self.text_encoder, "decoder": self.decoder}

    @field_validator("text_encoder")
    @classmethod
    def _encodes(cls, name: str | None) -> str | None:
        return _known_part(name, "text_encoder")

    @field_validator("decoder")
    @classmethod
    def _decodes(cls, name: str | None) -> str | None:
        return _known_part(name, "decoder")

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if (self.text_encoder is None) != (self.decoder is None):
            absent = "decoder" if self.decoder is None else "text_encoder"
            raise ValueError(
                f"{absent} is missing: text_encoder and decoder go together, pipeline_ms needs both"
            )
        return self


def _known_part(name: str | None, role: Role) -> str | None:
    known = [part for part, spec in PARTS.items() if spec.role == role]
    if name is not None and name not in known:
        raise ValueError(
            f"'{name}' is not a known {role}.{nearest(name, known)} Allowed are: {', '.join(known)}"
        )
    return name


def _form(value: Any) -> str:
    return "dict[str,str]" if isinstance(value, dict) else "list"


Tables = Annotated[
    Annotated[tuple[str, ...], Tag("list")] | Annotated[dict[str, str], Tag("dict[str,str]")],
    Discriminator(_form),
]


class Deployment(Strict):
    """Where the candidate will run."""

    tables: Tables = ()
    """Latency tables, by name or path: a list, or a mapping from the name of a device to its table.
    With more than one, ``latency_ms`` is the slowest device's.
    """
    reference: str | None = None
    """Architecture (a preset, or a file) that ``latency_ratio`` compares with, device by device."""
    on_missing: OnMissing = "error"
    """What to do about units that a table lacks: refuse the study, or estimate them and mark every
    figure that rests on them.
    """
    pipeline: Pipeline | None = None

    @property
    def named_tables(self) -> list[tuple[str | None, str]]:
        """The device each table must be of, where it is named, and the table."""
        if isinstance(self.tables, dict):
            return list(self.tables.items())
        return [(None, name) for name in self.tables]


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


SamplerName = Literal["surrogate", "nsga2", "nsga3", "tpe", "gp", "qmc", "random"]
_OPTIONS: dict[str, tuple[SamplerName, ...]] = {
    "population_size": ("nsga2", "nsga3"),
    "startup_trials": ("surrogate", "tpe", "gp"),
}
"""Options of samplers, and which take them."""


class Sampler(Strict):
    """What proposes candidates: our own model of quality, or one of Optuna's samplers."""

    name: SamplerName = "surrogate"
    """surrogate: the candidate whose expected gain of hypervolume is largest under a model of the
    scores that knows their noise. The others are Optuna's.
    """
    population_size: Annotated[int, Field(ge=2)] | None = None
    """nsga2 and nsga3 only: candidates a generation (default 50)."""
    startup_trials: Annotated[int, Field(ge=0)] | None = None
    """surrogate, tpe and gp only: candidates first that do not look at scores (default 10). Those
    of surrogate are chosen so that all knobs are varied evenly.
    """

    @model_validator(mode="after")
    def _options_of_the_named_one(self) -> Self:
        for option, owners in _OPTIONS.items():
            if getattr(self, option) is not None and self.name not in owners:
                raise ValueError(
                    f"{option} belongs to the sampler {' or '.join(owners)}, but the sampler is "
                    f"{self.name}"
                )
        return self


class Rungs(Strict):
    """Short budgets first: a candidate is trained on only where it is among the best."""

    count: Annotated[int, Field(ge=1, le=6)] = 1
    """Budgets; the last is ``proxy.samples``."""
    eta: Annotated[int, Field(ge=2, le=10)] = 2
    """Each budget is so many times the one before, and one of so many candidates goes on."""


class Search(Strict):
    """How the space is searched."""

    sampler: Sampler = Sampler()
    trials: Positive = 24
    """Finished trials in all."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """Minutes that the search may take, what is done at its end included, over all sittings. It
    ends by this or by ``trials``, whichever comes first.
    """
    seed: Annotated[int, Field(ge=0)] = 0
    enqueue: First | tuple[First, ...] = "presets"
    """What is tried first: the presets that lie in the space, the cheapest architecture of the
    space, both as a list, or none.
    """
    points: tuple[dict[str, Any], ...] = ()
    """Points of the space that are tried first too: the choice of every dimension, as
    ``space sample --json`` writes it. A dimension that is left out has its first choice.
    """
    configs: tuple[str, ...] = ()
    """Architectures that are tried first too: presets, files, RUN_DIR#TRIAL."""
    warm_start: str | None = None
    """Folder of an earlier run, whose front is tried first too."""
    rungs: Rungs = Rungs()
    repeats: Annotated[float, Field(ge=0, le=0.9)] | None = None
    """Share of the trainings that repeat a network whose place on the front is in doubt (default
    0.2 with the sampler surrogate, none with others).
    """
    margin: Annotated[float, Field(gt=0)] | None = None
    """How much worse a quality may be and still count as no worse, in its own unit (default 0.003
    for held-out losses, else the standard deviation between seeds).
    """
    compare_at: tuple[str, ...] = ()
    """Costs at which the front is compared with the presets, beside the first objective that is a
    cost; ``[params]``, say.
    """
    confirm_seeds: Annotated[int, Field(ge=1, le=32)] = 3
    """Seeds, the first included, with which the presets and their strongest rival are trained at
    the end, where time is left.
    """

    @property
    def first(self) -> frozenset[str]:
        """What is tried first, as a set."""
        named = {self.enqueue} if isinstance(self.enqueue, str) else set(self.enqueue)
        return frozenset(named - {"none"})

    @property
    def share_of_repeats(self) -> float:
        """``repeats``, or its default."""
        if self.repeats is None:
            return 0.2 if self.sampler.name == "surrogate" else 0.0
        return self.repeats


class Limit(Strict):
    """What a cost may be."""

    min: Annotated[float, Field(gt=0)] | None = None
    """Smallest allowed value."""
    max: Annotated[float, Field(gt=0)] | None = None
    """Largest allowed value."""

    @model_validator(mode="before")
    @classmethod
    def _largest_alone(cls, value: Any) -> Any:
        return {"max": value} if isinstance(value, int | float) else value

    @model_validator(mode="after")
    def _some_values_are_allowed(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("needs a number (the largest allowed value), or min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is larger than max {self.max:g}")
        return self

    @model_serializer
    def _short(self) -> Any:
        if self.min is None:
            return self.max
        return {"min": self.min} if self.max is None else {"min": self.min, "max": self.max}

    def broken(self, value: float) -> str | None:
        """What ``value`` breaks, in words: ``> 400``; None where it is within."""
        if self.max is not None and value > self.max:
            return f"> {self.max:,.6g}"
        if self.min is not None and value < self.min:
            return f"< {self.min:,.6g}"
        return None

    def __str__(self) -> str:
        ends = [f"≥ {self.min:,.6g}"] if self.min is not None else []
        return " and ".join(ends + ([f"≤ {self.max:,.6g}"] if self.max is not None else []))


class EngineSpec(Strict):
    """What runs the trials."""

    kind: Literal["local", "ray"] = "local"
    workers: Positive | Literal["auto"] = "auto"
    """auto: one a core, or one a GPU; on a Ray cluster as many as it has room for."""
    cpus: Annotated[float, Field(gt=0)] = 1
    """Cores of a Ray cluster that a trial takes; less than one is a share of a core."""
    gpus: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    """GPUs that a trial takes: 0.5 lets two trials share one. auto: one where there are any."""
    memory_gb: Annotated[float, Field(gt=0)] | Literal["auto"] | None = "auto"
    """Memory that a worker on this machine may hold, in GB (10⁹ bytes). One that holds more is
    replaced after its current trial; one that holds half as much again gives its trial back and is
    replaced at once. auto: all workers together 60 % of the machine's memory. null: no limit.
    """
    tensorboard: bool = False
    """Whether trainings write TensorBoard's events too, beside their log (needs the extra
    ``logs``).
    """

    @field_validator("cpus", "gpus")
    @classmethod
    def _shares_are_of_one(cls, value: float | str) -> float | str:
        if isinstance(value, float | int) and value > 1 and value != int(value):
            raise ValueError("must be a share below 1, or a whole number")
        return value


Evaluator = Literal["train", "table", "surrogate"]


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
    limits: dict[str, Limit] = Field(default_factory=dict)
    """Allowed values of costs, checked before anything is trained: the largest, or
    ``{min: …, max: …}``.
    """
    sampling: Sampling = Sampling()
    metrics: MetricSettings = MetricSettings()
    search: Search = Search()
    evaluator: Evaluator = "train"
    """Where qualities come from. train: proxies are trained. table: what MobileDiffusion-Bench has
    recorded is looked up; a network that is not in it ends the run. surrogate: such a network gets
    an estimate instead, marked as one.
    """
    engine: EngineSpec = EngineSpec()
    storage: str | None = None
    """Database of trials, records and claims, for machines that share a study: an address as
    SQLAlchemy has it, such as ``postgresql://USER@HOST/DATABASE``. By default ``study.db`` in the
    run's folder.
    """
    artifacts: str | None = None
    """Where machines that share a study keep weights, checkpoints and pictures: a folder, or an
    address that fsspec knows, such as ``s3://BUCKET/PATH``. By default the run's folder.
    """

    @property
    def used(self) -> set[str]:
        """Every score that is named."""
        return {*self.objectives, *self.limits, *self.report, *self.search.compare_at}

    @model_validator(mode="after")
    def _scores_exist(self) -> Self:
        for name, direction in self.objectives.items():
            _require_score("objectives", name)
            if direction != score_of(name).direction:
                raise ValueError(
                    f"objectives.{name} must be {score_of(name).direction}d, but got {direction}"
                )
        for name in self.report:
            _require_score("report", name)
        for section, names in (
            ("limits", self.limits),
            ("search.compare_at", self.search.compare_at),
        ):
            for name in names:
                if name not in LIMITABLE and device_of(name) is None:
                    raise ValueError(
                        f"{section}.{name} is not a cost.{nearest(name, LIMITABLE)} Allowed are: "
                        f"{', '.join(LIMITABLE)}"
                    )
        return self

    @model_validator(mode="after")
    def _table_answers_once(self) -> Self:
        if self.evaluator != "train":
            if self.search.rungs.count > 1:
                raise ValueError(
                    f"search.rungs.count is {self.search.rungs.count}, but evaluator is "
                    f"{self.evaluator}: what is looked up has no shorter budget to stop at"
                )
            if self.sampling.searched:
                raise ValueError(
                    f"sampling.steps is a list, but evaluator is {self.evaluator}: the table has "
                    "one number of steps"
                )
        return self

    @model_validator(mode="after")
    def _latencies_can_be_had(self) -> Self:
        needing = sorted(
            name for name in self.used if name in LATENCY or device_of(name) is not None
        )
        if not self.deployment.tables and needing:
            raise ValueError(
                f"deployment.tables is empty, but {', '.join(needing)} needs a latency table"
            )
        if self.deployment.reference is None and "latency_ratio" in self.used:
            raise ValueError(
                "latency_ratio needs deployment.reference, the architecture that it compares with"
            )
        pipeline = self.deployment.pipeline
        if pipeline is None and (needing := sorted(self.used & OF_STEPS)):
            raise ValueError(
                f"{', '.join(needing)} needs deployment.pipeline, which says how many passes a "
                "picture takes"
            )
        if pipeline is not None and not pipeline.parts and "pipeline_ms" in self.used:
            raise ValueError(
                "pipeline_ms needs deployment.pipeline.text_encoder and deployment.pipeline.decoder"
            )
        return self

    @model_validator(mode="after")
    def _steps_can_be_searched(self) -> Self:
        if not self.sampling.searched:
            return self
        sources = {name: SCORES[name].source for name in self.objectives if name in SCORES}
        if trained := [
            name for name, source in sources.items() if source in ("trained", "quantised")
        ]:
            raise ValueError(
                f"sampling.steps is a list, so it is searched, but {', '.join(trained)} does "
                "not depend on it: fewer steps would "
                "always win. Give one number, or take a sampled score as the objective"
            )
        if "sampled" not in sources.values():
            raise ValueError(
                "sampling.steps is a list, so it is searched, but no objective is taken from "
                "sampled pictures"
            )
        if not OF_STEPS & {*self.objectives, *self.limits}:
            raise ValueError(
                "sampling.steps is a list, so it is searched, but nothing makes steps dear: "
                "more would always win. "
                f"Take one of {', '.join(sorted(OF_STEPS))} as an objective or a limit"
            )
        if (
            self.deployment.pipeline is not None
            and "steps" in self.deployment.pipeline.model_fields_set
        ):
            raise ValueError(
                f"deployment.pipeline.steps is {self.deployment.pipeline.steps}, but "
                "sampling.steps is a list: a picture takes as "
                "many steps as its trial chose. Leave deployment.pipeline.steps out, or give "
                "sampling.steps one number"
            )
        return self

    @property
    def budgets(self) -> tuple[int, ...]:
        """Pictures a training sees at each rung, rising; the last is ``proxy.samples``."""
        rungs, batch = self.search.rungs, self.proxy.batch
        shares = (rungs.eta**exponent for exponent in range(rungs.count - 1, 0, -1))
        shorter = {max(1, round(self.proxy.samples / share / batch)) * batch for share in shares}
        return (*sorted(b for b in shorter if b < self.proxy.samples), self.proxy.samples)

    def margin(self, quality: str, noise: float) -> float:
        """How much worse ``quality`` may be and still count as no worse.

        Args:
            quality: A score.
            noise: Its standard deviation between seeds.
        """
        if self.search.margin is not None and quality == quality_axis(self.objectives):
            return self.search.margin
        return 0.003 if quality.startswith("val_loss") else noise

    def to_dict(self) -> dict[str, Any]:
        """Every key spelled out that means something, without passwords: the ``study.yaml`` of a
        run.
        """
        dumped: dict[str, Any] = self.model_dump(mode="json", by_alias=True)
        for key in ("storage", "artifacts"):
            dumped[key] = dumped[key] and masked(dumped[key])
        if self.sampling.searched and self.deployment.pipeline is not None:
            del dumped["deployment"]["pipeline"]["steps"]
        return dumped


def _require_score(section: str, name: str) -> None:
    if name not in SCORES and device_of(name) is None:
        allowed = f"{', '.join(SCORES)}, and latency_ms[TABLE]"
        raise ValueError(
            f"{section}: '{name}' is not a known score.{nearest(name, SCORES)} Allowed are: "
            f"{allowed}"
        )
