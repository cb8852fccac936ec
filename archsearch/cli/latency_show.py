"""``archsearch latency show``: what a table holds, and how well it predicts."""

from typing import Annotated, Any

import typer

from archsearch import resources
from archsearch.cli.console import JsonOption, console, print_json, print_table
from archsearch.cli.latency import latency
from archsearch.latency.entry import describe
from archsearch.latency.lines import Whole
from archsearch.latency.load import load_table
from archsearch.latency.published import PublishedTable
from archsearch.latency.table import LatencyTable
from archsearch.latency.validate import summarise


@latency.command()
def show(
    table: Annotated[str, typer.Argument(help="A latency table, by name or path.")],
    entries: Annotated[bool, typer.Option("--entries", help="List every entry.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a table: where and how it was measured, what it holds, how well it predicts."""
    loaded = load_table(resources.find("table", table))
    dumped = loaded.model_dump(mode="json", by_alias=True, exclude_none=True)
    header = [(name, str(value)) for name, value in dumped.items() if not isinstance(value, list | dict)]
    if isinstance(loaded, PublishedTable):
        return print_json(dumped) if as_json else _print_published(loaded, header)
    judged = [line for line in loaded.whole if line.config not in loaded.correction.fitted_on]
    if as_json:
        validation = {"validation": summarise(judged).to_dict()} if judged else {}
        return print_json((dumped if entries else dumped | {"entries": len(loaded.entries)}) | validation)
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
        print_table(None, ["unit", "p10", "p50", "p90"], [(describe(u), e.p10, e.p50, e.p90) for u, e in loaded.by_unit.items()])
    if loaded.failed:
        print_table("failed", ["unit", "reason"], [(describe(line.unit), line.reason) for line in loaded.failed])
    if loaded.parts:
        print_table("parts of the pipeline, ms", ["part", "p50"], [(line.part, line.p50) for line in loaded.parts])
    return print_whole(loaded)


def _print_published(table: PublishedTable, header: list[tuple[str, Any]]) -> None:
    print_table(f"{table.name}: published estimate", ["", ""], header)
    print_table("published, ms", ["network", "GMACs", "ms"], [(line.name, line.gmacs, line.measured) for line in table.whole])
    print_table("parts of the pipeline, ms", ["part", "ms"], [(line.part, line.p50) for line in table.parts])


def print_whole(table: LatencyTable) -> None:
    """Print the whole networks of a table and how far it is off, those its correction was fitted on apart."""
    fitted = [line for line in table.whole if line.config in table.correction.fitted_on]
    judged = [line for line in table.whole if line not in fitted]
    if fitted:
        print_lines("networks the correction was fitted on, ms", fitted)
    if judged:
        print_lines("unseen networks, ms", judged)
        summary = summarise(judged)
        rank = "" if summary.spearman is None else f", Spearman {summary.spearman:.3f}"
        noise = "" if summary.repeat_noise is None else f"; measured twice they differ by {summary.repeat_noise:.1%}"
        console.print(
            f"median error {summary.median_error:.1%}, {summary.within_10_percent:.0%} within ± 10 %{rank}{noise}",
            highlight=False,
            soft_wrap=True,
        )


def print_lines(title: str, lines: list[Whole]) -> None:
    """Print whole networks, measured and predicted."""
    full = any(line.full for line in lines)
    columns = ["network", "measured", "predicted", "error", *(["fully optimised"] if full else [])]
    rows = [
        (line.name or line.config, line.measured, line.predicted, f"{100 * (line.predicted / line.measured - 1):+.1f} %")
        + ((line.full or "",) if full else ())
        for line in lines
    ]
    print_table(title, columns, rows)
