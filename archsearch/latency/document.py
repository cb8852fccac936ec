"""Reading the JSON files of this folder, and saying what is wrong with them."""

import json
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from archsearch.errors import InputError, nearest


def read_json(path: Path) -> Any:
    """Read a JSON file strictly: no key twice in an object, no NaN, no infinity.

    Raises:
        InputError: It cannot be read, or is no JSON (line and column are named).
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: line {error.lineno}, column {error.colno}: not JSON ({error.msg}); cut short or edited by hand?"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except ValueError as error:  # includes text that is not UTF-8
        raise InputError(f"{path}: {error}") from error


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a number that a latency table may hold.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name}: given twice in one object ({found[name]!r} and {value!r}).")
        found[name] = value
    return found


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Say in one line the first thing that is wrong with a ``model``: its path, what was found, and the nearest allowed key."""
    first = error.errors()[0]
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"]).lstrip(".")
    if first["type"] == "extra_forbidden":
        allowed = [field.alias or name for name, field in _model_at(model, first["loc"][:-1]).model_fields.items()]
        key = str(first["loc"][-1])
        return f"{path}: no such key; allowed are {', '.join(allowed)}.{nearest(key, allowed)}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"{path}: missing."
    got = "" if first["type"] == "value_error" else f", but got {first['input']!r}"
    return f"{path + ': ' if path else ''}{message}{got}."


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    """The model that the keys of ``location`` lead to."""
    for step in location:
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        if isinstance(step, str) and step in fields:
            annotation = fields[step].annotation
            inner = [each for each in (annotation, *get_args(annotation)) if isinstance(each, type) and issubclass(each, BaseModel)]
            model = inner[0] if inner else model
    return model
