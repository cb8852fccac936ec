"""Paths into an architecture: ``stages[2].channels``, ``stages[1].*.layers``, ``attention.kv``.

``[i]`` picks an element, ``[*]`` all of them, ``*`` both sides of a stage; a name after a list means every element of it. The
number of residual blocks of a side is its ``length``: ``stages[0].down.length``.
"""

import copy
import re
from typing import Any

from archsearch.errors import InputError, nearest
from archsearch.unet.config import Attention, FeedForward, Stage, UNetConfig

SIDES = ("down", "up")
BLOCK_KEYS = ("transformers", "layers")

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
            raise InputError(f"path '{path}' cannot be read at '{path[position:]}'; write e.g. stages[2].down[*].transformers")
        name, index = match.groups()
        segments.append(name if name else EVERY if index == "*" else int(index))
        position = match.end()
    _check(path, segments)
    return tuple(segments)


def _known(model: Any) -> dict[str, Any]:
    """Keys below a node of the architecture's tree, and the node each leads to."""
    if model is UNetConfig:
        leaves = [name for name in UNetConfig.model_fields if name != "schema_version"]
        return dict.fromkeys(leaves) | {
            "stages": [Stage], "middle": ["block"], "attention": Attention, "feed_forward": FeedForward,
        }  # fmt: skip
    if model is Stage:
        return {
            "channels": None, "conv": None, "down": ["block"], "up": ["block"], "attention": Attention,
            "feed_forward": FeedForward, "*": ["block"],
        }  # fmt: skip
    if model == "block":
        return dict.fromkeys(BLOCK_KEYS)
    return dict.fromkeys(model.model_fields) if model in (Attention, FeedForward) else {}


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
        if isinstance(node, list):
            node = node[0]
        known = _known(node)
        if segment not in known:
            raise InputError(
                f"path '{path}': '{segment}' is not a part of it.{nearest(segment, known)} "
                f"Allowed here: {', '.join(known) or 'nothing, the path ends before'}"
            )
        node = known[segment]
    if isinstance(node, list) or node in (UNetConfig, Stage, Attention, FeedForward):
        raise InputError(f"path '{path}' ends at a group; go on to one of: {', '.join(_known_below(node))}")


def _known_below(node: Any) -> list[str]:
    return ["length", *_known(node[0])] if isinstance(node, list) else list(_known(node))


def open_form(config: UNetConfig) -> dict[str, Any]:
    """An architecture as nested plain data that paths can be set in: every block and option group spelled out."""
    tree = config.to_dict()
    for group in ("attention", "feed_forward"):
        tree.setdefault(group, {})
        for stage in tree["stages"]:
            stage.setdefault(group, {})
    tree.setdefault("middle", [])
    return tree


def assign(tree: dict[str, Any], segments: tuple[Segment, ...], value: Any) -> None:
    """Set ``value`` at every place that the path means.

    Raises:
        InputError: An index lies outside its list, or a length is no length.
    """
    if segments[-1] == "length":
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InputError(f"length must be a whole number from 0 on, but got {value!r}")
        for items in _select(tree, segments[:-1], spread=False):
            items[:] = [copy.deepcopy(items[min(index, len(items) - 1)]) if items else {} for index in range(value)]
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
