"""Which captions the pictures behind a score are sampled from: seen ones, or recombinations of what was seen.

A recombination takes a training caption that names an attribute, a colour word or a style ("…, NAME style"), and puts another
attribute of the training captions in its place, so that no caption of the data says the same: "a blue apple" where there are red
and green apples, and blue hearts. Object and attribute are known, their combination is not.
"""

import random
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from archsearch.errors import InputError
from archsearch.metrics.base import Prompts, Reference

VERSION = 1  # raised whenever equal data would give other captions
COLOURS = (
    *("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey", "gray"),
    *("cyan", "magenta", "turquoise", "teal", "violet", "indigo", "beige", "maroon", "golden", "silver"),
)
_COLOUR = re.compile(rf"(?<![\w-])({'|'.join(COLOURS)})(?![\w-])", re.IGNORECASE)
_STYLE = re.compile(r", ([^,]+) style$", re.IGNORECASE)


@dataclass(frozen=True)
class PromptSet:
    """Captions to sample.

    Attributes:
        captions: The captions.
        index: For seen captions int64 (n,): which pictures of the data they are from. None for recombinations.
    """

    captions: tuple[str, ...]
    index: Tensor | None


def prompts_for(data: Reference, which: Prompts, count: int, seed: int) -> PromptSet:
    """Choose captions to sample, the same for every network.

    Args:
        data: The data that the network learned from.
        which: ``seen``: captions of training pictures, spread evenly over them. ``recombined``: see :func:`recombinations`.
        count: How many at most; there are fewer where the data allow no more.
        seed: Seed of the choice of recombinations.

    Raises:
        InputError: ``recombined``, and the captions allow none.
    """
    if which == "seen":
        index = seen_rows(data.train, count)
        return PromptSet(tuple(data.captions[i] for i in index.tolist()), index)
    trained = [data.captions[i] for i in data.train.tolist()]
    return PromptSet(tuple(recombinations(trained, data.captions, count, seed)), None)


def seen_rows(train: Tensor, count: int) -> Tensor:
    """Indices of ``count`` training pictures, spread evenly; of all of them where they are fewer."""
    count = min(count, len(train))
    return train[torch.linspace(0, len(train) - 1, count).long()]


def recombinations(captions: Sequence[str], known: Collection[str], count: int, seed: int) -> list[str]:
    """Captions that join an object and an attribute of ``captions`` in a way that ``known`` does not.

    Taken object by object in turn, each with its attributes in a random order, so that few captions of one object are among them.

    Args:
        captions: Captions of the training pictures.
        known: Captions of all pictures; none of them is returned, nor another spelling of one (grey, gray).
        count: How many at most.
        seed: Seed of both orders; equal arguments give an equal list.

    Returns:
        Different captions, at most ``count``.

    Raises:
        InputError: No caption names a colour or a style, or every combination is known.
    """
    objects = sorted({parts for caption in captions for parts in _parts(caption)})
    attributes: dict[str, list[str]] = {}
    for kind, _, attribute, _ in objects:
        attributes.setdefault(kind, []).append(attribute)
    taken = {_spelled(caption) for caption in known} | {_spelled(caption) for caption in captions}
    rng = random.Random(seed)
    choices: list[list[str]] = []
    for kind, before, after in sorted({(kind, before, after) for kind, before, _, after in objects}):
        others = [f"{before}{attribute}{after}" for attribute in sorted(set(attributes[kind]))]
        others = [caption for caption in others if _spelled(caption) not in taken]
        taken |= {_spelled(caption) for caption in others}  # two spellings of a new caption are one
        rng.shuffle(others)
        if others:
            choices.append(others)
    if not choices:
        raise InputError(
            f"recombinations: none can be made of these {len(captions)} captions: they must name a colour "
            f"({', '.join(COLOURS[:4])}, …) or end in ', NAME style', "
            "and at least one object must lack a colour or style that another has."
        )
    rng.shuffle(choices)
    rounds = max(map(len, choices))
    found = [others[turn] for turn in range(rounds) for others in choices if turn < len(others)]
    return found[:count]


def _parts(caption: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield (kind, before, attribute, after): a style, and a colour where there is one only and it is not all there is."""
    if style := _STYLE.search(caption):
        start, end = style.span(1)
        yield "style", caption[:start], caption[start:end], caption[end:]
    colours = list(_COLOUR.finditer(caption))
    if len(colours) == 1:
        start, end = colours[0].span()
        before, after = caption[:start], caption[end:]
        if re.search(r"\w", _STYLE.sub("", before + after)):
            yield "colour", before, caption[start:end].lower(), after


def _spelled(caption: str) -> str:
    return caption.lower().replace("gray", "grey")
