"""``archsearch effects``: what every choice of every knob costs or gains, and what it saves."""

from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from archsearch.api import Study
from archsearch.cli.app import JsonOption, app, check_file, print_json, print_table, say
from archsearch.cli.results import RunArgument
from archsearch.files import write_text

COSTS = ("latency_ms", "macs", "params")


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
        print_table(
            f"{quality} against the reference choice, mean over random networks",
            ["knob", "choice", quality, "95 %", "verdict", *COSTS],
            [_row(row, quality) for row in table.to_dict("records")],
        )
        margin = float(table[f"{quality} margin"].iloc[0])
        trained = len(study.results.beliefs().measured(quality))
        say(
            f"From {trained} trainings, whose noise between seeds has a standard deviation of "
            f"{models[quality].deviations()['noise']:.2g}. No worse: the interval stays below "
            f"{margin:.2g}. Not judged: the choices differ in capacity, and the proxy shows no "
            "difference between them: it has no say here."
        )
    return None


def _row(row: dict[Any, Any], quality: str) -> list[Any]:
    ratios = (row.get(f"{cost} ratio") for cost in COSTS)
    return [
        row["knob"],
        f"{row['choice']} (for {row['reference']})",
        f"{row[quality]:+.4f}",
        f"{row[f'{quality} low']:+.4f} to {row[f'{quality} high']:+.4f}",
        row[f"{quality} verdict"],
        *("–" if r is None or pd.isna(r) else f"× {r:.2f}" for r in ratios),
    ]
