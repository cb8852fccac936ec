"""What a run prints at its end, and what looks at it afterwards: its front, the answer, what was measured."""

from typing import Any

import optuna

from archsearch.cli.console import console, print_table, say
from archsearch.cli.marks import CAPTION, marked
from archsearch.study import results
from archsearch.study.answer import sentence
from archsearch.study.apart import Noise, noise_of, not_told_from
from archsearch.study.remeasure import Remeasured
from archsearch.study.rundir import RunDir
from archsearch.study.setting import STEPS_PARAMETER, Setting

SAME = "same as"
"""Column of the members that one cannot be told from."""


def print_front(opened: RunDir, setting: Setting, study: optuna.Study) -> None:
    """Print the front, cheapest first, and beside each member those that it cannot be told from."""
    members = [results.candidate(opened, trial, setting.spec) for trial in results.front(study)]
    names = list(dict.fromkeys([*setting.spec.objectives, *setting.spec.report]))
    steps = [STEPS_PARAMETER] if setting.spec.sampling.searched else []
    noted = any(member.note for member in members)
    noise = noise_of(opened, study, setting.spec)
    same = not_told_from(members, noise)
    apart = [SAME] if noise and noise.seed_deviation is not None else []
    called = {member.number: member.name for member in members}
    rows: list[list[Any]] = []
    for member in members:
        known = member.scores | member.extra
        cells = [_cell(name, known.get(name, "–"), member.note) for name in names]
        others = ", ".join(called[number] for number in same[member.number] or [])
        rest = [*(others for _ in apart), member.digest, *([member.note] if noted else [])]
        rows.append([member.name, *(member.steps for _ in steps), *cells, *rest])
    columns = ["trial", *steps, *names, *apart, "architecture", *(["latency_note"] if noted else [])]
    print_table("Pareto front, cheapest first", columns, rows)
    if noise:
        say(_explained(noise))
    if noted:
        console.print(CAPTION, highlight=False)


def _explained(noise: Noise) -> str:
    """What stands under the front about members that cannot be told apart."""
    if noise.seed_deviation is None:
        return (
            "Which members cannot be told apart is not known: no network was trained with a second seed, which would tell how much "
            f"{noise.score} scatters."
        )
    return (
        f"{SAME}: {noise.score} differs by {noise.least_difference:.2g} or less, as between two seeds of one network in 95 of 100 "
        f"cases (seed deviation {noise.seed_deviation:.2g}, from {noise.repetitions} trainings of {noise.networks} "
        f"network{'' if noise.networks == 1 else 's'})."
    )


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
