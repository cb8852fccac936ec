"""Paths into an architecture: ``stages[2].channels``, ``stages[1].*.layers``, ``attention.kv``.

``[i]`` picks an element, ``[*]`` all of them, ``*`` both sides of a stage; a name after a list
means every element of it. The number of residual blocks of a side is its ``length``:
``stages[0].down.length``. Last, what differs between two architectures, by path.
"""

import copy
import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Any

from pydantic import BaseModel

from archsearch.cost.price import describe_side
from archsearch.errors import InputError, nearest
from archsearch.unet.config import INHERITED, ResidualBlock, Stage, UNetConfig
from archsearch.unet.plan import Block, Plan

SIDES = ("down", "up")
MAX_LENGTH = 16  # the most elements that any list of an architecture may have
BLOCK_KEYS = ("transformers", "layers")
LISTS: dict[str, list[Any]] = {
    "stages": [Stage],
    **{name: ["block"] for name in ("middle", *SIDES)},
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
    node: Any = UNetConfig
    for segment in segments:
        if isinstance(segment, int):
            if not isinstance(node, list):
                raise InputError(f"path '{path}': [{segment}] follows something that is not a list")
            node = node[0]
            continue
        known = _below(node)
        if segment not in known:
            raise InputError(
                f"path '{path}': '{segment}' is not a part of it.{nearest(segment, known)} "
                f"Allowed here: {', '.join(known) or 'nothing, the path ends before'}"
            )
        node = known[segment]
    if node is not None:
        raise InputError(
            f"path '{path}' ends at a group; go on to one of: {', '.join(_below(node))}"
        )
    return tuple(segments)


def _below(node: Any) -> dict[str, Any]:
    # What may follow a node of the architecture's tree, and the node that it leads to: a model, a
    # block, a list of either, or None for a value.
    if node is None:
        return {}
    if isinstance(node, list):
        return {"length": None} | _below(node[0])
    if node == "block":
        return dict.fromkeys(BLOCK_KEYS)
    names = [name for name in node.model_fields if name != "schema_version"]
    known = {name: LISTS.get(name) or group(node, name) for name in names}
    return known | {"*": LISTS["down"]} if node is Stage else known


def group(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The model of a field that is a group of options."""
    annotation = model.model_fields[name].annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


def open_form(config: UNetConfig) -> dict[str, Any]:
    """An architecture as nested plain data that paths can be set in: every block and option group
    spelled out.
    """
    tree = config.to_dict()
    levels: list[tuple[dict[str, Any], type[BaseModel]]] = [(tree, UNetConfig)]
    levels += [(stage, Stage) for stage in tree["stages"]]
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
    nodes = _select(tree, segments[:-1])
    if segments[-1] != "length":
        for place in _elements(nodes):
            place[segments[-1]] = value
        return
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_LENGTH:
        raise InputError(f"length must be a whole number from 0 to {MAX_LENGTH}, but got {value!r}")
    for items in nodes:
        last = items[-1] if items else {}
        items[:] = [*items[:value], *(copy.deepcopy(last) for _ in range(value - len(items)))]


def lookup(tree: dict[str, Any], segments: tuple[Segment, ...]) -> list[Any]:
    """The values at every place that the path means; None where nothing is set."""
    nodes = _select(tree, segments[:-1])
    if segments[-1] == "length":
        return [len(blocks) for blocks in nodes]
    return [place.get(segments[-1]) for place in _elements(nodes)]


def _select(tree: Any, segments: tuple[Segment, ...]) -> list[Any]:
    nodes = [tree]
    for segment in segments:
        following: list[Any] = []
        for node in nodes if isinstance(segment, int) else _elements(nodes):
            if segment == EVERY:
                following += node
            elif segment == "*":
                following += [node[side] for side in SIDES]
            elif isinstance(segment, int) and segment >= len(node):
                raise InputError(f"[{segment}] lies outside a list of {len(node)}")
            else:
                following.append(node[segment])
        nodes = following
    return nodes


def _elements(nodes: list[Any]) -> list[Any]:
    # A name after a list means every element of it.
    return [element for node in nodes for element in (node if isinstance(node, list) else [node])]


def differences(left: UNetConfig, right: UNetConfig) -> dict[str, tuple[Any, Any]]:
    """What differs between two architectures: both values by path, blocks in short, None where a
    value is left out (see ``DEFAULTS``).
    """
    a, b = _flat(left.to_dict()), _flat(right.to_dict())
    pairs = {key: (a.get(key), b.get(key)) for key in sorted(a.keys() | b.keys())}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    if key.rpartition(".")[2] in ("down", "up", "middle"):
        return {key: describe_side(tuple(ResidualBlock.model_validate(block) for block in value))}
    if isinstance(value, dict) and value:
        items = [(f"{key}.{name}" if key else name, item) for name, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        items = [(f"{key}[{index}]", item) for index, item in enumerate(value)]
    else:
        return {key: value}
    return {path: each for inner, item in items for path, each in _flat(item, inner).items()}


# What a key means that the network leaves out. What a stage leaves out it inherits.
DEFAULTS = _flat(
    {
        name: dict(default) if isinstance(default, BaseModel) else default
        for name, default in (
            {name: field.default for name, field in UNetConfig.model_fields.items()} | INHERITED
        ).items()
    }
)


def option_differences(left: UNetConfig, right: UNetConfig) -> dict[str, tuple[Any, Any]]:
    """What differs besides blocks and widths, inheritance resolved: both values by path, None where
    one has no such stage or sets no such option.
    """
    rows: dict[str, tuple[Any, Any]] = {}
    for key, values in differences(left, right).items():
        if key.rpartition(".")[2] not in (*LISTS, "channels"):
            pair = (_resolved(left, key, values[0]), _resolved(right, key, values[1]))
            rows |= {key: pair} if pair[0] != pair[1] else {}
    return rows


def _resolved(config: UNetConfig, key: str, value: Any) -> Any:
    stage, _, option = key.rpartition("].")
    if value is not None or not stage:
        return DEFAULTS.get(key) if value is None else value
    index, (name, _, field) = int(stage.removeprefix("stages[")), option.partition(".")
    if index >= len(config.stages):
        return None
    if name not in INHERITED:
        return getattr(config.stages[index], name)
    value = config.option_of(name, index)
    return getattr(value, field) if field else value


def unit_changes(left: Plan, right: Plan) -> tuple[dict[str, str], dict[str, str]]:
    """What becomes of the units of two networks, by their place in the plan: ``removed`` or
    ``changed`` in the first, ``added`` or ``changed`` in the second. Those not named stay as they
    are.

    Residual blocks, the transformer blocks after them and their layers are paired in order, stage
    by stage from the highest resolution. A unit without a partner is removed, or added; one whose
    partner has another shape or other options is changed.
    """
    old, new = dict(left.placed()), dict(right.placed())
    partners = dict(_partners(left, right))
    changed = [(a, b) for a, b in partners.items() if old[a] != new[b]]
    return (
        dict.fromkeys(old.keys() - partners.keys(), "removed")
        | dict.fromkeys((a for a, _ in changed), "changed"),
        dict.fromkeys(new.keys() - set(partners.values()), "added")
        | dict.fromkeys((b for _, b in changed), "changed"),
    )


def _partners(left: Plan, right: Plan) -> Iterator[tuple[str, str]]:
    yield from ((place, place) for place in ("input", "time", "output"))
    sides = [("middle", left.middle, right.middle)]
    for index, (old, new) in enumerate(zip(left.stages, right.stages, strict=False)):
        where = f"stages[{index}]"
        sides += [(f"{where}.down", old.down, new.down), (f"{where}.up", old.up, new.up)]
        for sampler in ("downsample", "upsample"):
            if getattr(old, sampler) and getattr(new, sampler):
                yield f"{where}.{sampler}", f"{where}.{sampler}"
    for side, blocks, others in sides:
        ours, theirs = ([_kinds(block) for block in blocks] for blocks in (blocks, others))
        for i, j in _in_order(ours, theirs):
            a, b = f"{side}[{i}]", f"{side}[{j}]"
            yield f"{a}.residual", f"{b}.residual"
            if ours[i] and theirs[j]:
                yield f"{a}.projection", f"{b}.projection"
            for k, m in _in_order(ours[i], theirs[j]):
                for x, _ in _in_order(ours[i][k], theirs[j][m], equal=True):
                    kind = ours[i][k][x]
                    yield f"{a}.transformers[{k}].{kind}", f"{b}.transformers[{m}].{kind}"


def _kinds(block: Block) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(layer.kind for layer in layers) for layers in block.transformers)


def _in_order(
    ours: Sequence[Any], theirs: Sequence[Any], equal: bool = False
) -> Iterator[tuple[int, int]]:
    # Positions of equal elements, and unless ``equal`` of those that take the place of another: in
    # lists of one length all of them, for a change is likelier than one removed and one added.
    if len(ours) == len(theirs) and not equal:
        yield from ((index, index) for index in range(len(ours)))
        return
    for what, i, i_end, j, j_end in SequenceMatcher(None, ours, theirs, False).get_opcodes():
        if what == "equal" or (what == "replace" and not equal):
            yield from zip(range(i, i_end), range(j, j_end), strict=False)
