"""Edit recipes: a list of named steps, each of which sets paths of an architecture."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from archsearch import documents
from archsearch.errors import InputError
from archsearch.space import paths
from archsearch.unet.config import UNetConfig


class Step(BaseModel):
    """One edit: what it is called, and the values it sets by path."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    """What the step is called in tables and plots."""
    about: str | None = None
    """Why, in a sentence."""
    set: dict[str, Any] = Field(min_length=1)
    """Values by path, as in search spaces: ``stages[1].*.layers: [ca, ff]``. Numbers of blocks and stages (``length``) go first."""


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
    return documents.validate(documents.read(path), Recipe)


def apply_step(config: UNetConfig, step: Step, path: Path) -> UNetConfig:
    """Apply one step.

    Raises:
        InputError: A path leads nowhere, or the result is impossible; the message names recipe and step.
    """
    tree = paths.open_form(config)
    ordered = sorted(step.set.items(), key=lambda item: not item[0].endswith(".length"))
    try:
        for where, value in ordered:
            segments = paths.parse(where)
            try:
                paths.assign(tree, segments, value)
            except InputError as error:
                raise InputError(f"{where}: {error}") from error
        return UNetConfig.model_validate(tree)
    except InputError as error:
        raise InputError(f"{path}: step '{step.name}': {error}.") from error
    except ValidationError as error:
        problem = documents.explain(documents.Document(path, tree), UNetConfig, error)[0]
        problem = problem.removeprefix(f"{path}: ").removeprefix("file: ")
        raise InputError(f"{path}: step '{step.name}': {problem}") from error
