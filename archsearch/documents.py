"""Reading the files a user writes: YAML or JSON into a validated model, errors with file, line,
key, value and what is allowed.
"""

import copy
import json
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from archsearch.errors import InputError, located, nearest

Key = tuple[str | int, ...]
ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True)
class Document:
    """Plain data read from ``path``, and the line of every key."""

    path: Path
    data: Any
    lines: dict[Key, int] = field(default_factory=dict)

    def where(self, key: Key) -> str:
        """``file:line`` of ``key``, or of the closest key around it."""
        while key and key not in self.lines:
            key = key[:-1]
        return f"{self.path}:{self.lines[key]}" if key in self.lines else str(self.path)

    def located(self, *key: str | int) -> AbstractContextManager[None]:
        """Let input errors that are raised within begin with file, line and ``key``."""
        return located(f"{self.where(key)}: {dotted(key)}")

    def below(self, name: str) -> "Document":
        """The mapping that the key ``name`` holds, as a document of the same file."""
        lines = {key[1:]: line for key, line in self.lines.items() if key[:1] == (name,)}
        return Document(self.path, self.data[name], lines)


def read(path: Path) -> Document:
    """Read a .yaml, .yml or .json file.

    Raises:
        InputError: The file is missing, unreadable, truncated, not UTF-8, not a mapping, or names a
            key twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows begins files with a mark
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text (byte {error.start}).") from error
    lines: dict[Key, int] = {}
    try:
        if path.suffix == ".json":
            data = json.loads(text, object_pairs_hook=lambda pairs: _without_repeats(pairs, path))
        else:  # parsed once: the nodes give the lines, then the data
            loader = _Loader(text)
            node = loader.get_single_node()
            _collect_lines(node, (), lines, path)
            data = None if node is None else loader.construct_document(node)
    except RecursionError as error:
        raise InputError(f"{path}: is nested too deeply, or in itself.") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}:{error.lineno}: is not valid JSON: {error.msg}. Is the file truncated?"
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: is not valid YAML: {problem}.") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: must hold a mapping of keys to values, but holds {_show(data)}.")
    return Document(path, data, lines)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which dates stay text, as in JSON, and numbers are what they look like: ``010``
    is no octal 8 and ``1:30`` no 90, both stay text; ``1e-3`` is a number.
    """


_INT = re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$")
_FLOAT = re.compile(
    r"[-+]?(?:(?:(?:0|[1-9][0-9_]*)\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
    r"|[1-9][0-9_]*[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
)
_OTHERWISE = {f"tag:yaml.org,2002:{kind}" for kind in ("timestamp", "int", "float")}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _OTHERWISE]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def _without_repeats(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path}: {twice}: is given twice.")
    return data


def _collect_lines(node: yaml.Node | None, key: Key, lines: dict[Key, int], path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            child = (*key, str(name.value))
            if child in lines:
                raise InputError(
                    f"{path}:{name.start_mark.line + 1}: {dotted(child)}: is given twice."
                )
            lines[child] = name.start_mark.line + 1
            _collect_lines(value, child, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*key, index)] = value.start_mark.line + 1
            _collect_lines(value, (*key, index), lines, path)


def validate(document: Document, model: type[ModelT]) -> ModelT:
    """Validate a document against a model.

    Raises:
        InputError: One line for each thing that is wrong.
    """
    try:
        return model.model_validate(_without_empty_sections(document.data, model))
    except ValidationError as error:
        raise InputError("\n".join(explain(document, model, error))) from error


def _without_empty_sections(data: Any, model: type[BaseModel]) -> Any:
    """The data less the sections that hold nothing, ``search:`` alone on its line: they mean the
    defaults. A single value that is left out is still asked for.
    """
    if not isinstance(data, dict):
        return data
    kept = {}
    for name, value in data.items():
        info = model.model_fields.get(name) or next(
            (field for field in model.model_fields.values() if field.alias == name), None
        )
        inner = info and _section(info.annotation)
        if value is None and inner and info and not info.is_required():
            continue
        one = isinstance(inner, type) and issubclass(inner, BaseModel)
        kept[name] = _without_empty_sections(value, inner) if one else value  # type: ignore[arg-type]
    return kept


def _section(annotation: Any) -> Any:
    """What kind of section a field holds: a model, or a mapping or list of something; None where it
    may be a single value, or null.
    """
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found, inner = get_origin(annotation), get_args(annotation)
    if found is Annotated:
        return _section(inner[0])
    if found in (Union, UnionType):
        each = [_section(one) for one in inner]
        return each[0] if all(each) else None
    return found if found in (dict, list, tuple) else None


KINDS = {
    "study": ("objectives",),
    "search space": ("dimensions",),
    "recipe": ("steps",),
    "latency table": ("entries", "family"),
    "network": ("stages", "_class_name"),
}
"""The files that a user writes, and the keys that tell each of them from the others."""


def check_kind(document: Document, wanted: str) -> None:
    """Refuse a file of another kind than the ``wanted`` one of ``KINDS`` in one sentence, instead
    of key by key.

    Raises:
        InputError: It is one of the other kinds.
    """

    def marks(kind: str) -> list[str]:
        return [key for key in KINDS[kind] if key in document.data]

    found = next((kind for kind in KINDS if marks(kind)), wanted)
    if found != wanted and not marks(wanted):
        hint = " Of a study that was run, RUN_DIR#TRIAL is a network." if found == "study" else ""
        raise InputError(
            f"{document.path}: is a {found} (it has the key '{marks(found)[0]}'), but a {wanted} "
            f"is needed here.{hint if wanted == 'network' else ''}"
        )


def explain(document: Document, model: type[BaseModel], error: ValidationError) -> list[str]:
    """One line a problem: file, line, key, what is wrong, the value, the nearest known key."""
    problems = []
    errors = error.errors()
    for item in errors:
        place = item["loc"]
        if item["type"] == "too_short" and any(
            other["loc"][: len(place)] == place != other["loc"] for other in errors
        ):
            continue  # pydantic counts items that are wrong as missing
        key = _key(document.data, place)
        if item["type"] == "extra_forbidden":
            known = sorted(_fields_at(model, key[:-1]))
            message = (
                f"is not a known key.{nearest(str(key[-1]), known)} Allowed are: {', '.join(known)}"
            )
        else:
            message = item["msg"].removeprefix("Value error, ")
            message = re.sub("^Input should be", "must be", message)
            if item["type"] in ("tuple_type", "list_type"):
                message = "must be a list" + _as_list(item["input"])
            if item["type"] not in ("value_error", "missing"):
                message += f", but got {_show(item['input'])}"
        problems.append(f"{document.where(key)}: {dotted(key) or 'file'}: {message}.")
    return list(dict.fromkeys(problems))


def _as_list(value: Any) -> str:
    """How a single value is written as a list."""
    return "" if isinstance(value, dict) or value is None else f", such as [{value}]"


def dotted(key: Key) -> str:
    """``("stages", 0, "channels")`` as ``stages[0].channels``."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _key(data: Any, location: Key) -> Key:
    # The key that an error's location means: its parts less the branches of unions, which the data
    # do not have.
    key: Key = ()
    for part in location:
        inside: Any = dict(enumerate(data)) if isinstance(data, list) else data
        known = isinstance(inside, dict) and part in inside
        if known or not _BRANCH.search(str(part)):
            key = (*key, part)
            data = inside[part] if known else None
    return key


# How pydantic names a branch of a union in an error's location.
_BRANCH = re.compile(r"^[A-Z]|\[|^(str|int|float|bool|list)$")


def _fields_at(model: type[BaseModel], key: Key) -> set[str]:
    models = [model]
    for part in (part for part in key if isinstance(part, str)):
        annotations = [
            info.annotation
            for candidate in models
            for name, info in candidate.model_fields.items()
            if part in (name, info.alias)
        ]
        models = [inner for each in annotations for inner in _models_in(each)] or models
    names: set[str] = set()
    for candidate in models:
        names.update(info.alias or name for name, info in candidate.model_fields.items())
        names.update(getattr(candidate, "short_form", ()))
    return names


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def override(document: Document, settings: list[str]) -> Document:
    """Apply ``key=value`` settings, with dotted keys and YAML values, to a document.

    Raises:
        InputError: A setting has no ``=``, or walks through something that is not a mapping.
    """
    data = copy.deepcopy(document.data)
    for setting in settings:
        name, separator, text = setting.partition("=")
        if not separator or not name:
            raise InputError(
                f"--set {setting}: must have the form key=value, e.g. search.trials=8."
            )
        *parents, last = name.split(".")
        target = data
        for parent in parents:
            if target.get(parent) is None:  # left out, or an empty section
                target[parent] = {}
            target = target[parent]
            if not isinstance(target, dict):
                raise InputError(
                    f"--set {setting}: '{parent}' holds {_show(target)}, which has no keys."
                )
        try:
            target[last] = yaml.load(text, _Loader)
        except (yaml.YAMLError, ValueError) as error:
            raise InputError(f"--set {setting}: the value is not valid YAML.") from error
    return Document(document.path, data, document.lines)
