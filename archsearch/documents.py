"""Reading the files a user writes: YAML or JSON into a validated model, errors with file, line,
key, value and what is allowed.
"""

import copy
import json
import re
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from yaml.constructor import ConstructorError

from archsearch.errors import InputError, located, nearest
from archsearch.files import FILE_BYTES, read_bytes

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
    """Read a .yaml, .yml or .json file that holds a mapping.

    Raises:
        InputError: The file is missing, unreadable, truncated, not UTF-8, not a mapping, names a
            key twice, or is what :func:`parse_yaml` and :func:`parse_json` refuse.
    """
    is_json = path.suffix == ".json"
    text = read_text(path, FILE_BYTES if is_json else YAML_BYTES)
    lines: dict[Key, int] = {}
    data = parse_json(text, path) if is_json else parse_yaml(text, str(path), lines)
    if not isinstance(data, dict):
        raise InputError(f"{path}: must hold a mapping of keys to values, but holds {_show(data)}.")
    return Document(path, data, lines)


def read_json(path: Path) -> Any:
    """What a JSON file holds, mapping or not.

    Raises:
        InputError: As :func:`read`.
    """
    return parse_json(read_text(path), path)


def read_text(path: Path, limit: int = FILE_BYTES) -> str:
    """The text of a file; a byte-order mark is no part of it.

    Raises:
        InputError: It cannot be read, holds more than ``limit`` bytes, is no regular file, or is
            not UTF-8.
    """
    try:
        return decode(read_bytes(path, limit), str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from error


def decode(content: bytes, where: str) -> str:
    """Bytes as text: UTF-8, with or without a byte-order mark.

    Raises:
        InputError: They are not, with the first byte that is wrong.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: is not UTF-8 text (byte {error.start}).") from error


def parse_json(text: str | bytes, path: Path | str, line: int | None = None) -> Any:
    """JSON as plain data.

    Args:
        text: The JSON.
        path: The file that it is of, for messages.
        line: The line of the file that it begins on, where that holds more than this.

    Raises:
        InputError: It is not JSON, names a key twice, or is nested too deeply.
    """
    where = f"{path}:{line}" if line else str(path)
    if isinstance(text, bytes):
        text = decode(text, where)
    try:
        data = json.loads(text, object_pairs_hook=lambda pairs: _without_repeats(pairs, where))
    except RecursionError as error:
        raise InputError(f"{where}: is nested too deeply.") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}:{(line or 1) + error.lineno - 1}: is not valid JSON: {error.msg}. Is the file "
            "truncated?"
        ) from error
    except ValueError as error:  # a number of thousands of digits
        raise InputError(f"{where}: is not valid JSON: {error}.") from error
    _check_characters(text, data, where)
    return data


def _without_repeats(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise InputError(f"{where}: {twice}: is given twice.")
    return data


YAML_BYTES = 2 * 1024**2
"""What is written by hand is shorter; PyYAML takes some ten seconds for a megabyte."""
REPEATED = 100_000
"""So many values more than it has written out a YAML file may hold by repeating parts of itself."""


def parse_yaml(text: str, where: str, lines: dict[Key, int] | None = None) -> Any:
    """YAML as plain data: what JSON could hold as well.

    Args:
        text: One YAML document.
        where: What it is of, for messages.
        lines: Takes the line of every key.

    Raises:
        InputError: It is not YAML, nested too deeply or in itself, repeats parts of itself more
            than ``REPEATED`` times over, or has keys that are no text, or values that JSON has not.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_repeats(node, where)
        _collect_lines(node, (), {} if lines is None else lines, where)
        data = loader.construct_document(node)
    except RecursionError as error:
        raise InputError(f"{where}: is nested too deeply, or in itself.") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # of "\UFFFFFFFF", say
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{where}{line}: is not valid YAML: {problem}.") from error
    _check_characters(text, data, where)
    return data


LARGEST_INT = 2**63


class _Loader(yaml.SafeLoader):
    """Safe YAML of what JSON can hold: dates stay text, and there are no sets or bytes. Numbers are
    what they look like: ``010`` is no octal 8 and ``1:30`` no 90, both stay text; ``1e-3`` is a
    number.
    """

    def construct_scalar_of(self, node: yaml.Node) -> Any:
        """A number, ``true`` or ``null``; a tag may call anything so."""
        kind = str(node.tag).rpartition(":")[2]
        try:
            value = getattr(yaml.SafeLoader, f"construct_yaml_{kind}")(self, node)
            if isinstance(value, int) and abs(value) > LARGEST_INT:
                raise ValueError
            return value
        except (ValueError, LookupError, AttributeError) as error:
            problem = f"{_show(node.value)} is no {kind}"
            raise ConstructorError(None, None, problem, node.start_mark) from error


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
_TAG = "tag:yaml.org,2002:"
_Loader.yaml_constructors = {
    **{_TAG + kind: _Loader.construct_scalar_of for kind in ("null", "bool", "int", "float")},
    **{
        tag: yaml.SafeLoader.yaml_constructors[tag]
        for tag in (_TAG + "str", _TAG + "seq", _TAG + "map", None)
    },
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def _check_repeats(root: yaml.Node, where: str) -> None:
    # An alias costs nothing until it is followed: nine levels of nine make a thousand million. So
    # what a node holds, aliases followed, is counted once for each node.
    counts: dict[int, int] = {}
    budget = REPEATED

    def count(node: yaml.Node) -> int:
        nonlocal budget
        if id(node) in counts:
            budget -= counts[id(node)]
            return counts[id(node)]
        counts[id(node)] = 0  # in itself: told by who follows it
        children = node.value if isinstance(node, yaml.CollectionNode) else ()
        total = 1
        for child in children:
            total += sum(map(count, child)) if isinstance(child, tuple) else count(child)
            if budget < 0:
                raise InputError(
                    f"{where}:{node.start_mark.line + 1}: repeats parts of itself (*) until they "
                    f"are more than {REPEATED:,} values; write less by aliases."
                )
        counts[id(node)] = total
        return total

    count(root)


def _collect_lines(node: yaml.Node, key: Key, lines: dict[Key, int], where: str) -> None:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            line = name.start_mark.line + 1
            if name.tag not in (f"{_TAG}str", f"{_TAG}merge", f"{_TAG}value"):
                shown = _show(name.value) if isinstance(name, yaml.ScalarNode) else "a collection"
                kind = str(name.tag).rpartition(":")[2]
                raise InputError(
                    f"{where}:{line}: {dotted(key) or 'file'}: a key must be text, but {shown} is "
                    f"read as {kind}; put it in quotes."
                )
            child = (*key, str(name.value))
            if child in lines:
                raise InputError(f"{where}:{line}: {dotted(child)}: is given twice.")
            lines[child] = line
            _collect_lines(value, child, lines, where)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*key, index)] = value.start_mark.line + 1
            _collect_lines(value, (*key, index), lines, where)


def _check_characters(text: str, data: Any, where: str) -> None:
    # Both formats can spell half of a character, which no file and no terminal takes.
    if "\\ud" not in text.lower():
        return
    waiting = [data]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str) and any("\ud800" <= each <= "\udfff" for each in value):
            raise InputError(f"{where}: {_show(value)} holds half of a character.")


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
    short = isinstance(value, str | int | float) and len(text := _show(value)) <= 40
    return f", such as [{text.strip(chr(39))}]" if short else ""


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
    try:
        text = repr(value)
    except ValueError:  # of a number of thousands of digits
        text = "a number too long to show"
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
            target[last] = parse_yaml(text, "value")
        except InputError as error:
            raise InputError(f"--set {setting}: the value is not valid YAML ({error})") from error
    return Document(document.path, data, document.lines)
