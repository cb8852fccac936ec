"""Search spaces: the file format, its rules, and what is drawn from it."""

import ast
import copy
import itertools
import json
import math
import random
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from simpleeval import AttributeDoesNotExist, EvalWithCompoundTypes, InvalidExpression

from archsearch import catalog, documents
from archsearch.catalog import load_architecture
from archsearch.errors import InputError, nearest
from archsearch.search_space import paths
from archsearch.unet.config import INHERITED, ResidualBlock, UNetConfig


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
        if self.choices is not None:
            if not self.choices:
                raise ValueError("choices must not be empty")
            labels = [label(choice) for choice in self.choices]
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
        if self.choices is not None:
            return self.choices
        assert self.range is not None
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


FUNCTIONS = {"len": len, "min": min, "max": max, "sum": sum, "abs": abs}


class Inactive:
    """Value of a dimension that is not active: every comparison with it is false."""

    def _false(self, _: object) -> bool:
        return False

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _false
    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        return False


@lru_cache(maxsize=4096)
def _parse(expression: str) -> Any:
    parsed = EvalWithCompoundTypes.parse(expression)
    if not isinstance(
        parsed, ast.Expr
    ):  # e.g. an assignment, of which simpleeval would take the right side
        raise InvalidExpression("it is not a condition; write e.g. a == b")
    return parsed


def holds(expression: str, names: dict[str, Any]) -> bool:
    """Evaluate a condition over ``names``.

    Raises:
        InputError: The condition cannot be read, or names something that is not there.
    """
    evaluator = EvalWithCompoundTypes(names=names, functions=FUNCTIONS)
    try:
        return bool(evaluator.eval(expression, previously_parsed=_parse(expression)))
    except SyntaxError as error:
        raise InputError(f"'{expression}' cannot be read: {error.msg}") from error
    except (
        InvalidExpression,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        ValueError,
        ArithmeticError,
    ) as error:
        raise InputError(
            f"'{expression}' cannot be evaluated: {error}.{_hint(error, names)} Known: "
            f"{', '.join(names)}"
        ) from error


def _hint(error: Exception, names: dict[str, Any]) -> str:
    if isinstance(error, AttributeDoesNotExist):
        return nearest(error.attr, sorted(_keys_below(names)))
    return nearest(str(getattr(error, "name", "")), names)


def _keys_below(value: Any) -> set[str]:
    """Every key at any depth."""
    if isinstance(value, list | tuple):
        return set().union(*map(_keys_below, value))
    return set(value).union(*map(_keys_below, value.values())) if isinstance(value, dict) else set()


Point = dict[str, Any]


class InvalidPointError(Exception):
    """A point of the space that is no architecture: a rule fails, or the network cannot be built."""


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

    def beside(self, name: str, choices: "Sequence[int]") -> "Space":
        """This space with one more dimension, which is no part of the architecture."""
        if name in self.dimensions:
            raise InputError(
                f"dimensions: '{name}' is the name of the study's own; choose another."
            )
        found = copy.copy(self)
        found.dimensions = {
            **self.dimensions,
            name: Dimension.model_construct(path=(), choices=tuple(choices)),
        }
        return found

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
        tree = json.loads(self._base_tree)
        for name in self._order:
            if name in point:
                for segments in self._segments[name]:
                    try:
                        paths.assign(tree, segments, point[name])
                    except InputError as error:  # a list that another dimension has made shorter
                        raise InvalidPointError(f"dimension '{name}': {error}") from error
        try:
            config = UNetConfig.model_validate(tree)
        except ValidationError as error:
            first = error.errors()[0]
            raise InvalidPointError(first["msg"].removeprefix("Value error, ")) from error
        names = _names(config) if self.file.rules else {}
        for rule in self.file.rules:
            try:
                held = holds(rule, names)
            except InputError as error:  # it holds for the base: here a list is shorter
                raise InvalidPointError(f"rule {error}") from error
            if not held:
                raise InvalidPointError(f"rule '{rule}' fails")
        return config

    def choose(self, choose: Callable[[str, Dimension], Any]) -> Point:
        """Make a point by asking ``choose`` for every dimension that is active, in order."""
        point: Point = {}
        for name, dimension in self.dimensions.items():
            if dimension.when is None or holds(dimension.when, self._known(point)):
                point[name] = choose(name, dimension)
        return point

    def sample(self, rng: random.Random) -> Point:
        """Draw a point, each active dimension uniformly."""
        return self.choose(lambda _, dimension: rng.choice(dimension.values))

    def sample_valid(self, rng: random.Random, tries: int = 1000) -> tuple[Point, UNetConfig]:
        """Draw points until one is an architecture.

        Raises:
            InputError: None of ``tries`` draws was; the message has the last reason.
        """
        reason = ""
        for _ in range(tries):
            point = self.sample(rng)
            try:
                return point, self.build(point)
            except InvalidPointError as error:
                reason = str(error)
        raise InputError(
            f"space '{self.name}': none of {tries} random points is a valid architecture; the "
            f"last: {reason}."
        )

    def neighbours(self, point: Point) -> Iterator[Point]:
        """Points that differ from ``point`` in one dimension; conditions are applied again."""
        for name in point:
            for value in self.dimensions[name].values:
                if label(value) != label(point[name]):
                    changed = {**point, name: value}
                    yield self.choose(
                        lambda key, dim, changed=changed: changed.get(key, dim.values[0])
                    )  # type: ignore[misc]

    def points(self) -> Iterator[Point]:
        """Every point of the space once, conditions applied."""
        seen: set[tuple[tuple[str, Any], ...]] = set()
        conditional = any(dimension.when for dimension in self.dimensions.values())
        for values in itertools.product(
            *(dimension.values for dimension in self.dimensions.values())
        ):
            full = dict(zip(self.dimensions, values, strict=True))
            if not conditional:
                yield full
                continue
            point = self.choose(lambda key, _, full=full: full[key])  # type: ignore[misc]
            identity = tuple((key, label(value)) for key, value in point.items())
            if identity not in seen:
                seen.add(identity)
                yield point

    def locate(self, config: UNetConfig) -> Point | None:
        """The point that builds ``config``, or None where it lies outside the space. Dimensions
        that are no part of the architecture have their first value.
        """
        tree = paths.open_form(config)
        resolved = _names(config)

        def read(name: str, dimension: Dimension) -> Any:
            if name not in self._segments:
                return dimension.values[0]
            raw = [
                value for segments in self._segments[name] for value in paths.lookup(tree, segments)
            ]
            full = [
                value
                for segments in self._segments[name]
                for value in _read(tree, resolved, segments)
            ]
            if self._segments[name][0][-1] in paths.BLOCK_KEYS:
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
            return point if self.build(point) == config else None
        except (InvalidPointError, InputError):
            return None

    def _known(self, point: Point) -> dict[str, Any]:
        """Labels of the point's values; inactive dimensions compare as false, so that conditions on
        them simply fail.
        """
        return {
            name: label(point[name]) if name in point else Inactive() for name in self.dimensions
        }


def _read(
    tree: dict[str, Any], resolved: dict[str, Any], segments: tuple[paths.Segment, ...]
) -> list[Any]:
    """Values at a path; what the canonical form leaves out is read with inheritance resolved."""
    raw = paths.lookup(tree, segments)
    if any(value is None for value in raw):
        defaults = paths.lookup(resolved, segments)
        raw = [
            default if value is None else value
            for value, default in zip(raw, defaults, strict=True)
        ]
    return [[] if value is None and segments[-1] == "layers" else value for value in raw]


def _names(config: UNetConfig) -> dict[str, Any]:
    """The architecture as conditions see it: plain data, options with inheritance resolved."""
    stages = [
        {name: _plain(config.option_of(name, index)) for name in INHERITED}
        | {"channels": stage.channels, "down": _blocks(stage.down), "up": _blocks(stage.up)}
        for index, stage in enumerate(config.stages)
    ]
    network = {
        name: _plain(getattr(config, name))
        for name in UNetConfig.model_fields
        if name != "schema_version"
    }
    return (
        network
        | {name: _plain(config.option(name)) for name in INHERITED}
        | {
            "time_width": config.time_width or 4 * config.stages[0].channels,
            "stages": stages,
            "middle": _blocks(config.middle),
        }
    )


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, BaseModel) else value


def _blocks(blocks: tuple[ResidualBlock, ...]) -> list[dict[str, Any]]:
    return [_block(block.transformers) for block in blocks]


def _block(transformers: tuple[tuple[str, ...], ...]) -> dict[str, Any]:
    same = len(set(transformers)) == 1
    return {"transformers": len(transformers), "layers": list(transformers[0]) if same else []}


def load_space(name: str, near: Path | None = None) -> Space:
    """Read a space by name or path.

    Raises:
        InputError: The file is missing or wrong; one line for each problem, with the file's line.
    """
    path = catalog.find("space", name, near)
    document = documents.read(path)
    file = documents.validate(document, SpaceFile)
    base = _base(document, file)
    for key, dimension in file.dimensions.items():
        for each in dimension.paths:
            try:
                paths.lookup(_names(base), paths.parse(each))
            except InputError as error:
                raise InputError(
                    f"{document.where(('dimensions', key, 'path'))}: dimensions.{key}.path: "
                    f"{error}."
                ) from error
    space = Space(path.stem, file, base)
    _check_conditions(document, space)
    _check_values(document, space)
    return space


def _base(document: documents.Document, file: SpaceFile) -> UNetConfig:
    if isinstance(file.base, str):
        try:
            return load_architecture(file.base, document.path).config
        except InputError as error:
            raise InputError(f"{document.where(('base',))}: base: {error}") from error
    try:
        return UNetConfig.model_validate(file.base)
    except ValidationError as error:
        inner = documents.Document(
            document.path,
            file.base,
            {k[1:]: v for k, v in document.lines.items() if k[:1] == ("base",)},
        )
        raise InputError("\n".join(documents.explain(inner, UNetConfig, error))) from error


def _check_conditions(document: documents.Document, space: Space) -> None:
    """Evaluate every condition once, so that a misspelt name is found here and not in the middle of
    a study.
    """
    earlier: dict[
        str, Any
    ] = {}  # a condition may name dimensions above it: values are chosen in order
    names = _names(space.base)
    for index, rule in enumerate(space.file.rules):
        try:
            holds(rule, names)
        except InputError as error:
            raise InputError(
                f"{document.where(('rules', index))}: rules[{index}]: {error}."
            ) from error
    for name, dimension in space.dimensions.items():
        if dimension.when is not None:
            try:
                holds(dimension.when, earlier)
            except InputError as error:
                raise InputError(
                    f"{document.where(('dimensions', name, 'when'))}: dimensions.{name}.when: "
                    f"{error}."
                ) from error
        earlier[name] = label(dimension.values[0])


def _check_values(document: documents.Document, space: Space) -> None:
    """Set every value on the base alone: a value that can never be built because of its own form is
    found here.
    """
    for name, dimension in space.dimensions.items():
        for value in dimension.values:
            tree = paths.open_form(space.base)
            where = document.where(("dimensions", name))
            for segments in space._segments[name]:
                try:
                    paths.assign(tree, segments, value)
                except InputError as error:
                    raise InputError(
                        f"{where}: dimensions.{name}: {label(value)!r}: {error}."
                    ) from error
            try:
                UNetConfig.model_validate(tree)
            except ValidationError as error:
                # Errors of a whole network may be mended by another dimension; those of one field
                # cannot.
                wrong = [item for item in error.errors() if item["type"] != "value_error"]
                if wrong:
                    raise InputError(
                        f"{where}: dimensions.{name}: {label(value)!r}: {wrong[0]['msg']}."
                    ) from error
