"""Prices of many points of a space at once.

What a part of a network costs, say the self-attention of its innermost stage, hangs on few
dimensions. So a part is priced once for each combination of their choices, in a real network, and
kept in a table; the price of a network is one look-up in every table. Rules are looked up in the
same way. Which dimensions a part hangs on is said in ``bears_on``, generously: one too many costs
time, and what is not known bears on everything.
"""

import ast
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archsearch.cost.parts import ENDS, NOTHING, RESIDUAL, Parts, parts_of
from archsearch.cost.price import BYTES_FP32, Place, Times
from archsearch.search_space.paths import BLOCK_KEYS, EVERY, LISTS, SIDES, Segment
from archsearch.unet.config import INHERITED, UNetConfig
from archsearch.unet.plan import plan
from archsearch.unet.units import Unit

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Path = tuple[Segment, ...]

AT_ONCE = 65_536
"""Points that are looked up together."""
ROLES = (RESIDUAL, "projection", "self_attention", "cross_attention", "feed_forward")
OF_OPTION = {
    "conv": {RESIDUAL},
    "projection": {"projection"},
    "attention": {"self_attention", "cross_attention"},
    "feed_forward": {"feed_forward"},
}
"""Which roles each option of a stage is about."""


@dataclass(frozen=True)
class Prices:
    """What the networks of many points cost at batch 1, a value a point."""

    choices: NDArray[np.int16]
    """(N, D): of each dimension the number of its choice, -1 where it is not active."""
    valid: NDArray[np.bool_]
    """Whether the point is an architecture; the prices of one that is none mean nothing."""
    params: Ints
    macs: Ints
    peak_activation_bytes: Ints
    latency_ms: Floats | None = None
    """NaN where the time of a unit is not known."""

    def __len__(self) -> int:
        return len(self.valid)


def bears_on(path: Path, place: Place, role: str, last: int | None) -> bool:
    """Whether what a path leads to bears on the price of a part.

    Args:
        path: Of a dimension.
        place: Of the part.
        role: Of the part.
        last: The last stage, whose width and options are also the middle's; None where the number
            of stages varies.
    """
    head, rest = path[0], path[1:]
    if head in OF_OPTION:
        return role in OF_OPTION[str(head)]
    whole = role != RESIDUAL or path[-1] == "length"  # what follows a block does not change it
    if head == "middle":  # one without blocks leaves the innermost skip where it is
        return whole and (place == "middle" or (role == RESIDUAL and last in (None, place)))
    if head == "time_width":
        return role in (RESIDUAL, ENDS) or place == 0  # whose last block no longer holds it
    if head != "stages" or rest[0] == "length":
        return True
    stage, rest = (rest[0], rest[1:]) if isinstance(rest[0], int) else (EVERY, rest)
    own = last if place == "middle" else 0 if place == "ends" else place

    def is_stage(*wanted: int | None) -> bool:
        return stage == EVERY or None in wanted or stage in wanted

    if rest[0] == "channels":
        if role == RESIDUAL and own is not None and is_stage(0, own + 1):
            return True  # the time embedding's width, and what comes up from below
        return is_stage(own, own and own - 1)
    if rest[0] in OF_OPTION:
        return role in OF_OPTION[str(rest[0])] and is_stage(own)
    if rest[0] in (*SIDES, "*"):
        return whole and isinstance(place, int) and is_stage(place)
    return True


def named_in(rule: str) -> list[Path]:
    """The paths that a rule names; what is reckoned, such as an index, stands for every element."""
    found: list[Path] = []

    def read(node: ast.AST) -> Path | None:
        match node:
            case ast.Name(id=name):
                return (name,)
            case ast.Attribute(value=value, attr=name):
                before = read(value)
                return before and (*before, name)
            case ast.Subscript(value=value, slice=index):
                before = read(value)
                known = isinstance(index, ast.Constant) and isinstance(index.value, int)
                if not known:
                    visit(index)
                return before and (*before, index.value if known else EVERY)  # type: ignore[attr-defined]
        return None

    def visit(node: ast.AST) -> None:
        if (path := read(node)) is not None:
            found.append(path)
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(rule.strip(), mode="eval"))
    return found


def overlap(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same place, or one of them to a part of the other's."""
    for a, b in zip(_spelled(one), _spelled(other), strict=False):
        either = {a, b}
        alike = (
            a == b
            or EVERY in either
            or "length" in either
            or ("*" in either and either & set(SIDES))
            or either <= set(BLOCK_KEYS)
        )
        if not alike:
            return False
    return True


def _spelled(path: Path) -> Path:
    """A path with the index in it that a name after a list leaves out."""
    found: list[Segment] = []
    for segment in path:
        if found and found[-1] in (*LISTS, "*") and isinstance(segment, str):
            found.append(EVERY)
        found.append(segment)
    return tuple(found)


def hangs_on(rule: str, paths: Iterable[Path]) -> bool:
    """Whether a rule looks at what one of ``paths`` sets, or at what inherits it."""
    for named in named_in(rule):
        ends = [named]
        if named[0] == "stages":
            ends += [named[i:] for i, each in enumerate(named) if each in INHERITED]
        if named[0] == "time_width":
            ends.append(("stages", 0, "channels"))
        if any(overlap(end, path) for end in ends for path in paths):
            return True
    return False


@dataclass
class _Table:
    """What the choices of some dimensions decide together, as far as it was looked at."""

    dims: tuple[int, ...]
    read: Callable[[UNetConfig, Parts], tuple[float, ...] | None]
    """What they decide, out of a network that has them."""
    is_rule: bool = False
    known: dict[int, tuple[float, ...] | None] = field(default_factory=dict)
    """By code; None where no network has them."""

    def codes(self, choices: NDArray[np.int16], counts: Sequence[int]) -> Ints:
        """A number for the choices of each row, (N,)."""
        codes: Ints = np.zeros(len(choices), dtype=np.int64)
        for dim in self.dims:
            codes *= counts[dim] + 1
            codes += choices[:, dim] + 1
        return codes


class PriceTables:
    """The tables of a space, which fill as points are asked for.

    Args:
        counts: How many choices each dimension has.
        paths: Where each dimension's value goes.
        stages: How many stages a network may have, lowest and highest.
        build: Gives the network of a row of choices, rules not looked at.
        refused: What ``build`` raises where there is none, and what a rule may raise.
        rules: Conditions, each with what says whether a network keeps it.
        times: Milliseconds of a unit.
    """

    def __init__(
        self,
        counts: Sequence[int],
        paths: Sequence[Sequence[Path]],
        stages: tuple[int, int],
        build: Callable[[Sequence[int]], UNetConfig],
        refused: tuple[type[Exception], ...],
        rules: Mapping[str, Callable[[UNetConfig], bool]],
        times: Times | None = None,
    ) -> None:
        self._counts, self._build, self._refused = counts, build, refused
        self._times, self._unit_ms = times, dict[Unit, float]()
        last = stages[1] - 1 if stages[0] == stages[1] else None
        places: list[Place] = [*range(stages[1]), "middle"]
        roles: dict[tuple[Place, tuple[int, ...]], list[str]] = {}
        for place, role in [("ends", ENDS), *((p, r) for p in places for r in ROLES)]:
            dims = [
                index
                for index, own in enumerate(paths)
                if any(bears_on(path, place, role, last) for path in own)
            ]
            roles.setdefault((place, tuple(dims)), []).append(role)
        self._places = [place for place, _ in roles]
        self._tables = [
            _Table(dims, partial(self._read, place=place, roles=own))
            for (place, dims), own in roles.items()
        ]
        for rule, keeps in rules.items():
            dims = [i for i, own in enumerate(paths) if hangs_on(rule, own)]
            self._tables.append(_Table(tuple(dims), partial(_kept, keeps=keeps), is_rule=True))

    def _read(
        self, _: UNetConfig, found: Parts, place: Place, roles: Sequence[str]
    ) -> tuple[float, ...]:
        """Parameters, MACs, reach, what is held on from here, and milliseconds in two figures,
        which together are exact.
        """
        parts = [each for role in roles if (each := found.parts.get((place, role)))]
        kept = found.base if place == "ends" else found.kept.get(place, 0)
        ms = [self._ms(unit) for part in parts for unit in part.units] if self._times else []
        total = math.fsum(ms)
        return (
            sum(part.params for part in parts),
            sum(part.macs for part in parts),
            max((part.reach for part in parts), default=NOTHING),
            kept if RESIDUAL in roles or ENDS in roles else 0,
            total,
            math.fsum([*ms, -total]),
        )

    def _ms(self, unit: Unit) -> float:
        if unit not in self._unit_ms:
            ms = self._times(unit) if self._times else None
            self._unit_ms[unit] = math.nan if ms is None else ms
        return self._unit_ms[unit]

    def price(self, choices: NDArray[np.int16]) -> Prices:
        """Price rows of choices, (N, D)."""
        starts = range(0, len(choices), AT_ONCE) if len(choices) else [0]
        pieces = [self._price(choices[start : start + AT_ONCE]) for start in starts]
        valid, params, macs, peak, latency = map(np.concatenate, zip(*pieces, strict=True))
        return Prices(choices, valid, params, macs, peak, latency if self._times else None)

    def _price(self, choices: NDArray[np.int16]) -> tuple[NDArray[Any], ...]:
        codes = [table.codes(choices, self._counts) for table in self._tables]
        valid = self._fill(choices, codes)
        rows = np.flatnonzero(valid)
        columns = [np.zeros(len(rows)) for _ in range(6)]
        params, macs, peak, held, ms, rest = columns
        reaches: dict[Place, list[Floats]] = {}
        kept: dict[Place, Floats] = {}
        for place, table, own in zip(self._places, self._tables, codes, strict=False):
            unique, inverse = np.unique(own[rows], return_inverse=True)
            values = np.array([table.known[code] for code in unique.tolist()]).reshape(-1, 6)
            found = values[inverse]
            params += found[:, 0]
            macs += found[:, 1]
            reaches.setdefault(place, []).append(found[:, 2])
            kept[place] = kept.get(place, 0.0) + found[:, 3]
            ms, lost = _exact_sum(ms, found[:, 4])
            rest += lost + found[:, 5]
        for place, those in reaches.items():  # ends first, then the stages, then the middle
            if place == "ends":
                held = kept[place]
            for reach in those:
                np.maximum(peak, held + reach, out=peak)
            if place != "ends":
                held = held + kept[place]
        whole: list[NDArray[Any]] = [valid]
        for column in (params, macs, peak * BYTES_FP32):
            spread = np.zeros(len(choices), dtype=np.int64)
            spread[rows] = column
            whole.append(spread)
        latency = np.full(len(choices), np.nan)
        latency[rows] = ms + rest
        return (*whole, latency)

    def _fill(self, choices: NDArray[np.int16], codes: Sequence[Ints]) -> NDArray[np.bool_]:
        """Look at networks until every table knows what the rows need; returns which rows are
        architectures.
        """
        valid = np.ones(len(choices), dtype=bool)
        for table, own in zip(self._tables, codes, strict=True):
            rows = np.flatnonzero(valid)
            unique, first = np.unique(own[rows], return_index=True)
            for code, row in zip(unique.tolist(), rows[first].tolist(), strict=True):
                # The first network that has it; where that is none, any other that is one.
                while code not in table.known and row is not None:
                    if not self._look(choices, codes, row):
                        valid[row] = False
                        row = next(iter(np.flatnonzero(valid & (own == code)).tolist()), None)
            bad = [code for code in unique.tolist() if table.known.get(code) is None]
            if bad:
                valid &= ~np.isin(own, bad)
        return valid

    def _look(self, choices: NDArray[np.int16], codes: Sequence[Ints], row: int) -> bool:
        """Let every table read the network of a row; returns whether there is one."""
        unknown = [
            (table, code)
            for table, own in zip(self._tables, codes, strict=True)
            if (code := int(own[row])) not in table.known
        ]
        try:
            network = self._build(choices[row].tolist())
        except self._refused:
            # Each check of an architecture looks at one part: it is the only one that is not known.
            own = [each for each in unknown if not each[0].is_rule]
            if len(own) == 1:
                own[0][0].known[own[0][1]] = None
            return False
        parts = parts_of(plan(network))
        for table, code in unknown:
            try:
                table.known[code] = table.read(network, parts)
            except self._refused:
                table.known[code] = None
        return True


def _kept(
    network: UNetConfig, _: Parts, keeps: Callable[[UNetConfig], bool]
) -> tuple[float, ...] | None:
    return () if keeps(network) else None


def _exact_sum(one: Floats, other: Floats) -> tuple[Floats, Floats]:
    """A sum, and what its rounding has lost (Knuth)."""
    total = one + other
    part = total - one
    return total, (one - (total - part)) + (other - part)
