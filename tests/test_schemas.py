"""The JSON Schemas in docs/schemas: up to date, and of one mind with the models about the files
that are shipped.
"""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from archsearch.unet.config import ResidualBlock
from archsearch.unet.presets import PRESETS
from tools.schemas import SCHEMAS, write_schemas

ROOT = Path(__file__).parent.parent
TABLES = [
    path
    for folder in ("latency_tables", "tests/latency/golden")
    for path in sorted((ROOT / folder).glob("*.json"))
    if not path.name.endswith(".partial.json")  # a measurement under way
]


def validator(name: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((ROOT / "docs/schemas" / name).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_committed_schemas_are_the_generated_ones(tmp_path: Path) -> None:
    for written in write_schemas(tmp_path):
        committed = ROOT / "docs/schemas" / written.name
        assert committed.read_bytes() == written.read_bytes(), (
            f"{written.name} is out of date: run `make schemas`"
        )
    assert {path.name for path in (ROOT / "docs/schemas").glob("*.json")} == set(SCHEMAS)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "search_spaces").glob("*.yaml")), ids=lambda path: path.stem
)
def test_shipped_spaces_fit(path: Path) -> None:
    validator("search-space.json").validate(read(path))


@pytest.mark.parametrize(
    "path", sorted((ROOT / "studies").glob("*.yaml")), ids=lambda path: path.stem
)
def test_shipped_studies_fit(path: Path) -> None:
    validator("study.json").validate(read(path))


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_tables_fit(path: Path) -> None:
    name = "published-table.json" if path.stem.endswith(".published") else "latency-table.json"
    validator(name).validate(json.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_fit_as_architecture_and_as_base(name: str) -> None:
    written = PRESETS[name]().to_dict()
    validator("unet-config.json").validate(written)
    dimensions = {"width": {"path": "stages[0].channels", "choices": [256, 320]}}
    validator("search-space.json").validate(
        {"schema": 1, "base": written, "dimensions": dimensions}
    )


@pytest.mark.parametrize(
    "block",
    [
        {},
        {"transformers": 0},
        {"transformers": []},
        {"layers": []},
        {"layers": ["sa"]},
        {"transformers": 3, "layers": ["sa", "ca", "ff"]},
        {"transformers": [["sa", "ca", "ff"], ["ca"]]},
        {"transformers": 3},
        {"transformers": 65, "layers": ["sa"]},
        {"transformers": -1, "layers": ["sa"]},
        {"transformers": 1, "layers": ["sa", "sa"]},
        {"transformers": [["sa", "sa"]]},
        {"transformers": 1, "layers": ["conv"]},
        {"transformers": [["conv"]]},
        {"transformers": "three", "layers": ["sa"]},
        {"transformer": 1, "layers": ["sa"]},
    ],
    ids=json.dumps,
)
def test_residual_blocks_are_judged_as_by_the_model(block: dict[str, Any]) -> None:
    try:
        ResidualBlock.model_validate(block)
        allowed = True
    except ValidationError:
        allowed = False
    config = {"schema": 1, "stages": [{"channels": 32, "down": [block], "up": [{}]}]}
    assert validator("unet-config.json").is_valid(config) == allowed


@pytest.mark.parametrize(
    ("schema", "key", "value"),
    [
        ("study.json", "objectives", {"val_loss": "maximize"}),
        ("study.json", "objectives", {"valloss": "minimize"}),
        ("study.json", "report", ["kid_effnt"]),
        ("study.json", "limits", {"params": 0}),
        ("study.json", "limits", {"val_loss": 1.0}),
        ("study.json", "schema", 2),
        ("study.json", "proxie", {}),
        ("search-space.json", "dimensions", {}),
        ("search-space.json", "dimensions", {"depth": {"path": "middle.length"}}),
        (
            "search-space.json",
            "dimensions",
            {"depth": {"path": "middle.length", "range": [0, 2], "choices": [0, 1]}},
        ),
        ("search-space.json", "dimensions", {"depth": {"path": "middle.length", "choices": []}}),
        ("search-space.json", "base", {"stages": []}),
    ],
)
def test_what_the_models_refuse_editors_mark(schema: str, key: str, value: Any) -> None:
    folder = {"study.json": "studies", "search-space.json": "search_spaces"}[schema]
    written = read(ROOT / folder / "quickstart.yaml")
    assert not validator(schema).is_valid(written | {key: value})


@pytest.mark.parametrize(
    "change", [{"kind": "resdual"}, {"size": 0}, {"heads": 8}, {"p50": -1.0}, {"unit": {}}]
)
def test_a_wrong_table_entry_is_marked(change: dict[str, Any]) -> None:
    table = json.loads(TABLES[-1].read_text(encoding="utf-8"))
    entry = next(entry for entry in table["entries"] if "size" in entry and "heads" not in entry)
    assert not validator("latency-table.json").is_valid(table | {"entries": [entry | change]})
