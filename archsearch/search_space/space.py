"""Search spaces: the file format, the conditions in it, and the space that is drawn from."""

import ast
import itertools
import json
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from simpleeval import (
    DEFAULT_OPERATORS,
    AttributeDoesNotExist,
    EvalWithCompoundTypes,
    InvalidExpression,
)

from archsearch import catalog, documents
from archsearch.cost.price import Times
from archsearch.errors import InputError, located, nearest
from archsearch.files import printable
from archsearch.search_space import paths
from archsearch.search_space.prices import Prices, PriceTables
from archsearch.unet.config import INHERITED, ResidualBlock, UNetConfig

# The value of every active dimension, by its name, in the order of the dimensions.
Point = dict[str, Any]


MOST_VALUES = 10_000
"""So many a dimension may range over."""


MOST_POINTS = 5_000_000
"""So many points of a space are priced at once."""


class Dimension(BaseModel):
    """One thing that may vary: where, and over what."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    path: str | tuple[str, ...]
    """Where the value goes in the architecture; several paths take the same value."""
    choices: tuple[Any, ...] | None = None
    """The values, in full. Excludes range."""
    range: tuple[int, int] | None = None
    """Lowest and highest whole number, both included. Excludes choices."""
    step: int = Field(default=1, ge=1)
    """Step of the range."""
    when: str | None = None
    """Condition over other dimensions, e.g. ``inner_conv == 'full'``; where it fails the base's
    value stays.
    """
    description: str | None = None

    @model_validator(mode="after")
    def _choices_or_range(self) -> Self:
        if (self.choices is None) == (self.range is None):
            raise ValueError("needs either choices or range")
        if self.range is not None and self.range[0] > self.range[1]:
            raise ValueError(
                f"range must be [low, high] with low <= high, but got {list(self.range)}"
            )
        if self.range is not None and (self.range[1] - self.range[0]) // self.step >= MOST_VALUES:
            raise ValueError(
                f"range {list(self.range)} has more than {MOST_VALUES:,} values; take a larger step"
            )
        if not self.values:
            raise ValueError("choices must not be empty")
        labels = [label(value) for value in self.values]
        if len(set(labels)) != len(labels):
            raise ValueError(f"choices must differ, but got {labels}")
        return self

    @property
    def paths(self) -> tuple[str, ...]:
        """Every path the value goes to."""
        return (self.path,) if isinstance(self.path, str) else self.path

    @property
    def values(self) -> tuple[Any, ...]:
        """Every value, in order."""
        if self.range is None:
            return self.choices or ()
        return tuple(range(self.range[0], self.range[1] + 1, self.step))


class SpaceFile(BaseModel):
    """A search space as written: a base architecture, what may vary around it, and rules that every
    member obeys.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True
    )

    schema_version: Literal[1] = Field(alias="schema")
    base: str | dict[str, Any]
    """A preset's name, a UNetConfig file, or a UNetConfig written out."""
    dimensions: dict[str, Dimension] = Field(min_length=1)
    rules: tuple[str, ...] = ()
    """Conditions over the architecture, e.g. ``stages[2].channels >= stages[1].channels``."""


def label(value: Any) -> str | int | float | bool | None:
    """A value as a plain label for tables and storage: layers become ``sa+ca+ff``, none of them
    ``none``.
    """
    if isinstance(value, list | tuple):
        return "+".join(str(item) for item in value) or "none"
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise ValueError(
        f"a choice must be a number, a word, true, false or a list of layers, but got {value!r}"
    )


def _sum(numbers: Sequence[float]) -> float:
    total: float = sum(map(_number, numbers))
    return total


# What conditions may call.
FUNCTIONS = {"len": len, "min": min, "max": max, "sum": _sum, "abs": abs}
LONGEST = 1000
"""So many characters a condition may have."""
LARGEST = 1e15
"""Of numbers that conditions reckon with: no figure of a network comes near it."""


def _number(value: Any) -> Any:
    if not isinstance(value, int | float) or not abs(value) <= LARGEST:
        shown = repr(value) if isinstance(value, float) else type(value).__name__
        raise InvalidExpression(f"it reckons with numbers up to {LARGEST:g}, but got {shown}")
    return value


def _of_numbers(operator: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *values: operator(*map(_number, values))


# Simpleeval's own also repeat lists, format texts, and raise numbers to any power: a line of those
# takes the machine. Comparisons and ``not`` are as they are.
OPERATORS = {
    **{sign: work for sign, work in DEFAULT_OPERATORS.items() if issubclass(sign, ast.cmpop)},
    **{
        sign: _of_numbers(DEFAULT_OPERATORS[sign])
        for sign in (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.USub, ast.UAdd)
    },
    ast.Not: DEFAULT_OPERATORS[ast.Not],
}
# Of Python's expressions these alone: nothing that repeats, formats or calls what a value brings.
_PARTS = (
    *(ast.Expr, ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Compare, ast.IfExp, ast.Call, ast.Name),
    *(ast.Attribute, ast.Subscript, ast.Slice, ast.Constant, ast.List, ast.Tuple, ast.expr_context),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop),
)


class Inactive:
    """Value of a dimension that is not active: every comparison with it is false."""

    def _false(self, _: object) -> bool:
        return False

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _false
    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        return False


@lru_cache(maxsize=4096)
def _parsed(expression: str) -> Any:
    if len(expression) > LONGEST:
        raise InvalidExpression(f"it is longer than {LONGEST} characters")
    if len(ast.parse(expression.strip()).body) > 1:  # simpleeval would take the first
        raise InvalidExpression("it is more than one condition; join them with and")
    parsed = EvalWithCompoundTypes.parse(expression)
    if not isinstance(parsed, ast.Expr):  # of an assignment simpleeval would take the right side
        raise InvalidExpression("it is not a condition; write e.g. a == b")
    for part in ast.walk(parsed):
        operator = part.op if isinstance(part, ast.BinOp | ast.UnaryOp) else ast.Not()
        if not isinstance(part, _PARTS) or type(operator) not in OPERATORS:
            text = ast.get_source_segment(expression.strip(), part) or type(part).__name__
            raise InvalidExpression(f"'{text}' is nothing that a condition may hold")
        if isinstance(part, ast.Call) and not isinstance(part.func, ast.Name):
            raise InvalidExpression(f"what may be called is {', '.join(FUNCTIONS)}")
    return parsed


def holds(expression: str, names: dict[str, Any]) -> bool:
    """Evaluate a condition over ``names``.

    Raises:
        InputError: The condition cannot be read, or names something that is not there.
    """
    evaluator = EvalWithCompoundTypes(operators=OPERATORS, names=names, functions={**FUNCTIONS})
    try:
        return bool(evaluator.eval(expression, previously_parsed=_parsed(expression)))
    except SyntaxError as error:
        raise InputError(f"'{expression}' cannot be read: {error.msg}") from error
    except (RecursionError, MemoryError) as error:  # that of Python's parser
        raise InputError(f"'{expression}' cannot be read: it is nested too deeply") from error
    except (
        InvalidExpression,
        TypeError,
        LookupError,
        AttributeError,
        ValueError,
        ArithmeticError,
    ) as error:
        if isinstance(error, AttributeDoesNotExist):
            hint = nearest(error.attr, sorted(_keys_below(names)))
        else:
            hint = nearest(str(getattr(error, "name", "")), names)
        raise InputError(
            f"'{expression}' cannot be evaluated: {error}.{hint} Known: {', '.join(names)}"
        ) from error


def _keys_below(value: Any) -> set[str]:
    if isinstance(value, list | tuple):
        return set().union(*map(_keys_below, value))
    return set(value).union(*map(_keys_below, value.values())) if isinstance(value, dict) else set()


def _spelled_out(config: UNetConfig) -> dict[str, Any]:
    # An architecture as conditions see it: plain data by the names that paths use, options with
    # inheritance resolved.

    def plain(value: Any) -> Any:
        return dict(value) if isinstance(value, BaseModel) else value

    def blocks(side: tuple[ResidualBlock, ...]) -> list[dict[str, Any]]:
        return [
            {
                "transformers": len(block.transformers),
                "layers": list(block.transformers[0]) if len(set(block.transformers)) == 1 else [],
            }
            for block in side
        ]

    network = {name: plain(value) for name, value in config if name != "schema_version"}
    network |= {name: plain(config.option(name)) for name in INHERITED}
    network["time_width"] = config.time_width or 4 * config.stages[0].channels
    network["middle"] = blocks(config.middle)
    network["stages"] = [
        {name: plain(value) for name, value in options.items()}
        | {"channels": stage.channels, "down": blocks(stage.down), "up": blocks(stage.up)}
        for stage, options in zip(config.stages, config.options(), strict=True)
    ]
    return network


class InvalidPointError(Exception):
    """A point that is no architecture: a rule fails, or the network cannot be built."""


class Space:
    """A search space read from a file, checked once."""

    def __init__(self, name: str, file: SpaceFile, base: UNetConfig) -> None:
        self.name = name
        self.file = file
        self.base = base
        self.dimensions: dict[str, Dimension] = dict(file.dimensions)
        self._segments = {
            key: [paths.parse(path) for path in dim.paths] for key, dim in self.dimensions.items()
        }
        self._base_tree = json.dumps(paths.open_form(base))
        # Lengths first, so that "every block" means the new ones too.
        self._order = sorted(
            self.dimensions, key=lambda key: all(s[-1] != "length" for s in self._segments[key])
        )

    def beside(self, name: str, choices: Sequence[int]) -> "Space":
        """This space with one more dimension, the last, that is no part of the architecture: for
        what a study searches beside it, such as the number of sampling steps.

        It is chosen, sampled, counted, neighboured and labelled like every other; ``build`` leaves
        it out, and so does ``locate``.

        Args:
            name: Name of the dimension.
            choices: Its values, in order.

        Raises:
            InputError: The space has a dimension of that name.
        """
        if name in self.dimensions:
            raise InputError(
                f"dimensions: '{name}' is the name of the study's own; choose another."
            )
        own = Dimension(path=(), choices=tuple(choices))
        file = self.file.model_copy(update={"dimensions": self.dimensions | {name: own}})
        return Space(self.name, file, self.base)

    @property
    def size(self) -> int:
        """Number of points, conditions and rules not looked at."""
        return math.prod(len(dimension.values) for dimension in self.dimensions.values())

    def build(self, point: Point) -> UNetConfig:
        """Build the architecture of a point.

        Raises:
            InvalidPointError: A rule fails or the architecture is impossible; the message says
                which and why.
        """
        config = self._built(point)
        names = _spelled_out(config) if self.file.rules else {}
        for rule in self.file.rules:
            try:
                held = holds(rule, names)
            except InputError as error:  # it holds for the base: here a list is shorter
                raise InvalidPointError(f"rule {error}") from error
            if not held:
                raise InvalidPointError(f"rule '{rule}' fails")
        return config

    def _built(self, point: Point) -> UNetConfig:
        """The architecture of a point, rules not looked at."""
        tree = json.loads(self._base_tree)
        for name in self._order:
            if name in point:
                try:
                    self._assign(tree, name, point[name])
                except InputError as error:  # a list that another dimension has made shorter
                    raise InvalidPointError(f"dimension '{name}': {error}") from error
        try:
            return UNetConfig.model_validate(tree)
        except ValidationError as error:
            first = error.errors()[0]
            raise InvalidPointError(first["msg"].removeprefix("Value error, ")) from error

    def _assign(self, tree: dict[str, Any], name: str, value: Any) -> None:
        for segments in self._segments[name]:
            paths.assign(tree, segments, value)

    def choose(self, choose: Callable[[str, Dimension], Any]) -> Point:
        """Make a point by asking ``choose`` for every dimension that is active, in order."""
        point: Point = {}
        for name, dimension in self.dimensions.items():
            if dimension.when is not None:
                # Inactive dimensions compare as false, so that conditions on them simply fail.
                known = {
                    key: label(point[key]) if key in point else Inactive()
                    for key in self.dimensions
                }
                if not holds(dimension.when, known):
                    continue
            point[name] = choose(name, dimension)
        return point

    def draw(self, rng: random.Random) -> Point:
        """Draw a point, each active dimension uniformly."""
        return self.choose(lambda _, dimension: rng.choice(dimension.values))

    def draw_valid(self, rng: random.Random, tries: int = 1000) -> tuple[Point, UNetConfig]:
        """Draw points until one is an architecture.

        Raises:
            InputError: None of ``tries`` draws was; the message has the last reason.
        """
        reason = ""
        for _ in range(tries):
            point = self.draw(rng)
            try:
                return point, self.build(point)
            except InvalidPointError as error:
                reason = str(error)
        raise InputError(
            f"space '{self.name}': none of {tries} random points is a valid architecture; the "
            f"last: {reason}."
        )

    def point(self, labels: Mapping[str, Any]) -> Point:
        """As :meth:`labelled`, but a dimension that is left out has its first choice."""
        first = {name: label(each.values[0]) for name, each in self.dimensions.items()}
        return self.labelled(first | {name: label(given) for name, given in labels.items()})

    def labels(self, point: Point) -> dict[str, Any]:
        """A point as plain labels; :meth:`point` reads them."""
        return {name: label(value) for name, value in point.items()}

    def _completed(self, values: Point) -> Point:
        # Conditions are applied, and a dimension without a value has its first.
        return self.choose(lambda name, dimension: values.get(name, dimension.values[0]))

    def labelled(self, labels: Mapping[str, Any]) -> Point:
        """The point of labels, as ``space show`` prints them. Conditions are applied: dimensions
        that are not active are left out, whether they have a label or not.

        Raises:
            InputError: A dimension is unknown or lacks its label, or has another value.
        """
        for name in labels:
            if name not in self.dimensions:
                raise InputError(
                    f"'{name}' is no dimension of the space."
                    f"{nearest(name, self.dimensions)} Allowed are: {', '.join(self.dimensions)}."
                )

        def choose(name: str, dimension: Dimension) -> Any:
            allowed = ", ".join(json.dumps(label(value)) for value in dimension.values)
            if name not in labels:
                raise InputError(f"'{name}' has no value. Allowed are: {allowed}.")
            given = labels[name]
            for value in dimension.values:
                own = label(value)
                if own == given and isinstance(own, bool) == isinstance(given, bool):
                    return value
            raise InputError(f"'{name}' must be one of {allowed}, but got {json.dumps(given)}.")

        return self.choose(choose)

    def sample(self, count: int, seed: int = 0) -> list[UNetConfig]:
        """Draw ``count`` architectures; one may come twice.

        Raises:
            InputError: Hardly a point of the space is an architecture.
        """
        rng = random.Random(seed)
        return [self.draw_valid(rng)[1] for _ in range(count)]

    def neighbours(self, point: Point) -> Iterator[Point]:
        """Points that differ from ``point`` in one dimension; conditions are applied again."""
        for name in point:
            for value in self.dimensions[name].values:
                if label(value) != label(point[name]):
                    yield self._completed(point | {name: value})

    def points(self) -> Iterator[Point]:
        """Every point of the space once, conditions applied."""
        seen: set[tuple[tuple[str, Any], ...]] = set()
        conditional = any(dimension.when for dimension in self.dimensions.values())
        for values in itertools.product(*(each.values for each in self.dimensions.values())):
            point = dict(zip(self.dimensions, values, strict=True))
            if conditional:
                point = self._completed(point)
                identity = tuple((key, label(value)) for key, value in point.items())
                if identity in seen:
                    continue
                seen.add(identity)
            yield point

    # Prices

    def price_all(
        self, times: Times | None = None, points: Iterable[Point] | None = None
    ) -> Prices:
        """Price every point of the space, or the given ones, at once: hundreds of thousands of
        networks a second, where ``price`` takes them one by one, and the same to the last digit.

        Args:
            times: Milliseconds of a unit, None where they are not known; adds the sum over the
                units as ``latency_ms``. ``Predictor.price_all`` gives those of a latency table.
            points: By default all, in the order of :meth:`points`.

        Raises:
            InputError: The space has too many points to list.
        """
        choices = self._listed() if points is None else self._numbered(points)
        lengths = {len(self.base.stages)}
        for name, segments in self._segments.items():
            if ("stages", "length") in segments:
                lengths = lengths | set(self.dimensions[name].values)
        tables = PriceTables(
            [len(each.values) for each in self.dimensions.values()],
            list(self._segments.values()),
            (min(lengths), max(lengths)),
            lambda row: self._built(self.point_of(row)),
            (InvalidPointError, InputError),
            {rule: partial(_keeps, rule) for rule in self.file.rules},
            times,
        )
        return tables.price(choices)

    def point_of(self, choices: Iterable[int]) -> Point:
        """The point of a row of ``Prices.choices``."""
        pairs = zip(self.dimensions.items(), choices, strict=True)
        return {name: each.values[index] for (name, each), index in pairs if index >= 0}

    def _numbered(self, points: Iterable[Point]) -> NDArray[np.int16]:
        """Points as numbers of choices, a row each."""
        numbers = {
            name: {label(value): index for index, value in enumerate(each.values)}
            for name, each in self.dimensions.items()
        }
        rows = [
            [of[label(point[name])] if name in point else -1 for name, of in numbers.items()]
            for point in points
        ]
        return np.array(rows, dtype=np.int16).reshape(-1, len(self.dimensions))

    def _listed(self) -> NDArray[np.int16]:
        """Every point once, conditions applied, in the order of :meth:`points`."""
        if self.size > MOST_POINTS:
            raise InputError(
                f"space '{self.name}': has {self.size:,} points; up to {MOST_POINTS:,} are priced "
                "at once. Give those that are wanted, `points`."
            )
        shape = [len(each.values) for each in self.dimensions.values()]
        rows = np.stack(np.unravel_index(np.arange(self.size), shape), axis=1).astype(np.int16)
        for column, dimension in enumerate(self.dimensions.values()):
            if dimension.when is not None:
                off = ~self._is_active(dimension.when, rows)
                # Where it is not active all its choices are one point: the first stands for it.
                rows[off & (rows[:, column] == 0), column] = -1
                rows = rows[~off | (rows[:, column] == -1)]
        return rows

    def _is_active(self, when: str, rows: NDArray[np.int16]) -> NDArray[np.bool_]:
        columns = [i for i, name in enumerate(self.dimensions) if name in _named_in(when)]
        unique, inverse = np.unique(rows[:, columns], axis=0, return_inverse=True)
        names = [list(self.dimensions)[column] for column in columns]

        def holds_for(row: Sequence[int]) -> bool:
            known = {
                name: label(self.dimensions[name].values[index]) if index >= 0 else Inactive()
                for name, index in zip(names, row, strict=True)
            }
            return holds(when, known)

        found = np.array([holds_for(row) for row in unique.tolist()], dtype=bool)
        return found[inverse.reshape(-1)]

    def locate(self, config: UNetConfig) -> Point | None:
        """The point that builds ``config``, or None where it lies outside the space.

        Dimensions that ``beside`` has added are left out: no architecture tells their value. The
        caller adds it.
        """
        tree, resolved = paths.open_form(config), _spelled_out(config)

        def read(name: str, dimension: Dimension) -> Any:
            raw: list[Any] = []
            full: list[Any] = []
            for segments in self._segments[name]:
                found = paths.lookup(tree, segments)
                raw += found
                full += _resolved(found, resolved, segments)
            if self._segments[name] and self._segments[name][0][-1] in paths.BLOCK_KEYS:
                # Where there are no transformer blocks, layers and counts say nothing: `build`
                # decides.
                full = [value for value in full if value] or full
            for found in (raw, full):  # null may be a choice of its own
                for value in dimension.values:
                    if all(label(value) == label(item) for item in found):
                        return value
            return dimension.values[0]

        try:
            point = self.choose(read)
            if self.build(point) != config:
                return None
        except (InvalidPointError, InputError):
            return None
        return {name: value for name, value in point.items() if self._segments[name]}


def _keeps(rule: str, network: UNetConfig) -> bool:
    return holds(rule, _spelled_out(network))


def _resolved(
    found: list[Any], resolved: dict[str, Any], segments: tuple[paths.Segment, ...]
) -> list[Any]:
    # Values at a path; what the canonical form leaves out is read with inheritance resolved.
    if None in found:
        defaults = paths.lookup(resolved, segments)
        found = [b if a is None else a for a, b in zip(found, defaults, strict=True)]
    return [[] if value is None and segments[-1] == "layers" else value for value in found]


def load_space(name: str, near: Path | None = None) -> Space:
    """Read a space by name or path.

    Raises:
        InputError: The file is missing or wrong; one line for each problem, with the file's line.
    """
    path = catalog.find("space", name, near)
    document = documents.read(path)
    documents.check_kind(document, "search space")
    file = documents.validate(document, SpaceFile)
    base = _base(document, file)
    names = _spelled_out(base)
    for key, dimension in file.dimensions.items():
        with document.located("dimensions", key, "path"):
            if not dimension.paths:
                raise InputError("names no place")
            for each in dimension.paths:
                paths.lookup(names, paths.parse(each))
    # Every condition is evaluated once, so that a misspelt name is found here and not in the middle
    # of a study. It may name dimensions above it: values are chosen in order.
    for index, rule in enumerate(file.rules):
        with document.located("rules", index):
            _check_rule(rule, names, file.dimensions)
            holds(rule, names)
    earlier: dict[str, Any] = {}
    for key, dimension in file.dimensions.items():
        if dimension.when is not None:
            with document.located("dimensions", key, "when"):
                _check_when(dimension.when, earlier, names, file.dimensions)
                holds(dimension.when, earlier)
        earlier[key] = label(dimension.values[0])
    space = Space(printable(path.stem), file, base)
    for key, dimension in file.dimensions.items():
        for value in dimension.values:
            with document.located("dimensions", key), located(repr(label(value))):
                _check_value(space, key, value)
    return space


def _named_in(expression: str) -> set[str]:
    try:
        tree = ast.parse(expression, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()  # whoever evaluates it says what is wrong
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _check_rule(rule: str, names: Mapping[str, Any], dimensions: Mapping[str, Dimension]) -> None:
    for name in sorted(_named_in(rule) - names.keys()):
        if name in dimensions:
            raise InputError(
                f"'{rule}' names the dimension '{name}', but a rule is about the architecture: "
                f"write its path, {' or '.join(dimensions[name].paths)}. The `when` of a dimension "
                "is what names other dimensions"
            )


def _check_when(
    when: str,
    earlier: Mapping[str, Any],
    names: Mapping[str, Any],
    dimensions: Mapping[str, Dimension],
) -> None:
    for name in sorted(_named_in(when) - earlier.keys()):
        above = f"Dimensions above it are: {', '.join(earlier) or 'none'}"
        if name in dimensions:
            raise InputError(
                f"'{when}' names '{name}', which stands below: a dimension can depend on those "
                f"above it only. {above}"
            )
        if name in names:
            raise InputError(
                f"'{when}' names a part of the architecture, '{name}', but `when` is about other "
                f"dimensions, by their names; conditions on paths are `rules`. {above}"
            )


def _base(document: documents.Document, file: SpaceFile) -> UNetConfig:
    if isinstance(file.base, str):
        with document.located("base"):
            return catalog.load_architecture(file.base, document.path).config
    return documents.validate(document.below("base"), UNetConfig)


def _check_value(space: Space, name: str, value: Any) -> None:
    # Set a value on the base alone: one that can never be built because of its own form is found
    # here.
    tree = paths.open_form(space.base)
    space._assign(tree, name, value)
    try:
        UNetConfig.model_validate(tree)
    except ValidationError as error:
        # Errors of a whole network may be mended by another dimension; those of one field cannot.
        wrong = [item["msg"] for item in error.errors() if item["type"] != "value_error"]
        if wrong:
            raise InputError(wrong[0]) from error
