"""What was left out of the data, and why."""

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

_log = logging.getLogger(__name__)
_EXAMPLES = 3


@dataclass(frozen=True)
class Skipped:
    """Pictures left out for one reason.

    Attributes:
        reason: Such as ``"corrupt picture"``.
        count: How many.
        examples: The names of the first few.
    """

    reason: str
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.examples) else ""
        return f"{self.count} {self.reason} ({', '.join(self.examples)}{more})"

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


@dataclass
class SkipCounter:
    """Counts what is left out."""

    _counts: dict[str, int] = field(default_factory=dict)
    _examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, name: str) -> None:
        """Count one more."""
        self._counts[reason] = self._counts.get(reason, 0) + 1
        examples = self._examples.setdefault(reason, [])
        if len(examples) < _EXAMPLES:
            examples.append(name.encode(errors="backslashreplace").decode())  # a file's name need not be UTF-8; a terminal is

    def all(self) -> tuple[Skipped, ...]:
        """One entry a reason, the most frequent first."""
        ordered = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        return tuple(Skipped(reason, count, tuple(self._examples[reason])) for reason, count in ordered)


def warn_of(skipped: Iterable[Skipped], where: str) -> None:
    """Log one warning that says what was left out of ``where``."""
    told = "; ".join(map(str, skipped))
    if told:
        _log.warning("%s: left out: %s", where, told)
