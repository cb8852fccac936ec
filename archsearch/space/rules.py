"""Conditions in search spaces, evaluated without ``eval``."""

import ast
from functools import lru_cache
from typing import Any

from simpleeval import AttributeDoesNotExist, EvalWithCompoundTypes, InvalidExpression

from archsearch.errors import InputError, nearest

FUNCTIONS = {"len": len, "min": min, "max": max, "sum": sum, "abs": abs}


class Inactive:
    """Value of a dimension that is not active: every comparison with it is false."""

    def _false(self, _: object) -> bool:
        return False

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _false
    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        return False


@lru_cache(maxsize=4096)
def _parse(expression: str) -> Any:
    parsed = EvalWithCompoundTypes.parse(expression)
    if not isinstance(parsed, ast.Expr):  # e.g. an assignment, of which simpleeval would take the right side
        raise InvalidExpression("it is not a condition; write e.g. a == b")
    return parsed


def holds(expression: str, names: dict[str, Any]) -> bool:
    """Evaluate a condition over ``names``.

    Raises:
        InputError: The condition cannot be read, or names something that is not there.
    """
    evaluator = EvalWithCompoundTypes(names=names, functions=FUNCTIONS)
    try:
        return bool(evaluator.eval(expression, previously_parsed=_parse(expression)))
    except SyntaxError as error:
        raise InputError(f"'{expression}' cannot be read: {error.msg}") from error
    except (InvalidExpression, TypeError, KeyError, IndexError, AttributeError, ValueError, ArithmeticError) as error:
        raise InputError(f"'{expression}' cannot be evaluated: {error}.{_hint(error, names)} Known: {', '.join(names)}") from error


def _hint(error: Exception, names: dict[str, Any]) -> str:
    if isinstance(error, AttributeDoesNotExist):
        return nearest(error.attr, sorted(_keys_below(names)))
    return nearest(str(getattr(error, "name", "")), names)


def _keys_below(value: Any) -> set[str]:
    """Every key at any depth."""
    if isinstance(value, list | tuple):
        return set().union(*map(_keys_below, value))
    return set(value).union(*map(_keys_below, value.values())) if isinstance(value, dict) else set()
