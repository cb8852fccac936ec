"""The format of a search space file."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


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
    """Condition over other dimensions, e.g. ``inner_conv == 'full'``; where it fails the base's value stays."""
    description: str | None = None

    @model_validator(mode="after")
    def _choices_or_range(self) -> Self:
        if (self.choices is None) == (self.range is None):
            raise ValueError("needs either choices or range")
        if self.range is not None and self.range[0] > self.range[1]:
            raise ValueError(f"range must be [low, high] with low <= high, but got {list(self.range)}")
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
    """A search space as written: a base architecture, what may vary around it, and rules that every member obeys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True)

    schema_version: Literal[1] = Field(alias="schema")
    base: str | dict[str, Any]
    """A preset's name, a UNetConfig file, or a UNetConfig written out."""
    dimensions: dict[str, Dimension] = Field(min_length=1)
    rules: tuple[str, ...] = ()
    """Conditions over the architecture, e.g. ``stages[2].channels >= stages[1].channels``."""


def label(value: Any) -> str | int | float | bool | None:
    """A value as a plain label for tables and storage: layers become ``sa+ca+ff``, none of them ``none``."""
    if isinstance(value, list | tuple):
        return "+".join(str(item) for item in value) or "none"
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise ValueError(f"a choice must be a number, a word, true, false or a list of layers, but got {value!r}")
