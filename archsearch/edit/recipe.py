"""Recipes: named steps that change an architecture, and trained weights with it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from archsearch import documents
from archsearch.edit.inherit import inherit
from archsearch.edit.maps import State
from archsearch.errors import InputError, located
from archsearch.search_space import paths
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet


class Step(BaseModel):
    """One edit: what it is called, and the values it sets by path."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    """What the step is called in tables and plots."""
    about: str | None = None
    """Why, in a sentence."""
    set: dict[str, Any] = Field(min_length=1)
    """Values by path, as in search spaces: ``stages[1].*.layers: [ca, ff]``. Numbers of blocks and
    stages (``length``) go first.
    """


class Recipe(BaseModel):
    """Edits in the order in which they are applied."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_version: Literal[1] = Field(alias="schema")
    steps: tuple[Step, ...] = Field(min_length=1)


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        InputError: The file is missing or wrong.
    """
    document = documents.read(path)
    documents.check_kind(document, "recipe")
    return documents.validate(document, Recipe)


def apply_step(config: UNetConfig, step: Step, path: Path) -> UNetConfig:
    """Apply one step.

    Raises:
        InputError: A path leads nowhere, or the result is impossible; the message names recipe and
            step.
    """
    tree = paths.open_form(config)
    lengths_first = sorted(step.set.items(), key=lambda item: not item[0].endswith(".length"))
    with located(f"{path}: step '{step.name}'"):
        for where, value in lengths_first:
            segments = paths.parse(where)
            with located(where):
                paths.assign(tree, segments, value)
        try:
            return UNetConfig.model_validate(tree)
        except ValidationError as error:
            problem = documents.explain(documents.Document(path, tree), UNetConfig, error)[0]
            problem = problem.removeprefix(f"{path}: ").removeprefix("file: ")
            raise InputError(problem) from error


@dataclass(frozen=True, slots=True)
class Edited:
    """A network after a step; before the first one, with the name ``start``.

    Attributes:
        change: Relative change of the output by this step; None without weights, at the start, and
            where sample sizes differ.
        change_in_all: Relative change since the start.
    """

    step: str
    config: UNetConfig
    state: State | None
    change: float | None
    change_in_all: float | None


START = "start"


def apply_recipe(
    config: UNetConfig, recipe: Recipe, path: Path, state: State | None = None, probes: int = 1
) -> Iterator[Edited]:
    """Apply the steps in order; the network before the first comes first.

    Args:
        config: The architecture to begin with.
        recipe: The steps.
        path: Where the recipe is from, for messages.
        state: Its weights, or None to edit the architecture alone.
        probes: Number of inputs on which the change of the output is taken.

    Raises:
        InputError: A step is impossible for the architecture, or for its weights; the message names
            recipe and step.
    """
    first = last = None if state is None else respond(config, state, probes)
    yield Edited(START, config, state, None, None)
    for step in recipe.steps:
        edited = apply_step(config, step, path)
        answer = None
        if state is not None:
            with located(f"{path}: step '{step.name}'"):
                state = inherit(config, state, edited)
            answer = respond(edited, state, probes)
        changes = (relative_change(last, answer), relative_change(first, answer))
        yield Edited(step.name, edited, state, *changes)
        config, last = edited, answer


TIMESTEPS = 1000
GUIDANCE = 3.0  # weight that networks with an input for it are probed at
MOST_CHANNELS = 16  # samples of up to so many channels agree in those that they share


@torch.inference_mode()
def respond(config: UNetConfig, state: State, probes: int = 1, seed: int = 0) -> Tensor:
    """Predictions for fixed random inputs at evenly spread timesteps, (probes, out_channels, H, W).

    Networks that differ in input channels see the same values in those they share.
    """
    with torch.device("meta"):
        network = UNet(config).eval()
    network.load_state_dict(state, assign=True)
    size, added = config.sample_size, config.added
    answers = []
    for probe in range(probes):

        def draw(*shape: int, seed: int = seed + probe) -> Tensor:
            # Each input from a generator of its own, so that another number of channels in one
            # does not change the rest.
            return torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))

        sample = draw(max(config.in_channels, MOST_CHANNELS), size, size)[:, : config.in_channels]
        inputs = [
            sample,
            torch.full((1,), TIMESTEPS * (probe + 0.5) / probes),
            draw(config.context_tokens, config.context_dim),
        ]
        if added.text_dim:
            inputs += [draw(added.text_dim), torch.full((1, added.ids), 8.0 * size)]
        if config.guidance_dim:
            inputs.append(torch.full((1,), GUIDANCE))
        answers.append(network(*inputs))
    return torch.cat(answers)


def relative_change(before: Tensor | None, after: Tensor | None) -> float | None:
    """Norm of the difference over the norm of ``before``, over the channels that both predict.

    Returns:
        0 where nothing changes; None where there is nothing to compare, or where sample sizes
        differ.
    """
    if before is None or after is None or before.shape[2:] != after.shape[2:]:
        return None
    channels = min(before.shape[1], after.shape[1])
    before, after = before[:, :channels], after[:, :channels]
    return float((after - before).norm() / before.norm().clamp(min=1e-12))
