"""Latency of a network from the times of its units, and the units that a space needs."""

import math
import random
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, get_args

from archsearch import documents
from archsearch.cost.price import Times, bill, macs, params, price, tape
from archsearch.errors import InputError
from archsearch.latency.table import (
    Entry,
    LatencyTable,
    PublishedTable,
    describe,
    keys_of,
    measured_as,
    parse,
)
from archsearch.search_space.prices import Prices
from archsearch.search_space.space import InvalidPointError, Point, Space
from archsearch.unet import units
from archsearch.unet.config import UNetConfig
from archsearch.unet.plan import Plan, plan
from archsearch.unet.units import Unit

NEIGHBOURS = 4
# Weight of an element moved against a multiply-accumulate: depthwise convolutions and norms move
# much and multiply little.
BYTES_A_MAC = 2.0


def estimate(unit: Unit, table: LatencyTable, leave_out: Unit | None = None) -> float | None:
    """Estimate the median of ``unit`` in ms.

    Its nearest entries, those with the same options (kind of convolution, normaliser, …) first,
    each tell how long a unit of work takes; their mean, weighted by nearness in the logarithm of
    the shapes, times the work of ``unit``.

    Args:
        unit: What the table lacks.
        table: Where to look for its like.
        leave_out: An entry not to look at, to see how well it would have been estimated.

    Returns:
        Milliseconds, or None where the table has no entry of its kind.
    """
    options, shape = _options_and_shape(unit)
    ranked: list[tuple[int, float, Entry]] = []  # options that differ, distance of shapes, entry
    for entry in table.entries:
        if entry.unit.kind == unit.kind and entry.unit != leave_out:
            its_options, its_shape = _options_and_shape(entry.unit)
            differing = sum(a != b for a, b in zip(options, its_options, strict=True))
            ranked.append((differing, math.dist(shape, its_shape), entry))
    if not ranked:
        return None
    ranked.sort(key=lambda item: item[:2])
    nearest = [item for item in ranked if item[0] == ranked[0][0]][:NEIGHBOURS]
    weights = [1 / (distance + 0.05) for _, distance, _ in nearest]
    paces = [math.log(entry.p50 / work(entry.unit)) for _, _, entry in nearest]
    pace = sum(w * p for w, p in zip(weights, paces, strict=True)) / sum(weights)
    return max(round(math.exp(pace) * work(unit), 6), 1e-6)


@lru_cache(maxsize=65536)
def work(unit: Unit) -> float:
    """Multiply-accumulates and elements moved, in one figure."""
    if isinstance(unit, units.Projection):
        moved = 6 * unit.channels * unit.size**2
    else:
        moved = sum(op.elements for op in tape(unit)) + bill(unit).peak
    return macs(unit).total + BYTES_A_MAC * (moved + params(unit))


@lru_cache(maxsize=65536)
def _options_and_shape(unit: Unit) -> tuple[list[object], list[float]]:
    # The options of a unit, and the logarithms of its sizes.
    values = [getattr(unit, field.name) for field in fields(unit)]
    sizes = [value for value in values if type(value) is int]
    return [value for value in values if type(value) is not int], [math.log(n + 1) for n in sizes]


NAMED = 4

AnyTable = LatencyTable | PublishedTable
OnMissing = Literal["error", "predict"]
ON_MISSING: tuple[OnMissing, ...] = get_args(OnMissing)


class MissingEntryError(InputError):
    """A table lacks units of a network. ``missing`` has all of them; the message names the first
    few.
    """

    def __init__(self, table: LatencyTable, missing: list[Unit]) -> None:
        self.missing = missing
        reasons = {failure.unit: f" (failed: {failure.reason})" for failure in table.failed}
        named = "; ".join(describe(unit) + reasons.get(unit, "") for unit in missing[:NAMED])
        more = f"; and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        super().__init__(
            f"latency table {table.name} lacks {len(missing)} of the network's units: "
            f"{named}{more}. Measure them with: archsearch latency measure"
        )


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted latency at batch 1.

    Attributes:
        latency_ms: Scale times the sum of the units' medians, plus offset; of a published table a
            point of its line.
        estimated: Entries that the table lacks and that were estimated from others of their kind.
    """

    latency_ms: float
    provenance: Literal["predicted", "published"] = "predicted"
    estimated: tuple[Unit, ...] = ()

    @property
    def ms(self) -> float:
        """The same as ``latency_ms``."""
        return self.latency_ms

    @property
    def mark(self) -> str:
        """What has to be said wherever the figure shows; empty where every unit was measured."""
        if self.provenance == "published":
            return "published estimate"
        return f"{len(self.estimated)} of its units estimated" if self.estimated else ""


def predict(
    config: UNetConfig | Plan, table: AnyTable, on_missing: OnMissing = "error"
) -> Prediction:
    """Predict the latency of a network: the sum of its units' medians, corrected as the table says.

    Args:
        config: The network, at deployment scale.
        table: A measured table, or a published one, which is good for its own family only.
        on_missing: What to do about units the table lacks: refuse, or estimate them
            (``archsearch.latency.predict``).

    Raises:
        MissingEntryError: The table lacks units of it, or even has nothing to estimate them from.
        InputError: The network is not of the family that a published table is good for.
    """
    resolved = config if isinstance(config, Plan) else plan(config)
    if isinstance(table, PublishedTable):
        return Prediction(table.latency_ms(resolved), "published")
    taken, times = list[float](), table.times
    lacking: list[tuple[Unit, int]] = []
    for unit, count in resolved.tally():
        ms = times[unit]
        if ms is None:
            lacking.append((unit, count))
        else:
            taken += [ms] * count
    missing = table.lacks(unit for unit, _ in lacking) if lacking else []
    if missing and on_missing == "error":
        raise MissingEntryError(table, missing)
    if lacking:
        for unit, count in lacking:
            taken += [unit_ms(unit, table, on_missing)] * count
    total = math.fsum(taken)  # exact: in whatever order units come, the sum is the same
    ms = table.correction.apply(total)
    if ms <= 0:
        raise InputError(
            f"latency table {table.name}: correction: gives {ms:.4g} ms for a sum of "
            f"{total:.4g} ms."
        )
    return Prediction(ms, estimated=tuple(missing))


@dataclass(frozen=True)
class Predictor:
    """A latency table as the public API hands it out."""

    table: AnyTable

    def predict(self, network: UNetConfig, on_missing: OnMissing = "error") -> Prediction:
        """Predict the latency of a network, at batch 1; see :func:`predict`.

        Raises:
            MissingEntryError: The table lacks units of it.
        """
        return predict(network, self.table, on_missing)

    def price_all(
        self,
        space: Space,
        points: Iterable[Point] | None = None,
        on_missing: OnMissing = "error",
    ) -> Prices:
        """Price every point of a space, or the given ones, with their latencies: to the last digit
        what :meth:`predict` says of each, NaN where it refuses one.

        Raises:
            InputError: The table is a published one, which says nothing of units, or the space has
                too many points to list.
        """
        times = unit_times(self.table, on_missing)
        if times is None or isinstance(self.table, PublishedTable):
            raise InputError(
                f"latency table {self.table.name}: is a published one, which has no units."
            )
        found = space.price_all(_known(times), points)
        assert found.latency_ms is not None
        return replace(found, latency_ms=self.table.correction.apply(found.latency_ms))

    def by_unit(self, network: UNetConfig, on_missing: OnMissing = "error") -> dict[Unit, float]:
        """Milliseconds of every unit of a network, before the table's correction: their sum is not
        quite the prediction. Empty for a published table, which has no units.

        Raises:
            MissingEntryError: The table lacks units of it.
        """
        resolved, table = plan(network), self.table
        predict(resolved, table, on_missing)  # refuses, and then names all units that are missing
        if isinstance(table, PublishedTable):
            return {}
        return {unit: unit_ms(unit, table, on_missing) for unit, _ in resolved.tally()}


def _known(times: Times) -> Times:
    """The same, None where a table has no time of a unit."""

    def ms(unit: Unit) -> float | None:
        try:
            return times(unit)
        except MissingEntryError:
            return None

    return ms


def unit_ms(unit: Unit, table: LatencyTable, on_missing: OnMissing = "error") -> float:
    """Median of a unit in ms, before the table's correction.

    Raises:
        MissingEntryError: The table lacks it, or even has nothing to estimate it from.
    """
    known = table.times[unit]
    if known is not None:
        return known
    times = {part: table.times[part] for part in measured_as(unit)}
    if on_missing == "predict":
        times = {part: estimate(part, table) if ms is None else ms for part, ms in times.items()}
    if hopeless := [part for part, ms in times.items() if ms is None]:
        raise MissingEntryError(table, hopeless)
    return sum(ms for ms in times.values() if ms is not None)


def load_table(path: Path) -> AnyTable:
    """Read a measured or a published table: the latter says so in ``provenance``. It goes by the
    name of its file.

    Raises:
        InputError: It cannot be read, or holds what is not allowed.
    """
    document = documents.read(path)
    documents.check_kind(document, "latency table")
    if "provenance" in document.data:
        return parse(document, PublishedTable).of_file(path)
    return parse(document, LatencyTable).of_file(path)


ENUMERATE_UP_TO = 20_000
QUIET_DRAWS = 3_000


def points(space: Space) -> Iterator[tuple[Point, UNetConfig]]:
    """The architectures of a space: all of a small one; of a large one, draws until 3,000 in a row
    bring no new unit.
    """
    if space.size <= ENUMERATE_UP_TO:
        for point in space.points():
            try:
                yield point, space.build(point)
            except InvalidPointError:
                continue
        return
    rng, quiet, seen = random.Random(0), 0, set[Unit]()
    while quiet < QUIET_DRAWS:
        point, config = space.draw_valid(rng)
        new = set(keys_of([config])) - seen
        quiet = 0 if new else quiet + 1
        seen |= new
        yield point, config


def draw_distinct(
    space: Space, count: int, seed: int, suits: Callable[[UNetConfig], bool] = lambda config: True
) -> list[UNetConfig]:
    """Draw different random networks of a space, in the order of drawing.

    Raises:
        InputError: It does not have as many that ``suits`` says yes to.
    """
    rng, found = random.Random(seed), dict[str, UNetConfig]()
    for _ in range(100 * count):
        if len(found) == count:
            break
        config = space.draw_valid(rng)[1]
        if config.digest not in found and suits(config):
            found[config.digest] = config
    if len(found) < count:
        raise InputError(
            f"space {space.name}: only {len(found)} different networks were found, but {count} "
            "were asked for."
        )
    return list(found.values())


def units_of(space: Space) -> list[Unit]:
    """The entries that the networks of a space need, sorted."""
    return keys_of(config for _, config in points(space))


def needing(space: Space, units: Collection[Unit]) -> tuple[list[Point], int]:
    """The networks of a space (see ``points``) that need one of ``units``, and of how many."""
    wanted, total, found = set(units), 0, []
    for point, config in points(space):
        total += 1
        if wanted.intersection(keys_of([config])):
            found.append(point)
    return found, total


def figures_of(
    config: UNetConfig, table: AnyTable | None = None, on_missing: OnMissing = "error"
) -> dict[str, Any]:
    """The cost of an architecture at deployment scale and batch 1.

    Args:
        config: The architecture.
        table: Latency table; None leaves the latency out.
        on_missing: What to do about units that the table lacks.

    Returns:
        What ``Cost.to_dict`` gives; with a table also ``latency_ms``, ``latency_table`` and, where
        something has to be said of the latency, ``latency_note``.

    Raises:
        MissingEntryError: The table lacks units of the architecture.
        InputError: The architecture is not of the family that a published table is good for.
    """
    figures = price(config).to_dict()
    if table is not None:
        predicted = predict(config, table, on_missing)
        figures |= {"latency_ms": predicted.latency_ms, "latency_table": table.name}
        figures |= {"latency_note": predicted.mark} if predicted.mark else {}
    return figures


def unit_times(table: AnyTable | None, on_missing: OnMissing) -> Times | None:
    """Milliseconds of a unit, before the table's correction; None without a table, and for a
    published one, which has no units.
    """
    if table is None or isinstance(table, PublishedTable):
        return None
    return partial(unit_ms, table=table, on_missing=on_missing)
