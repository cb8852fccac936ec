"""``archsearch effects``: what every choice of every knob costs or gains, and what it saves."""

from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from archsearch.api import Study
from archsearch.cli.app import (
    JsonOption,
    app,
    check_file,
    decimals,
    fits,
    paragraph,
    print_json,
    print_table,
)
from archsearch.cli.front import knob_value
from archsearch.cli.results import RunArgument
from archsearch.files import write_text

COSTS = {"latency_ms": "latency", "macs": "MACs", "params": "params"}


@app.command()
def effects(
    run_dir: RunArgument,
    output: Annotated[Path | None, typer.Option(help="Write the table here too, as CSV.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what every choice of every knob costs or gains in quality, with its interval, and what
    it saves: a mean over random networks of the space in which nothing else differs.
    """
    check_file("--output", output, ".csv")
    study = Study.open(run_dir)
    table = study.effects()
    if output is not None:
        write_text(output, table.to_csv(index=False))
    models = study.results.beliefs().models
    if as_json:
        plain = table.astype(object).where(table.notna(), None).to_dict("records")
        deviations = {name: model.deviations() for name, model in models.items()}
        return print_json({"study": study.name, "effects": plain, "model": deviations})
    for quality in models:
        columns = _columns(table.to_dict("records"), quality)
        print_table(
            f"{quality} against the reference choice, mean over random networks",
            list(columns),
            [list(row) for row in zip(*columns.values(), strict=True)],
        )
        margin = float(table[f"{quality} margin"].iloc[0])
        trained = len(study.results.beliefs().measured(quality))
        paragraph(
            f"Reference choice → another, ± half the interval of 95 %. From {trained} trainings, "
            "whose noise between seeds has a standard deviation of "
            f"{models[quality].deviations()['noise']:.2g}. No worse: the interval stays below "
            f"{margin:.2g}. Not judged: the choices differ in capacity, and the proxy shows no "
            "difference between them: it has no say here."
        )
        if narrow := [h for c, h in COSTS.items() if f"{c} ratio" in table and h not in columns]:
            paragraph(f"Too wide for this terminal: {', '.join(narrow)}. --output writes all.")
    return None


def _columns(rows: list[dict[Any, Any]], quality: str) -> dict[str, list[str]]:
    """What a terminal of this width can show: of the costs as many as fit, one at least."""
    halves = [(row[f"{quality} high"] - row[f"{quality} low"]) / 2 for row in rows]
    digits = decimals(min(halves))
    columns = {
        "knob": [
            f"{row['knob']} {knob_value(row['reference'])} → {knob_value(row['choice'])}"
            for row in rows
        ],
        quality: [
            f"{row[quality]:+.{digits}f} ± {half:.{digits}f}"
            for row, half in zip(rows, halves, strict=True)
        ],
        "verdict": [row[f"{quality} verdict"] for row in rows],
    }
    shown = 0
    for cost, head in COSTS.items():
        ratios = [row.get(f"{cost} ratio") for row in rows]
        if all(map(pd.isna, ratios)):
            continue
        cells = ["–" if pd.isna(ratio) else f"× {ratio:.2f}" for ratio in ratios]
        if not shown or fits([*columns, head], [*columns.values(), cells]):
            columns[head], shown = cells, shown + 1
    return columns
