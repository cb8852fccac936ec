"""Conditions: evaluated without ``eval``, over plain data, refused by name."""

from typing import Any

import pytest

from archsearch.errors import InputError
from archsearch.search_space.space import Inactive, holds

NAMES: dict[str, Any] = {
    "a": 1,
    "b": {"channels": 3},
    "list": [{"channels": 5}],
    "word": "full",
    "off": Inactive(),
}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("a == 1", True),
        ("a > 1 or b.channels == 3", True),
        ("list[0].channels >= b.channels and word == 'full'", True),
        ("word in ['separable']", False),
        ("len(list) == 2", False),
        ("max(a, b.channels) + sum([1, 2]) - abs(-1) == 5", True),
        ("not a", False),
    ],
)
def test_conditions(expression: str, expected: bool) -> None:
    assert holds(expression, NAMES) is expected


@pytest.mark.parametrize(
    "comparison",
    [
        "off == 1",
        "off != 1",
        "off > 1",
        "off >= 1",
        "off < 1",
        "off <= 1",
        "1 < off",
        "off",
        "off in [1]",
    ],
)
def test_whatever_is_asked_of_an_inactive_dimension_is_false(comparison: str) -> None:
    assert holds(comparison, NAMES) is False
    assert holds(f"{comparison} or a == 1", NAMES) is True


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (
            "wrd == 'full'",
            r"'wrd == 'full'' cannot be evaluated: 'wrd' is not defined .* Did you mean 'word'\? Known: a, b, list",
        ),
        ("list[0].chanels > 1", r"'chanels' does not exist .* Did you mean 'channels'\? Known: a"),
        ("list[1].channels > 1", r"cannot be evaluated: list index out of range"),
        ("word > 1", r"cannot be evaluated: '>' not supported"),
        ("1 / 0", r"cannot be evaluated: division by zero"),
        ("a ==", r"'a ==' cannot be read: invalid syntax"),
        ("a = 1", r"'a = 1' cannot be evaluated: it is not a condition; write e\.g\. a == b"),
        ("", r"cannot evaluate empty string"),
        ("open('/etc/passwd')", r"Function 'open' not defined"),
        ("word.__class__", r"not available"),
        ("9 ** 9 ** 9", r"cannot be evaluated"),
    ],
)
def test_conditions_that_make_no_sense_are_refused(expression: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        holds(expression, NAMES)
