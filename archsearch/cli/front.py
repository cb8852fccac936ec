"""``archsearch pareto``, and how a front is printed: what its networks score, and what differs in
them from the preset.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from archsearch.cli.app import (
    NO_BREAK,
    JsonOption,
    app,
    decimals,
    fits,
    number,
    paragraph,
    print_json,
    print_table,
    say,
)
from archsearch.cli.results import CAPTION, RunArgument, marked, opened, several
from archsearch.study.results import (
    UNTRAINED,
    Noise,
    Results,
    ScoredTrial,
    changed_knobs,
    not_told_from,
    sentence,
)
from archsearch.study.setting import STEPS

BELIEVED, CHANCE, RATIO = "believed (95 %)", "on front", "× preset"
SAME = "same as"
"""Column of the members that one cannot be told from."""
THOUSANDS = ((1e9, "G"), (1e6, "M"))

WideOption = Annotated[
    bool,
    typer.Option("--wide", help="Every score and every knob, however wide the lines become."),
]


@app.command()
def pareto(run_dir: RunArgument, wide: WideOption = False, as_json: JsonOption = False) -> None:
    """Show the Pareto front of a run: what its networks score beside the presets, which knobs
    differ from the preset, and whether the front beats it.
    """
    study = opened(run_dir)
    if as_json:
        return print_json(study.results.pareto())
    return print_front(study.results, study.results.answers(), wide)


def print_front(results: Results, answers: Sequence[dict[str, Any]], wide: bool = False) -> None:
    """Print the front, cheapest first, then the presets that are not on it, what differs in each
    network, and the answers. On a terminal columns are left out until the rest fits, unless
    ``wide``.
    """
    members = results.front()
    dominated = [preset for preset in results.presets() if preset not in members]
    rows = [*members, *dominated]
    columns = _every_column(results, rows) if wide else _columns(results, rows, members)
    table = [list(row) for row in zip(*columns.values(), strict=True)]
    title = f"Pareto front of {results.setting.name}, cheapest first"
    if dominated:
        title += f"; below it {'the preset' if len(dominated) == 1 else 'the presets'}"
    print_table(title, list(columns), table, wide=wide)
    _print_knobs(results, rows, wide)
    say("")
    for preset in dominated:
        paragraph(_why_not(results, preset, members))
    for answer in answers:
        paragraph(sentence(answer))
    say("")
    _print_notes(results, members, list(columns))


def _columns(
    results: Results, rows: Sequence[ScoredTrial], members: Sequence[ScoredTrial]
) -> dict[str, list[Any]]:
    """The columns that a terminal of this width can show, the most telling first."""
    columns: dict[str, list[Any]] = {"network": [trial.name for trial in rows]}
    if results.setting.spec.sampling.searched:
        columns[STEPS] = [trial.steps for trial in rows]
    for name in results.objectives:
        columns[name] = [_score(trial, name) for trial in rows]
    more: dict[str, list[Any]] = {}
    if results.quality:
        more[CHANCE] = ["–" if t.chance is None else f"{t.chance:.2f}" for t in rows]
    presets = results.presets()
    if presets and (cost := results.cost) and cost in presets[0].scores:
        base = presets[0].scores[cost]
        more[RATIO] = [f"{trial.scores[cost] / base:.2f}" for trial in rows]
    if (noise := results.noise()) and noise.seed_deviation is not None:
        more[SAME] = _same_as(rows, not_told_from(members, noise))
    for name in ("params", "macs", *results.setting.spec.report):
        if name not in columns:
            more[name] = [_score(trial, name) for trial in rows]
    for name, cells in more.items():
        if fits([*columns, name], [*columns.values(), cells]):
            columns[name] = cells
    return columns


def _every_column(results: Results, rows: Sequence[ScoredTrial]) -> dict[str, list[Any]]:
    spec, noise = results.setting.spec, results.noise()
    names = dict.fromkeys([*spec.objectives, "params", "macs", *spec.report])
    columns: dict[str, list[Any]] = {
        "network": [trial.name for trial in rows],
        STEPS: [trial.steps for trial in rows],
        **{
            name: [marked(name, t.known.get(name, "–"), t.provenance) for t in rows]
            for name in names
        },
        SAME: _same_as(rows, not_told_from(results.front(), noise)),
        BELIEVED: [_interval(trial, results.quality) for trial in rows],
        CHANCE: ["–" if t.chance is None else f"{t.chance:.2f}" for t in rows],
        "architecture": [trial.digest for trial in rows],
        "latency_note": [trial.note for trial in rows],
    }
    if not spec.sampling.searched:
        del columns[STEPS]
    if noise is None or noise.seed_deviation is None:
        del columns[SAME]
    if not results.quality:
        del columns[BELIEVED], columns[CHANCE]
    if not any(columns["latency_note"]):
        del columns["latency_note"]
    return columns


def _same_as(rows: Sequence[ScoredTrial], same: Mapping[int, Sequence[int] | None]) -> list[str]:
    called = {trial.number: trial.name for trial in rows}
    return [", ".join(called[n] for n in same.get(trial.number) or []) for trial in rows]


def _score(trial: ScoredTrial, name: str) -> Any:
    """A score in a few characters: of a quality what is believed, with half its interval."""
    if name in trial.believed:
        mean, low, high = trial.believed[name]
        half = (high - low) / 2
        return f"{mean:.{decimals(half)}f} ± {half:.{decimals(half)}f}"
    value = trial.known.get(name)
    if value is None:
        return "–"
    for size, letter in THOUSANDS:
        if value >= size:
            return marked(name, f"{value / size:.1f} {letter}", trial.provenance)
    return marked(name, value, trial.provenance)


def _interval(trial: ScoredTrial, quality: str | None) -> str:
    if quality not in trial.believed:
        return "–"
    mean, low, high = (number(value) for value in trial.believed[quality])
    return f"{mean} ({low} to {high})"


def _print_knobs(results: Results, rows: Sequence[ScoredTrial], wide: bool) -> None:
    """Print the knobs of each network that differ from the preset; with ``wide`` all of them."""
    references = results.references()
    if not references:
        say("\nKnobs")
    elif len(references) == 1:
        say(f"\nKnobs that differ from {next(iter(references))} (its value → the network's)")
    else:
        say("\nKnobs that differ from the nearest preset (its value → the network's)")
    shown = [trial for trial in rows if trial.preset not in references]
    indent = max((len(trial.name) for trial in shown), default=0) + 3
    for trial in shown:
        changes = {name: changed_knobs(trial.point, base) for name, base in references.items()}
        name = min(changes, key=lambda each: len(changes[each]), default=None)
        differing = changes[name] if name else {}
        listed = {**trial.point, **differing} if wide or name is None else differing
        words = [
            f"{knob} {knob_value(differing[knob][0])} → {knob_value(differing[knob][1])}"
            if knob in differing
            else f"{knob} {knob_value(value)}"
            for knob, value in listed.items()
        ]
        told = ", ".join(each.replace(" ", NO_BREAK) for each in words) or "none"
        if name and len(references) > 1:
            told = f"from {name}: {told}"
        paragraph(f"{f'  {trial.name}':{indent}} {told}", indent=indent + 1)


def knob_value(value: Any) -> str:
    """The value of a knob as a study file has it."""
    return "null" if value is None else number(value) if isinstance(value, float) else str(value)


def _why_not(results: Results, preset: ScoredTrial, members: Sequence[ScoredTrial]) -> str:
    """Why a preset is not on the front."""
    found = [member.name for member in members if results.dominates(member, preset)]
    if found:
        return (
            f"{preset.name} is not on the front: {' and '.join(found)} "
            f"{'is' if len(found) == 1 else 'are'} as good or better in every objective."
        )
    return f"{preset.name} is not on the front, as far as is known."


def _print_notes(results: Results, members: Sequence[ScoredTrial], columns: Sequence[str]) -> None:
    """Print what the columns mean."""
    noise = results.noise()
    if results.quality and (BELIEVED in columns or CHANCE in columns):
        raw = ", ".join(trial.name for trial in results.raw_front())
        paragraph(
            f"{results.quality} is what a model of all trainings believes, ± half its interval of "
            f"95 %; {CHANCE}: the probability of being on the front. By the scores as measured, "
            f"lucky seeds included, the front is: {raw}."
        )
    if results.setting.spec.proxy.samples == 0:
        paragraph(UNTRAINED)
    elif noise and (SAME in columns or noise.seed_deviation is None):
        paragraph(_explained(noise))
    if any(member.note for member in members):
        paragraph(CAPTION)


def _explained(noise: Noise) -> str:
    """What stands under the front about members that cannot be told apart."""
    if noise.seed_deviation is None:
        return (
            "Which members cannot be told apart is not known: no network was trained with a "
            f"second seed, which would tell how much {noise.score} scatters."
        )
    networks = several(noise.networks, "network")
    return (
        f"{SAME}: {noise.score} differs by {noise.least_difference:.2g} or less, as between two "
        f"seeds of one network in 95 of 100 cases (seed deviation {noise.seed_deviation:.2g}, "
        f"from {noise.repetitions} trainings of {networks})."
    )
