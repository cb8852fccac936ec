"""MobileDiffusion-Bench: recorded scores of networks of the quickstart's space, looked up.

What is not recorded can be estimated by a model of all recordings, the one that searches use too
(:mod:`archsearch.study.surrogate`); an estimate says that it is one.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from archsearch import documents
from archsearch.errors import InputError
from archsearch.search_space.space import Space, label, load_space
from archsearch.unet.config import UNetConfig

if TYPE_CHECKING:  # scipy and what it brings take a second: only an estimate needs them
    from archsearch.study.surrogate import Design, Measurement, Posterior, Surrogate

STUDY = "benchmark"
"""The study whose data, proxy and recipe every network is trained with."""
BUDGETS = (540, 1_080, 2_160, 4_320)
"""Pictures seen; the quickstart's own budget is the second."""
METRICS = ("kid_effnet", "alignment", "val_loss_int8")
"""Taken of a network after its longest budget."""
LOSSES = ("val_loss", "val_loss_fine", "val_loss_middle", "val_loss_coarse")
SCHEMA = 1
FILE = Path(__file__).parent / "mobilediffusion-bench.csv"
SCORES = (*LOSSES, *METRICS)
COSTS = ("params", "macs", "peak_activation_bytes")
KNOB = "knob."
LATENCY = "latency_ms."
ESTIMATED = "estimated_units."
FOLDS = 8


@dataclass(frozen=True)
class Answer:
    """What the benchmark says of a network."""

    scores: dict[str, float]
    """Recorded or estimated, by name; those of sampled pictures and in int8 are recorded after the
    longest budgets only."""
    deviation: dict[str, float] = field(default_factory=dict)
    """Of estimates: their standard deviations."""

    @property
    def is_estimated(self) -> bool:
        """Whether the network is not recorded."""
        return bool(self.deviation)


class Benchmark:
    """The recorded table.

    Args:
        rows: A row for every network, seed and budget.
        path: Where they are from, for messages.

    Attributes:
        rows: As given.
        networks: A row for every network, by digest: its number, knobs (``knob.NAME``),
            parameters, MACs, peak activation bytes, latency on every shipped table
            (``latency_ms.TABLE``), and how many units of it the table lacks and estimates
            (``estimated_units.TABLE``).
        budgets: Pictures seen, rising.
    """

    def __init__(self, rows: pd.DataFrame, path: Path = FILE) -> None:
        self.rows, self.path = rows, path
        self.space_name = str(rows["space"].iloc[0])
        self.budgets = sorted(int(budget) for budget in rows["budget"].unique())
        fixed = [name for name in rows.columns if name in ("network", "digest", *COSTS)]
        fixed += [name for name in rows.columns if name.startswith((KNOB, LATENCY, ESTIMATED))]
        self.networks = rows[fixed].drop_duplicates("digest").set_index("digest")
        scores = [name for name in SCORES if name in rows.columns]
        keys = zip(rows["digest"], rows["budget"], rows["seed"], strict=True)
        values = rows[scores].to_numpy(dtype=float)
        self._scores: dict[tuple[str, int, int], dict[str, float]] = {
            (str(digest), int(budget), int(seed)): {
                name: float(value)
                for name, value in zip(scores, row, strict=True)
                if not np.isnan(value)
            }
            for (digest, budget, seed), row in zip(keys, values, strict=True)
        }
        self._surrogates: dict[str, Surrogate] = {}

    @property
    def hours(self) -> float:
        """Hours that the recorded trainings took, over all cores and machines."""
        whole = self.rows.groupby(["digest", "seed"])["seconds"].max()  # of the longest budget
        return float(whole.sum()) / 3600

    @cached_property
    def space(self) -> Space:
        """The space that the networks are of."""
        return load_space(self.space_name)

    def check_space(self, space: Space) -> None:
        """Refuse a space of other networks.

        Raises:
            InputError: Its base or a dimension is another than the table's.
        """
        if (space.base, space.file) != (self.space.base, self.space.file):
            raise InputError(
                f"space '{space.name}': {self.path.name} is of space '{self.space_name}', whose "
                "base, dimensions or rules are others."
            )

    # Recorded

    def look_up(
        self, network: UNetConfig | str, budget: int = BUDGETS[-1], seed: int = 0
    ) -> dict[str, float]:
        """Recorded scores of a network, by name.

        Args:
            network: The network, at deployment scale, or its digest.
            budget: Pictures seen.
            seed: 0; where the network was trained three times, 1 and 2 too.

        Raises:
            InputError: They are not recorded; the message says what is.
        """
        digest = network if isinstance(network, str) else network.digest
        try:
            return self._scores[digest, budget, seed]
        except KeyError:
            raise InputError(self._missing(digest, budget, seed)) from None

    def _missing(self, digest: str, budget: int, seed: int) -> str:
        if digest not in self.networks.index:
            return (
                f"network {digest}: is none of the {len(self.networks)} that {self.path.name} has "
                "recorded. Ask for an estimate where one will do (evaluator: surrogate)."
            )
        budgets = sorted({b for d, b, _ in self._scores if d == digest})
        if budget not in budgets:
            listed = ", ".join(f"{each:,}" for each in budgets)
            return (
                f"network {digest}: is not recorded after {budget:,} pictures, but after {listed}."
            )
        return (
            f"network {digest}: is not recorded with seed {seed}; it has "
            f"{', '.join(map(str, self.seeds(digest, budget)))}."
        )

    def seeds(self, network: UNetConfig | str, budget: int = BUDGETS[-1]) -> list[int]:
        """Seeds with which a network was trained for a budget."""
        digest = network if isinstance(network, str) else network.digest
        return sorted(s for d, b, s in self._scores if (d, b) == (digest, budget))

    def mean(self, score: str = "val_loss", budget: int = BUDGETS[-1]) -> "pd.Series[float]":
        """Mean of a score over the seeds of every network that has it after a budget, by digest.

        Raises:
            InputError: No such score is recorded.
        """
        if score not in self.rows.columns:
            raise InputError(f"score '{score}' is not recorded; there are {', '.join(SCORES)}.")
        chosen = self.rows[self.rows["budget"] == budget].dropna(subset=[score])
        found: pd.Series[float] = chosen.groupby("digest")[score].mean()
        return found

    # Estimated

    def _point(self, digest: str) -> dict[str, Any]:
        row = self.networks.loc[digest]
        labels = {
            name.removeprefix(KNOB): str(row[name])
            for name in self.networks.columns
            if name.startswith(KNOB) and str(row[name]) not in ("", "nan")
        }
        point: dict[str, Any] = {}
        for name, given in labels.items():
            known = {str(each): each for each in self.labels[name]}
            point[name] = known[given]
        return point

    @cached_property
    def labels(self) -> dict[str, list[Any]]:
        """The choices of every knob, by its name."""
        return {
            name: [label(value) for value in each.values]
            for name, each in self.space.dimensions.items()
        }

    @cached_property
    def designs(self) -> "dict[str, Design]":
        """Every network as the model sees it, by digest."""
        from archsearch.study.surrogate import Design

        sizes = zip(self.networks["params"], self.networks["macs"], strict=True)
        return {
            str(digest): Design(self._point(str(digest)), float(params), float(macs), str(digest))
            for digest, (params, macs) in zip(self.networks.index, sizes, strict=True)
        }

    def design(self, network: UNetConfig) -> "Design":
        """A network of the space, recorded or not, as the model sees it.

        Raises:
            InputError: It does not lie in the space.
        """
        if (known := self.designs.get(network.digest)) is not None:
            return known
        point = self.space.locate(network)
        if point is None:
            raise InputError(
                f"network {network.digest}: does not lie in space '{self.space_name}', of which "
                f"{self.path.name} is."
            )
        from archsearch.cost.price import price
        from archsearch.study.surrogate import Design
        from archsearch.unet.plan import plan

        counted = price(plan(network))
        return Design(self.space.labels(point), counted.params, counted.macs, network.digest)

    def measurements(
        self, score: str, budget: int = BUDGETS[-1], but: Collection[str] = ()
    ) -> "list[Measurement]":
        """What was recorded of a score up to a budget, without the networks ``but``."""
        from archsearch.study.surrogate import Measurement

        return [
            Measurement(self.designs[digest], scores[score], seen, f"{digest} {seed}")
            for (digest, seen, seed), scores in self._scores.items()
            if score in scores and seen <= budget and digest not in but
        ]

    def surrogate(self, score: str = "val_loss") -> "Surrogate":
        """The model of a score after the longest budget that every network has.

        Raises:
            InputError: No such score is recorded.
        """
        from archsearch.study.surrogate import Surrogate

        if score not in self._surrogates:
            measured = self.measurements(score)
            if not measured:
                raise InputError(f"score '{score}' is not recorded; there are {', '.join(SCORES)}.")
            self._surrogates[score] = Surrogate(self.space.dimensions, measured, BUDGETS[-1])
        return self._surrogates[score]

    def estimate(self, networks: Sequence[UNetConfig], score: str = "val_loss") -> "Posterior":
        """What the recordings say of networks of the space after the longest budget that every
        network has, recorded or not: means (N,) and their covariance (N, N).

        Raises:
            InputError: One does not lie in the space, or no such score is recorded.
        """
        return self.surrogate(score).posterior([self.design(each) for each in networks])

    def answer(self, network: UNetConfig, budget: int, estimated: bool = False) -> Answer:
        """What is recorded of a network with seed 0, or, where that is asked for, estimated of it.

        Args:
            network: At deployment scale.
            budget: Pictures seen; estimates are of the longest budget that every network has.
            estimated: Whether a network that is not recorded gets an estimate.

        Raises:
            InputError: It is not recorded and not to be estimated, or lies outside the space.
        """
        if not estimated or network.digest in self.networks.index:
            return Answer(self.look_up(network, budget))
        scores, deviation = {}, {}
        for name in SCORES:
            if name in self.rows.columns and self.rows[name].notna().any():
                found = self.estimate([network], name)
                scores[name] = float(found.mean[0])
                deviation[name] = float(found.deviation[0])
        return Answer(scores, deviation)

    def left_out(self, score: str = "val_loss") -> dict[str, float]:
        """How far the estimate of a network is off that the model has not seen: networks are left
        out in turn, an eighth of them at a time.

        Returns:
            ``networks``, ``rmse``, ``noise`` (standard deviation between seeds, which no estimate
            can be below), ``tau`` (Kendall's, of estimate and recording) and ``within`` (share of
            recordings in the estimate's 95 % interval, the seed's noise included).
        """
        from scipy import stats

        from archsearch.study.surrogate import Surrogate

        truth = self.mean(score)
        digests = [str(digest) for digest in truth.index]
        means, deviations = [], []
        for fold in range(FOLDS):
            but = digests[fold::FOLDS]
            model = Surrogate(self.space.dimensions, self.measurements(score, but=but), BUDGETS[-1])
            found = model.posterior([self.designs[digest] for digest in but])
            noise = model.deviations()["noise"]
            means += list(zip(but, found.mean, strict=True))
            deviations += list(np.sqrt(found.deviation**2 + noise**2))
        errors = np.array([value - truth[digest] for digest, value in means])
        return {
            "networks": len(digests),
            "rmse": float(np.sqrt(np.mean(errors**2))),
            "noise": self.noise(score),
            "tau": float(stats.kendalltau([v for _, v in means], [truth[d] for d, _ in means])[0]),
            "within": float(np.mean(np.abs(errors) <= 1.96 * np.array(deviations))),
        }

    def noise(self, score: str = "val_loss", budget: int = BUDGETS[-1]) -> float:
        """Standard deviation of a score between the seeds of a network; not a number where none has
        several.
        """
        rows = self.rows[self.rows["budget"] == budget].dropna(subset=[score])
        each = rows.groupby("digest")[score]
        several = each.var()[each.count() > 1]
        return float(np.sqrt(several.mean())) if len(several) else float("nan")


def load(path: Path | str = FILE) -> Benchmark:
    """The recorded table: that of the package, or another of its form.

    Raises:
        InputError: The file is missing, damaged, or of another schema.
    """
    path = Path(path)
    if not path.is_file():
        cure = (
            " The recorded table does not come with this version yet: record it, and join it (docs/"
            "benchmark.md)."
        )
        raise InputError(f"{path}: there is no such file.{cure if path == FILE else ''}")
    try:
        rows = pd.read_csv(
            StringIO(documents.read_text(path)),
            dtype={"digest": str},
        )
    except (ValueError, pd.errors.ParserError) as error:
        raise InputError(f"{path}: cannot be read as a table of scores: {error}") from error
    needed = ("schema", "space", "network", "digest", "seed", "budget", *COSTS, *LOSSES)
    if missing := [name for name in needed if name not in rows.columns]:
        raise InputError(f"{path}: lacks the columns {', '.join(missing)}.")
    if len(rows) == 0:
        raise InputError(f"{path}: has no rows.")
    if (schemas := set(rows["schema"])) != {SCHEMA}:
        raise InputError(f"{path}: is of schema {schemas}; this version reads schema {SCHEMA}.")
    return Benchmark(rows, path)
