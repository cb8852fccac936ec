"""How figures that rest on estimates are told from the others: a sign before them, and words under the table."""

from typing import Any

from archsearch.cli.console import number
from archsearch.study.scores import is_marked

CAPTION = "≈: rests on estimated units or published figures, see latency_note"


def marked(name: str, value: Any, note: str | None) -> str:
    """The value of score ``name`` as text, with the sign where the latency note of its trial is about it."""
    return f"≈ {number(value)}" if value is not None and is_marked(name, note) else number(value)
