"""Paths into an architecture: ``stages[2].channels``, ``stages[1].*.layers``, ``attention.kv``.

``[i]`` picks an element, ``[*]`` all of them, ``*`` both sides of a stage; a name after a list
means every element of it. The number of residual blocks of a side is its ``length``:
``stages[0].down.length``.
"""

import copy
import re
from typing import Any

from pydantic import BaseModel

from archsearch.errors import InputError, nearest
from archsearch.unet.config import Stage, UNetConfig

SIDES = ("down", "up")
MAX_LENGTH = 16
"""The most elements that any list of an architecture may have."""
BLOCK_KEYS = ("transformers", "layers")
LISTS: dict[str, list[Any]] = {
    "stages": [Stage],
    "middle": ["block"],
    "down": ["block"],
    "up": ["block"],
}

Segment = str | int  # a key, "*" (both sides), or an index; -1 stands for every element
EVERY = -1

_TOKEN = re.compile(r"\.?([A-Za-z_][A-Za-z_0-9]*|\*)|\[(\d+|\*)\]")


def parse(path: str) -> tuple[Segment, ...]:
    """Split a path into its segments and check that it leads somewhere.

    Raises:
        InputError: The path is malformed or names something an architecture does not have.
    """
    segments: list[Segment] = []
    position = 0
    while position < len(path):
        match = _TOKEN.match(path, position)
        if not match:
            raise InputError(
                f"path '{path}' cannot be read at '{path[position:]}'; write e.g. "
                "stages[2].down[*].transformers"
            )
        name, index = match.groups()
        segments.append(name if name else EVERY if index == "*" else int(index))
        position = match.end()
    _check(path, segments)
    return tuple(segments)


def _known(model: Any) -> dict[str, Any]:
    """Keys below a node of the architecture's tree, and the node each leads to."""
    if model == "block":
        return dict.fromkeys(BLOCK_KEYS)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return {}
    known = {
        name: LISTS.get(name, group(model, name))
        for name in model.model_fields
        if name != "schema_version"
    }
    return known | ({"*": LISTS["down"]} if model is Stage else {})


def group(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The model of a field that is a group of options."""
    annotation = model.model_fields[name].annotation
    return (
        annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    )


def _check(path: str, segments: list[Segment]) -> None:
    node: Any = UNetConfig
    for segment in segments:
        if isinstance(node, list) and segment == "length":
            node = None
            continue
        if isinstance(segment, int):
            if not isinstance(node, list):
                raise InputError(f"path '{path}': [{segment}] follows something that is not a list")
            node = node[0]
            continue
        known = {"length": None} | _known(node[0]) if isinstance(node, list) else _known(node)
        if segment not in known:
            raise InputError(
                f"path '{path}': '{segment}' is not a part of it.{nearest(segment, known)} "
                f"Allowed here: {', '.join(known) or 'nothing, the path ends before'}"
            )
        node = known[segment]
    if isinstance(node, list | type):
        raise InputError(
            f"path '{path}' ends at a group; go on to one of: {', '.join(_known_below(node))}"
        )


def _known_below(node: Any) -> list[str]:
    return ["length", *_known(node[0])] if isinstance(node, list) else list(_known(node))


def open_form(config: UNetConfig) -> dict[str, Any]:
    """An architecture as nested plain data that paths can be set in: every block and option group
    spelled out.
    """
    tree = config.to_dict()
    levels: list[tuple[dict[str, Any], type[BaseModel]]] = [
        (tree, UNetConfig),
        *((stage, Stage) for stage in tree["stages"]),
    ]
    for level, model in levels:
        for name in model.model_fields:
            if group(model, name):
                level.setdefault(name, {})
    tree.setdefault("middle", [])
    return tree


def assign(tree: dict[str, Any], segments: tuple[Segment, ...], value: Any) -> None:
    """Set ``value`` at every place that the path means.

    Raises:
        InputError: An index lies outside its list, or a length is no length.
    """
    if segments[-1] == "length":
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_LENGTH:
            raise InputError(
                f"length must be a whole number from 0 to {MAX_LENGTH}, but got {value!r}"
            )
        for items in _select(tree, segments[:-1], spread=False):
            items[:] = [
                copy.deepcopy(items[min(index, len(items) - 1)]) if items else {}
                for index in range(value)
            ]
        return
    for place in _select(tree, segments[:-1], spread=True):
        place[segments[-1]] = value


def lookup(tree: dict[str, Any], segments: tuple[Segment, ...]) -> list[Any]:
    """The values at every place that the path means; None where nothing is set."""
    if segments[-1] == "length":
        return [len(blocks) for blocks in _select(tree, segments[:-1], spread=False)]
    return [place.get(segments[-1]) for place in _select(tree, segments[:-1], spread=True)]


def _select(tree: Any, segments: tuple[Segment, ...], spread: bool) -> list[Any]:
    nodes = [tree]
    for segment in segments:
        if not isinstance(segment, int):
            nodes = _elements(nodes)
        following: list[Any] = []
        for node in nodes:
            if segment == EVERY:
                following += node
            elif isinstance(segment, int):
                if segment >= len(node):
                    raise InputError(f"[{segment}] lies outside a list of {len(node)}")
                following.append(node[segment])
            elif segment == "*":
                following += [node[side] for side in SIDES]
            else:
                following.append(node[segment])
        nodes = following
    return _elements(nodes) if spread else nodes


def _elements(nodes: list[Any]) -> list[Any]:
    return [element for node in nodes for element in (node if isinstance(node, list) else [node])]
