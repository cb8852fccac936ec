"""What a run prints at its end, and what looks at it afterwards: its front, the answer, what was measured."""

from typing import Any

import optuna

from archsearch.cli.console import console, print_table
from archsearch.cli.marks import CAPTION, marked
from archsearch.study import results
from archsearch.study.answer import sentence
from archsearch.study.remeasure import Remeasured
from archsearch.study.rundir import RunDir
from archsearch.study.setting import STEPS_PARAMETER, Setting


def print_front(opened: RunDir, setting: Setting, study: optuna.Study) -> None:
    """Print the front, cheapest first."""
    members = [results.candidate(opened, trial) for trial in results.front(study)]
    names = list(dict.fromkeys([*setting.spec.objectives, *setting.spec.report]))
    steps = [STEPS_PARAMETER] if setting.spec.sampling.searched else []
    noted = any(member.note for member in members)
    rows = []
    for member in members:
        known = member.scores | member.extra
        cells = [_cell(name, known.get(name, "–"), member.note) for name in names]
        rows.append([member.name, *(member.steps for _ in steps), *cells, member.digest, *([member.note] if noted else [])])
    columns = ["trial", *steps, *names, "architecture", *(["latency_note"] if noted else [])]
    print_table("Pareto front, cheapest first", columns, rows)
    if noted:
        console.print(CAPTION, highlight=False)


def _cell(name: str, value: Any, note: str) -> Any:
    """A number stays one, so that its column is set flush right."""
    text = marked(name, value, note)
    return text if text.startswith("≈") else value


def print_remeasured(found: Remeasured) -> None:
    """Print what was measured beside what was predicted."""
    rows = [
        (
            line.network,
            line.device,
            f"≈ {line.predicted:,.2f}" if line.note else line.predicted,
            line.measured,
            f"{100 * line.error:+.1f} %",
            f"{line.p10:,.2f} to {line.p90:,.2f}",
        )
        for line in found.lines
    ]
    if rows:
        columns = ["network", "table", "predicted", "measured", "error", "measured, p10 to p90"]
        print_table("latency of one UNet pass, ms: predicted, and measured whole on this machine", columns, rows)


def print_ending(opened: RunDir, found: list[dict[str, Any]]) -> None:
    """Print the answer, and what can be done next."""
    for item in found:
        console.print(sentence(item), markup=False, highlight=False)
    console.print(
        f"\nResults: {opened.path}/pareto.csv, {opened.path}/trials.csv, {opened.path}/plots/", highlight=False, soft_wrap=True
    )
    console.print(
        f"Next: archsearch export {opened.path} --knee --format yaml --output chosen.yaml", highlight=False, soft_wrap=True
    )
