"""``archsearch latency``: build a table and look at one."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from archsearch import resources
from archsearch.cli.app import group
from archsearch.cli.console import JsonOption, console, print_json, print_table, progress_bar
from archsearch.latency.keys import keys_of
from archsearch.latency.measure import build_table
from archsearch.latency.paired import MeasureSettings
from archsearch.latency.table import LatencyTable
from archsearch.runtimes.registry import get_runtime
from archsearch.space.space import InvalidPointError, Space, load_space
from archsearch.unet.config import UNetConfig

latency = group("latency", "Build latency tables and look at them.")

ENUMERATE_UP_TO = 20_000
QUIET_DRAWS = 3_000


@latency.command()
def measure(
    space: Annotated[str, typer.Option(help="Search space whose units are measured, by name or path.")],
    runtime: Annotated[str, typer.Option(help="torch, onnxruntime or coreml.")],
    output: Annotated[Path, typer.Option(help="Table to write; what it holds already is kept.")],
    runs: Annotated[int, typer.Option(min=1, help="Samples of a unit.")] = 15,
    warmup: Annotated[int, typer.Option(min=0, help="Runs before the first sample.")] = 3,
    whole: Annotated[int, typer.Option(min=0, help="Random networks to measure whole beside their prediction.")] = 0,
    fit: Annotated[int, typer.Option(min=0, help="Further random networks, measured whole, to fit the correction on.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the draw of whole networks.")] = 0,
    max_drift: Annotated[float, typer.Option(min=0.01, help="Spread of the reference block above which a unit is refused.")] = 0.25,
) -> None:
    """Measure every unit of a space on this machine. Run again to go on after an interruption."""
    loaded = load_space(space)
    with progress_bar() as report:
        report(f"units of {loaded.name}", 0.0)
        units = keys_of(configurations(loaded))
    rng = random.Random(seed)
    networks = [loaded.sample_valid(rng)[1] for _ in range(whole + fit)]
    named = [(f"{'fit' if i < fit else 'check'}-{i}", network) for i, network in enumerate(networks)]
    with progress_bar() as report:

        def tell(done: int, total: int, remaining_s: float) -> None:
            report(f"{done} of {total} measured", done / total)

        settings = MeasureSettings(runs=runs, warmup=warmup, max_drift=max_drift)
        table = build_table(units, get_runtime(runtime), settings, output, named, tell, [name for name, _ in named[:fit]])
    console.print(f"{output}: {len(table.entries)} entries, reference {table.reference.p50:.2f} ms", highlight=False)


def configurations(space: Space) -> Iterator[UNetConfig]:
    """The architectures of a space: all of a small one; of a large one, draws until 3,000 in a row bring no new unit."""
    if space.size <= ENUMERATE_UP_TO:
        for point in space.points():
            try:
                yield space.build(point)
            except InvalidPointError:
                continue
        return
    rng, known, quiet = random.Random(0), 0, 0
    seen: set[object] = set()
    while quiet < QUIET_DRAWS:
        config = space.sample_valid(rng)[1]
        seen.update(keys_of([config]))
        quiet = quiet + 1 if len(seen) == known else 0
        known = len(seen)
        yield config


@latency.command()
def show(
    table: Annotated[str, typer.Argument(help="A latency table, by name or path.")],
    entries: Annotated[bool, typer.Option("--entries", help="List every entry.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a table: where and how it was measured, what it holds."""
    loaded = LatencyTable.load(resources.find("table", table))
    if as_json:
        dumped = loaded.model_dump(mode="json", by_alias=True)
        return print_json(dumped if entries else dumped | {"entries": len(loaded.entries)})
    header = [(name, str(value)) for name, value in loaded.model_dump(mode="json").items() if not isinstance(value, list | dict)]
    header += [("reference", f"{loaded.reference.p50:.3f} ms, drift {loaded.reference.drift:.3f}")]
    header += [("correction", f"{loaded.correction.scale:.4f} × sum + {loaded.correction.offset:.3f} ms")]
    print_table(loaded.name, ["", ""], header)
    kinds: dict[str, list[float]] = {}
    for unit, entry in loaded.by_unit.items():
        kinds.setdefault(unit.kind, []).append(entry.p50)
    print_table(
        "p50 in ms, measured", ["kind", "entries", "least", "most"], [(k, len(v), min(v), max(v)) for k, v in kinds.items()]
    )
    if entries:
        print_table(None, ["unit", "p10", "p50", "p90"], [(str(u), e.p10, e.p50, e.p90) for u, e in loaded.by_unit.items()])
    if loaded.whole:
        rows = [
            (w.name or w.config, w.measured, w.predicted, f"{100 * (w.predicted / w.measured - 1):+.1f} %") for w in loaded.whole
        ]
        print_table("whole networks, ms", ["network", "measured", "predicted", "error"], rows)
    return None
