"""Making a bundle: every model in a folder of its own, then the scripts, then the manifest."""

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from pydantic import ValidationError

from archsearch.errors import ArchsearchError, InputError
from archsearch.files import write_json, write_text
from archsearch.latency.paired import REFERENCE_UNIT
from archsearch.latency.phone.convert import CONVERTERS, RUNTIME_OF, Converter
from archsearch.latency.phone.manifest import MANIFEST, MODELS, ORDER, REFERENCE_KEY, Conditions, Format, Item, Manifest, key_of
from archsearch.latency.things import Thing, name_of, to_data
from archsearch.runtimes.base import RuntimeFacts, facts
from archsearch.runtimes.registry import get_runtime

PLAN = ".plan.json"
SCRIPTS: dict[Format, list[str]] = {
    "onnx": ["run_onnx.py", "run_onnx_android.sh"],
    "executorch": ["run_executorch_android.sh"],
    "coreml": ["bench_coreml.swift"],
}
Progress = Callable[[int, int], None]
"""Called with what is done and the total."""


def conditions_of(format: Format, threads: int, warmup: int, runs: int, seed: int, found: RuntimeFacts | None = None) -> Conditions:
    """What a bundle says of itself: facts of the runtime whose format it is, ``found`` where another Python has it.

    Raises:
        InputError: The library that converts is not installed.
    """
    found = found or facts(get_runtime(RUNTIME_OF[format]))
    return Conditions(
        format=format,
        library=found.library,
        graph_level=found.graph_level,
        compute_unit=found.compute_unit,
        dtype=found.dtype,
        layout=found.layout,
        converter=f"{found.library} {found.version}",
        threads=threads,
        warmup=warmup,
        runs=runs,
        seed=seed,
    )


def write_bundle(
    things: Sequence[tuple[str | None, Thing]],
    conditions: Conditions,
    folder: Path,
    progress: Progress | None = None,
    convert: Converter | None = None,
) -> Manifest:
    """Write a bundle, or go on where making it was cut off: models that are there already are kept.

    Args:
        things: What is to be measured, and what the user calls it; each once. The reference block comes by itself.
        conditions: How all of it is converted and measured.
        folder: Where to; made if it is not there.
        progress: Told after each model.
        convert: What converts; default: this Python.

    Raises:
        InputError: ``folder`` holds something else, or a bundle made under other conditions.
        ArchsearchError: Nothing could be converted, or a file cannot be written.
    """
    _claim(folder, conditions)
    for left in folder.rglob(".making-*"):  # of a run that was killed; nothing of it belongs on a device
        shutil.rmtree(left, ignore_errors=True)
    convert = convert or CONVERTERS[conditions.format]
    (folder / MANIFEST).unlink(missing_ok=True)  # it is not whole any more
    wanted: dict[str, tuple[str | None, Thing]] = {REFERENCE_KEY: ("reference", REFERENCE_UNIT)}
    wanted |= {key_of(thing): (name, thing) for name, thing in things}
    items = []
    for number, (key, (name, thing)) in enumerate(wanted.items(), start=1):
        items.append(_item(key, name, thing, conditions, folder, convert))
        if key == REFERENCE_KEY and items[0].failed:
            raise ArchsearchError(f"{folder}: the reference block cannot be converted: {items[0].failed}")
        if progress:
            progress(number, len(wanted))
    manifest = Manifest.of(conditions, items)
    _write_scripts(manifest, folder)
    write_json(folder / MANIFEST, manifest.model_dump(mode="json", by_alias=True, exclude_none=True))
    return manifest


def _claim(folder: Path, conditions: Conditions) -> None:
    """Refuse a folder that is not ours; remember the conditions in one that is."""
    plan = folder / PLAN
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; give a folder for the bundle.")
    if folder.is_dir() and any(folder.iterdir()) and not plan.exists():
        raise InputError(f"{folder}: holds something else than a bundle; give an empty or a new folder.")
    if plan.exists():
        try:
            found = json.loads(plan.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{plan}: cannot be read ({error}); give another folder.") from error
        now = conditions.model_dump()
        differing = [name for name in now if not isinstance(found, dict) or found.get(name) != now[name]]
        if differing:
            named = ", ".join(f"{name} ({found.get(name)!r} there, {now[name]!r} now)" for name in differing)
            raise InputError(f"{folder}: holds a bundle made with another {named}; give another folder.")
    write_json(plan, conditions.model_dump())


def _item(key: str, name: str | None, thing: Thing, conditions: Conditions, folder: Path, convert: Converter) -> Item:
    """Convert a thing, or take what is there."""
    target = folder / MODELS / key
    about = target / "item.json"
    if about.exists():
        try:
            return Item.model_validate_json(about.read_text(encoding="utf-8")).model_copy(update={"name": name})
        except (OSError, ValidationError):
            shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _converted(key, name, thing, conditions, target, convert)
    except InputError:
        raise  # the environment lacks something: nothing else will convert either
    except OSError as error:
        raise ArchsearchError(f"{target}: cannot be written: {error.strerror or error}.") from error
    except Exception as error:  # converters raise whatever they like
        reason = " ".join(f"{name_of(thing)}: {error}".split())[:500]
        return Item(key=key, thing=to_data(thing), failed=reason, name=name)


def _converted(key: str, name: str | None, thing: Thing, conditions: Conditions, target: Path, convert: Converter) -> Item:
    """Convert into a folder aside, which then takes its place: half a model is never seen."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".making-") as aside:
        made = Path(aside) / key
        made.mkdir()
        file, inputs = convert(thing, conditions.seed, made)
        at = f"{MODELS}/{key}"
        inputs = [each.model_copy(update={"file": f"{at}/{each.file}"}) for each in inputs]
        item = Item(key=key, thing=to_data(thing), file=f"{at}/{file}", inputs=inputs, name=name)
        write_json(made / "item.json", item.model_dump(mode="json", exclude_none=True))
        os.replace(made, target)
    return item


def _write_scripts(manifest: Manifest, folder: Path) -> None:
    """The order of measuring with all that a shell needs to know, the scripts of the format, and what to do with them."""
    items, lines = manifest.by_key, []
    for number, key in enumerate(manifest.order(), start=1):
        inputs = ",".join(each.file for each in items[key].inputs)
        lines.append(f"{number:05d} {key} {items[key].file} {inputs}\n")
    write_text(folder / ORDER, "".join(lines))
    source = files("archsearch.latency.phone") / "device"
    conditions = manifest.conditions
    for name in SCRIPTS[conditions.format]:
        text = (source / name).read_text(encoding="utf-8")
        for field, value in {
            "BUNDLE": manifest.bundle,
            "THREADS": conditions.threads,
            "WARMUP": conditions.warmup,
            "RUNS": conditions.runs,
        }.items():
            text = text.replace(f"@{field}@", str(value))
        write_text(folder / name, text)
        if name.endswith(".sh"):
            (folder / name).chmod((folder / name).stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    readme = (source / f"README_{conditions.format}.md").read_text(encoding="utf-8")
    write_text(folder / "README.md", readme.replace("@MODELS@", str(len(items))).replace("@BUNDLE@", manifest.bundle))
