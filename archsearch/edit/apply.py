"""Apply a recipe to a network, step by step, with or without its weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from archsearch.edit.change import relative_change, respond
from archsearch.edit.inherit import inherit
from archsearch.edit.maps import State
from archsearch.edit.recipe import Recipe, apply_step
from archsearch.errors import InputError
from archsearch.unet.config import UNetConfig


@dataclass(frozen=True, slots=True)
class Edited:
    """A network after a step; before the first one, with the name ``start``."""

    step: str
    config: UNetConfig
    state: State | None
    change: float | None
    """Relative change of the output by this step; None without weights, at the start, and where sample sizes differ."""
    change_in_all: float | None
    """Relative change since the start."""


START = "start"


def apply_recipe(config: UNetConfig, recipe: Recipe, path: Path, state: State | None = None, probes: int = 1) -> Iterator[Edited]:
    """Apply the steps in order; the network before the first comes first.

    Args:
        config: The architecture to begin with.
        recipe: The steps.
        path: Where the recipe is from, for messages.
        state: Its weights, or None to edit the architecture alone.
        probes: Number of inputs on which the change of the output is taken.

    Raises:
        InputError: A step is impossible for the architecture, or for its weights; the message names recipe and step.
    """
    first = last = None if state is None else respond(config, state, probes)
    yield Edited(START, config, state, None, None)
    for step in recipe.steps:
        edited = apply_step(config, step, path)
        if state is not None:
            try:
                state = inherit(config, state, edited)
            except InputError as error:
                raise InputError(f"{path}: step '{step.name}': {error}.") from error
        answer = None if state is None else respond(edited, state, probes)
        yield Edited(step.name, edited, state, _change(last, answer), _change(first, answer))
        config, last = edited, answer


def _change(before: Tensor | None, after: Tensor | None) -> float | None:
    if before is None or after is None or before.shape[2:] != after.shape[2:]:
        return None
    return relative_change(before, after)
