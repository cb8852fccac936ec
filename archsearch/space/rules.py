"""Conditions in search spaces, evaluated without ``eval``."""

from functools import lru_cache
from typing import Any

from simpleeval import EvalWithCompoundTypes, InvalidExpression

from archsearch.errors import InputError, nearest

FUNCTIONS = {"len": len, "min": min, "max": max, "sum": sum, "abs": abs}


@lru_cache(maxsize=4096)
def _parse(expression: str) -> Any:
    return EvalWithCompoundTypes.parse(expression)


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
    return nearest(str(getattr(error, "name", "")), names)
