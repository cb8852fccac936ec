"""Scores taken from a trained network, of its pictures and in int8: kept in the store each with what it was computed under.

A score counts only while that still holds. What a run has found is looked at without data and models, so there the versions and
settings are compared; a run that goes on compares the networks of the metrics as well.
"""

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from archsearch import files
from archsearch.diffusion import quantise
from archsearch.diffusion import sample as sampler
from archsearch.metrics import prompts
from archsearch.metrics.networks import Networks
from archsearch.metrics.registry import METRICS
from archsearch.study.scores import MEASURED, QUANTISED
from archsearch.study.spec import StudySpec

_SCHEMA = 2


def conditions(spec: StudySpec, name: str, steps: int | None = None) -> dict[str, Any]:
    """What score ``name`` depends on beside its training and the networks of its metric, as JSON values.

    Args:
        spec: The study.
        name: A score out of ``MEASURED``.
        steps: Steps of the pictures, where these are searched.
    """
    if name in QUANTISED:
        return {"version": quantise.VERSION}
    return {
        "version": METRICS[name].version,
        "sampler": sampler.VERSION,
        "prompts": prompts.VERSION,
        "sampling": spec.sampling.at(steps).model_dump(mode="json"),
        "images": spec.metrics.images,
        "seed": spec.metrics.seed,
    }


def read(
    path: Path,
    spec: StudySpec,
    steps: int | None = None,
    networks: Networks | None = None,
    names: Collection[str] = MEASURED,
) -> dict[str, dict[str, float]]:
    """The stored scores of a training that are what the study would compute now.

    Args:
        path: File of the training's sampled scores.
        spec: The study.
        steps: Steps of the pictures, where these are searched.
        networks: Those of the study's metrics; the scores must be of them. None where they are not at hand.
        names: Scores that are asked for.

    Returns:
        For each score its value and companions.

    Raises:
        InputError: A network that a score needs cannot be used.
    """
    found = {}
    for name, record in _records(path).items():
        if name not in names or name not in MEASURED or record["under"] != conditions(spec, name, steps):
            continue
        if networks is None or _of_these(name, record["networks"], networks):
            found[name] = record["values"]
    return found


def add(path: Path, key: str, spec: StudySpec, steps: int | None, networks: Networks, scores: dict[str, dict[str, float]]) -> None:
    """Put scores of the training ``key`` into its file; the others stay. The caller holds the lock."""
    records = _records(path)
    for name, values in scores.items():
        records[name] = {"under": conditions(spec, name, steps), "networks": _networks(name, networks), "values": values}
    files.write_json(path, {"schema": _SCHEMA, "key": key, "scores": records})


def _networks(name: str, networks: Networks) -> dict[str, Any]:
    uses = METRICS[name].uses if name in METRICS else ()
    keys: dict[str, Any] = json.loads(json.dumps({use: networks.key(use) for use in uses}))  # as it is read again
    return keys


def _of_these(name: str, kept: dict[str, Any] | None, networks: Networks) -> bool:
    if kept is None:  # of schema 1: packages' networks had one version then, what a path meant is not known
        return name not in METRICS or METRICS[name].needs_setting is None
    return kept == _networks(name, networks)


def _records(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    records: dict[str, dict[str, Any]] = content["scores"] if content["schema"] == _SCHEMA else _from_schema_1(content)
    return records


def _from_schema_1(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Records of a file in which all scores lay side by side, under the versions of all metrics."""
    under, scores = content["under"], content["scores"]
    names = [name for name in MEASURED if name in scores]
    versions, metrics = under.get("versions", {}), under.get("metrics", {})
    records: dict[str, dict[str, Any]] = {}
    for name in names:
        values = {label: value for label, value in scores.items() if _owner(label, names) == name}
        if name in QUANTISED:
            its: dict[str, Any] = {"version": versions.get("int8")}
        else:
            its = {"version": versions.get(name), "sampler": 1, "prompts": 1, "sampling": under.get("sampling")}
            its |= {"images": metrics.get("images"), "seed": metrics.get("seed")}
        records[name] = {"under": its, "networks": None, "values": values}
    return records


def _owner(label: str, names: Iterable[str]) -> str:
    """Which score a value belongs to: kid_effnet_low is of kid_effnet, not of kid."""
    return max((name for name in names if f"{label}_".startswith(f"{name}_")), key=len, default="")
