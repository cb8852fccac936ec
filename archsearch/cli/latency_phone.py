"""``archsearch latency bundle`` and ``import``: to a device that archsearch does not run on, and back."""

import contextlib
import random
from pathlib import Path
from typing import Annotated, get_args

import typer

from archsearch.cli.console import JsonOption, console, print_json, progress_bar, say
from archsearch.cli.find import find_architecture
from archsearch.cli.latency import latency
from archsearch.errors import InputError, nearest
from archsearch.latency.coverage import units_of
from archsearch.latency.keys import keys_of
from archsearch.latency.parts import PARTS, get_part
from archsearch.latency.phone.bundle import conditions_of, write_bundle
from archsearch.latency.phone.manifest import Format
from archsearch.latency.phone.remote import RemoteConverter
from archsearch.latency.phone.returned import NAMED, DeviceFacts, Imported, import_results
from archsearch.latency.things import Thing
from archsearch.space.space import load_space
from archsearch.unet.config import UNetConfig

FORMATS: tuple[Format, ...] = get_args(Format)


@latency.command()
def bundle(
    format: Annotated[str, typer.Option(help=f"What the device runs: {', '.join(FORMATS)}.")],
    output: Annotated[Path, typer.Option(help="Folder to write; one that was cut off is gone on with.")],
    space: Annotated[str | None, typer.Option(help="Search space whose units are bundled, by name or path.")] = None,
    arch: Annotated[list[str] | None, typer.Option(help="A network, bundled whole and with its units (several).")] = None,
    whole: Annotated[int, typer.Option(min=0, help="Random networks of the space to bundle whole.")] = 0,
    part: Annotated[list[str] | None, typer.Option(help=f"A part of the pipeline: {', '.join(PARTS)} (several).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, inputs and the draw of networks.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Threads that inference may use there.")] = 1,
    warmup: Annotated[int, typer.Option(min=0, help="Runs before the first one that counts.")] = 3,
    runs: Annotated[int, typer.Option(min=1, help="Runs of a model that count.")] = 15,
    runtime_python: Annotated[
        Path | None, typer.Option(help="Python of another environment that has the format's library (ExecuTorch needs one).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write models and scripts to carry to a device, to measure them there."""
    chosen = next((name for name in FORMATS if name == format), None)
    if chosen is None:
        raise InputError(f"--format: '{format}' is unknown; allowed are {', '.join(FORMATS)}.{nearest(format, FORMATS)}")
    with contextlib.ExitStack() as stack:
        convert = stack.enter_context(RemoteConverter(chosen, runtime_python)) if runtime_python else None
        conditions = conditions_of(chosen, threads, warmup, runs, seed, convert.facts if convert else None)
        report = stack.enter_context(progress_bar())
        report("units", 0.0)
        things = _things(space, arch or [], whole, part or [], seed)

        def tell(done: int, total: int) -> None:
            report(f"{done} of {total} models", done / total)

        manifest = write_bundle(things, conditions, output, tell, convert)
    failed = {item.key: item.failed for item in manifest.items if item.failed}
    if as_json:
        return print_json({"bundle": manifest.bundle, "output": str(output), "models": len(manifest.items), "failed": failed})
    say(f"{output}: {len(manifest.items) - len(failed)} models, see README.md there.")
    for reason in list(failed.values())[:NAMED]:
        say(f"could not be converted: {reason}")
    if len(failed) > NAMED:
        say(f"and {len(failed) - NAMED} more; --json lists all")
    return None


def _things(space: str | None, arch: list[str], whole: int, part: list[str], seed: int) -> list[tuple[str | None, Thing]]:
    """What is to be bundled: units of the space and of the networks, the networks, the parts."""
    if whole and not space:
        raise InputError("--whole: draws networks of a space; give --space too.")
    if not (space or arch or part):
        raise InputError("nothing to bundle: give --space, --arch or --part.")
    parts = [get_part(name) for name in part]
    networks: list[tuple[str, UNetConfig]] = [(found.name, found.config) for found in map(find_architecture, arch)]
    units = []
    if space:
        loaded = load_space(space)
        units = units_of(loaded)
        rng = random.Random(seed)
        networks += [(f"check-{number}", loaded.sample_valid(rng)[1]) for number in range(whole)]
    units = list(dict.fromkeys([*units, *keys_of(config for _, config in networks)]))
    return [*((None, unit) for unit in units), *networks, *((each.name, each) for each in parts)]


@latency.command("import")
def import_(
    bundle: Annotated[Path, typer.Option(help="The bundle's folder.")],
    results: Annotated[Path, typer.Option(help="results.json, or the folder results, as the bundle's script left it.")],
    device: Annotated[str, typer.Option(help="Name of the device, as tables are called: pixel-8.")],
    soc: Annotated[str, typer.Option(help="Its chip: Tensor G3.")],
    os: Annotated[str, typer.Option(help="Its system and version: Android 15.")],
    output: Annotated[Path, typer.Option(help="Table to write.")],
    runtime_version: Annotated[str | None, typer.Option(help="Version of the runtime there, where results do not tell.")] = None,
    cooling: Annotated[str, typer.Option(help="Said in the table: fan, pauses, temperature.")] = "not recorded",
    max_drift: Annotated[
        float, typer.Option(min=0.01, help="Spread of the reference beside a model above which all is refused.")
    ] = 0.25,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the table.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a latency table of what was measured on a device."""
    if output.exists() and not force:
        raise InputError(f"{output}: is there already; give another path, or --force to overwrite it.")
    imported = import_results(bundle, results, DeviceFacts(device, soc, os, runtime_version, cooling), max_drift)
    imported.table.save(output)
    if as_json:
        return print_json(_summary(imported, output))
    table = imported.table
    console.print(
        f"{output}: {len(table.entries)} entries, reference {table.reference.p50:.3f} ms", highlight=False, soft_wrap=True
    )
    for what, names in (
        ("without a result", imported.missing),
        ("failed", [f"{name}: {reason}" for name, reason in imported.failed.items()]),
        ("networks left out, as units of theirs are missing", imported.unpredicted),
    ):
        if names:
            more = f"; and {len(names) - NAMED} more, see --json" if len(names) > NAMED else ""
            line = f"{len(names)} {what}: {'; '.join(names[:NAMED])}{more}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    return None


def _summary(imported: Imported, output: Path) -> dict[str, object]:
    return {
        "output": str(output),
        "entries": len(imported.table.entries),
        "parts": len(imported.table.parts),
        "whole": len(imported.table.whole),
        "reference_ms": imported.table.reference.p50,
        "missing": imported.missing,
        "failed": imported.failed,
        "unpredicted": imported.unpredicted,
    }
