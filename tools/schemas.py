"""JSON Schemas of the files a user writes, for editors: ``python -m tools.schemas
docs/schemas``.

They follow from the models. What the models check in code is added here where JSON Schema can say
it: the short form of residual blocks, the flat entries of latency tables, the names of scores.
Rules between fields stay with the models.
"""

import sys
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from archsearch.edit.recipe import Recipe
from archsearch.errors import InputError
from archsearch.files import write_json
from archsearch.latency.table import (
    FIELD_TYPES,
    MAY_BE_ZERO,
    OPTIONAL,
    Entry,
    Failure,
    LatencyTable,
    PublishedTable,
)
from archsearch.search_space.space import SpaceFile
from archsearch.study.spec import LIMITABLE, SCORES, StudySpec
from archsearch.unet.config import Layer, UNetConfig
from archsearch.unet.units import UNIT_TYPES

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
OF_DEVICE = r"^latency_ms\[.+\]$"
JSON_TYPES: dict[type, Schema] = {
    bool: {"type": "boolean"},
    int: {"type": "integer", "minimum": 1},
    float: {"type": "number"},
    str: {"type": "string"},
}


class _Untitled(GenerateJsonSchema):
    """Leaves out the titles that pydantic makes from the names of fields."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _plain(model: type[BaseModel]) -> Schema:
    return model.model_json_schema(by_alias=True, schema_generator=_Untitled)


def _finished(title: str, schema: Schema) -> Schema:
    """Name the dialect and the file; a file always says its schema version, whatever the model
    assumes without one.
    """
    required = list(dict.fromkeys(["schema", *schema.get("required", [])]))
    return {"$schema": DIALECT} | schema | {"title": title, "required": required}


def _residual_block(description: str) -> Schema:
    layers = {
        "type": "array",
        "items": {"enum": list(get_args(Layer))},
        "uniqueItems": True,
        "description": "Layers of a transformer block, in order. None: no transformer block.",
    }
    count = {
        "type": "integer",
        "minimum": 0,
        "maximum": 64,
        "default": 1,
        "description": "Number of equal transformer blocks.",
    }
    each = {
        "type": "array",
        "items": layers,
        "description": "The layers of each transformer block.",
    }
    return {
        "title": "ResidualBlock",
        "description": description,
        "type": "object",
        "properties": {"transformers": {}, "layers": {}},
        "additionalProperties": False,
        "anyOf": [
            {"properties": {"transformers": count, "layers": layers}, "required": ["layers"]},
            {"properties": {"transformers": each, "layers": False}},
            {"properties": {"transformers": {"const": 0}, "layers": False}},
        ],
    }


def _unet() -> Schema:
    schema = _plain(UNetConfig)
    block = schema["$defs"]["ResidualBlock"]
    schema["$defs"]["ResidualBlock"] = _residual_block(block["description"])
    return schema


def unet_config() -> Schema:
    """Schema of a UNetConfig file."""
    return _finished("archsearch architecture (UNetConfig)", _unet())


def search_space() -> Schema:
    """Schema of a search space file; a base that is written out is an architecture."""
    schema, base = _plain(SpaceFile), _unet()
    schema["$defs"] |= base.pop("$defs") | {"UNetConfig": base}
    schema["properties"]["base"]["anyOf"] = [{"type": "string"}, {"$ref": "#/$defs/UNetConfig"}]
    choice = {
        "type": ["string", "number", "boolean", "null", "array"],
        "items": {"type": ["string", "number"]},
    }
    dimension = schema["$defs"]["Dimension"]
    dimension["properties"]["choices"] |= {
        "anyOf": [
            {"type": "array", "items": choice, "minItems": 1, "uniqueItems": True},
            {"type": "null"},
        ]
    }
    dimension["oneOf"] = [{"required": ["choices"]}, {"required": ["range"]}]
    return _finished("archsearch search space", schema)


def study() -> Schema:
    """Schema of a study file, with the scores by name."""
    schema = _plain(StudySpec)
    keys = schema["properties"]
    keys["objectives"] |= {
        "patternProperties": {
            OF_DEVICE: {
                "const": "minimize",
                "description": "Latency of one UNet pass on one device (ms).",
            }
        },
        "properties": {
            name: {"const": score.direction, "description": score.label}
            for name, score in SCORES.items()
        },
        "additionalProperties": False,
    }
    keys["report"]["items"] = {
        "anyOf": [{"enum": list(SCORES)}, {"type": "string", "pattern": OF_DEVICE}]
    }
    limit = {"type": "number", "exclusiveMinimum": 0}
    keys["limits"] |= {
        "patternProperties": {
            OF_DEVICE: limit | {"description": "Largest allowed latency on one device (ms)."}
        },
        "properties": {
            name: limit | {"description": f"Largest allowed {SCORES[name].label}."}
            for name in LIMITABLE
        },
        "additionalProperties": False,
    }
    return _finished("archsearch study", schema)


def latency_table() -> Schema:
    """Schema of a latency table; the fields of a unit lie beside its times, or beside the reason of
    its failure.
    """
    schema = _plain(LatencyTable)
    definitions = schema["$defs"]
    kept = {
        name: value
        for name, value in definitions.items()
        if name not in {unit.__name__ for unit in UNIT_TYPES.values()}
    }
    for model in (Entry, Failure):
        given = definitions[model.__name__]
        beside = {name: value for name, value in given["properties"].items() if name != "unit"}
        kept[model.__name__] = {
            "title": model.__name__,
            "description": given["description"],
            "type": "object",
            "required": ["kind"],
            "oneOf": [_with_unit(kind, beside) for kind in FIELD_TYPES],
        }
    schema["$defs"] = kept
    return _finished("archsearch latency table", schema)


def _with_unit(kind: str, beside: Schema) -> Schema:
    """Schema of an object with the fields of a unit of ``kind`` and other properties ``beside``."""
    fields = FIELD_TYPES[kind]
    zero = {name for name in OPTIONAL[kind] | (MAY_BE_ZERO & fields.keys()) if fields[name] is int}
    own = {
        name: JSON_TYPES[type_] | ({"minimum": 0} if name in zero else {})
        for name, type_ in fields.items()
    }
    properties = {"kind": {"const": kind}} | own | beside
    return {
        "description": (UNIT_TYPES[kind].__doc__ or "").strip(),
        "properties": properties,
        "required": [name for name in properties if name not in OPTIONAL[kind]],
        "additionalProperties": False,
    }


def published_table() -> Schema:
    """Schema of a table of published figures."""
    return _finished("archsearch published latency table", _plain(PublishedTable))


def edit_recipe() -> Schema:
    """Schema of an edit recipe."""
    return _finished("archsearch edit recipe", _plain(Recipe))


SCHEMAS = {
    "unet-config.json": unet_config,
    "search-space.json": search_space,
    "edit-recipe.json": edit_recipe,
    "study.json": study,
    "latency-table.json": latency_table,
    "published-table.json": published_table,
}


def write_schemas(folder: Path) -> list[Path]:
    """Write every schema into ``folder``; the same models give the same bytes.

    Returns:
        The files that were written.

    Raises:
        ArchsearchError: A file cannot be written.
    """
    for name, make in SCHEMAS.items():
        write_json(folder / name, make())
    return [folder / name for name in SCHEMAS]


def main(arguments: list[str]) -> None:
    """Write the schemas into the folder that is the only argument.

    Raises:
        InputError: There is no argument, or more than one.
    """
    if len(arguments) != 1:
        raise InputError(
            f"usage: python -m tools.schemas FOLDER, but got {len(arguments)} arguments"
        )
    for path in write_schemas(Path(arguments[0])):
        print(path)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
