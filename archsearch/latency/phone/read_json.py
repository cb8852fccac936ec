"""Results of our own programs in a bundle, ``run_onnx.py`` and ``bench_coreml.swift``: one JSON file, already paired."""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from archsearch.errors import InputError
from archsearch.latency.document import explain, read_json
from archsearch.latency.entry import Milliseconds
from archsearch.latency.lines import Count, Frozen
from archsearch.latency.paired import Sample
from archsearch.latency.phone.manifest import REFERENCE_KEY, Manifest
from archsearch.latency.phone.timings import Returned


class Measured(Frozen):
    """A model's samples: ratios to the reference, and one reference time in ms more than these."""

    key: str
    ratios: list[Milliseconds] = Field(min_length=1)
    reference_ms: list[Milliseconds] = Field(min_length=2)

    @model_validator(mode="after")
    def _between(self) -> "Measured":
        if len(self.reference_ms) != len(self.ratios) + 1:
            raise ValueError(
                f"reference_ms: one more than the {len(self.ratios)} ratios was expected, but got {len(self.reference_ms)}"
            )
        return self


class Failed(Frozen):
    """A model that could not be loaded or run."""

    key: str
    reason: str


class Results(Frozen):
    """The file."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    bundle: str
    tool: str
    version: str
    machine: str
    threads: Count
    measured: list[Measured]
    failed: list[Failed] = Field(default_factory=list)


def read_results(path: Path, manifest: Manifest) -> Returned:
    """Read such a file.

    Raises:
        InputError: It is not valid, or of another bundle.
    """
    data = read_json(path)
    if not isinstance(data, dict) or data.get("schema") != 1:
        raise InputError(f"{path}: schema: must be 1, but got {data.get('schema') if isinstance(data, dict) else None!r}.")
    try:
        results = Results.model_validate(data)
    except ValidationError as error:
        raise InputError(f"{path}: {explain(error, Results)}") from error
    if results.bundle != manifest.bundle:
        raise InputError(f"{path}: bundle: these are results of {results.bundle!r}, not of this one, {manifest.bundle!r}.")
    known, seen = set(manifest.by_key) - {REFERENCE_KEY}, set[str]()
    for index, key in enumerate([*(each.key for each in results.measured), *(each.key for each in results.failed)]):
        if key not in known or key in seen:
            raise InputError(f"{path}: model {index}: key: {key!r} is {'given twice' if key in seen else 'not in the bundle'}.")
        seen.add(key)
    return Returned(
        samples={each.key: Sample(ratios=each.ratios, reference=each.reference_ms) for each in results.measured},
        failed={each.key: each.reason for each in results.failed},
        version=results.version,
        threads=results.threads,
    )
