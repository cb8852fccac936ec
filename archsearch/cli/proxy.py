"""``archsearch proxy``: what the scores of a study's proxy can be trusted with."""

from pathlib import Path
from typing import Annotated, Any

import typer

from archsearch import catalog
from archsearch.cli.app import (
    JsonOption,
    SetOption,
    console,
    group,
    heed_termination,
    print_json,
    print_table,
    progress_bar,
    say,
    told,
)
from archsearch.data.prepare import prepare
from archsearch.diffusion.recipe import pick_device
from archsearch.errors import InputError, nearest
from archsearch.files import write_json, write_text
from archsearch.study import validation
from archsearch.study.engines.local import LocalEngine, automatic_workers
from archsearch.study.grid import Cell, Grid
from archsearch.study.rundir import open_run
from archsearch.study.scoring import Scorer, check_sampled
from archsearch.study.setting import Setting, check_metric_files, load_setting
from archsearch.study.spec import MEASURED
from archsearch.study.validation import (
    SCORES,
    draw_networks,
    summarise_validation,
    validation_cells,
)

proxy = group("proxy", "Find out what the scores of a study's proxy can be trusted with.")
StudyArgument = Annotated[str, typer.Argument(help="A study, by name or path.")]
OutputOption = Annotated[
    Path | None, typer.Option(help="Folder of the trainings; one that is there goes on.")
]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Workers [default: one a core, or one a GPU].")
]


@proxy.command()
def validate(
    study: StudyArgument = "quickstart",
    networks: Annotated[
        int, typer.Option("--networks", "-n", min=3, help="Random networks of the space.")
    ] = 24,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each at the first budget.")] = 3,
    budgets: Annotated[
        str, typer.Option(help="Budgets, as multiples of the study's own, rising.")
    ] = "1,2,4,8",
    deep: Annotated[
        int | None,
        typer.Option(min=0, help="Networks trained beyond the first budget [default: all]."),
    ] = None,
    deep_seeds: Annotated[int, typer.Option(min=1, help="Seeds of those.")] = 2,
    seed: Annotated[int, typer.Option(help="Seed of the draw of networks.")] = 0,
    output: OutputOption = None,
    workers: WorkersOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train random networks at rising budgets and seeds; say whether a short training ranks them as
    a long one does.
    """
    multiples = _budgets(budgets)
    setting, folder = _load(study, settings, output, "validate")
    drawn = draw_networks(setting, networks, seed)
    cells = validation_cells(
        drawn,
        seeds,
        multiples,
        min(networks, networks if deep is None else deep),
        min(seeds, deep_seeds),
    )
    grid, scorer = train_grid(setting, folder, cells, workers)
    found = summarise_validation(grid, scorer)
    from archsearch.report.figures import draw_agreement

    write_json(folder / "validation.json", found)
    draw_agreement(found, folder / "validation.png")
    if as_json:
        return print_json(found)
    _print(found)
    return say(
        f"Every figure: {folder / 'validation.json'}; the picture: {folder / 'validation.png'}"
    )


@proxy.command()
def ablate(
    study: StudyArgument = "quickstart",
    around: Annotated[
        str | None,
        typer.Option(help="Preset whose knobs are turned [default: the first in the space]."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=2, help="Seeds of each network.")] = 3,
    budget: Annotated[
        int, typer.Option(min=1, help="Budget, as a multiple of the study's own.")
    ] = 1,
    metrics: Annotated[
        str, typer.Option(help="Scores of sampled pictures, divided by commas; empty for none.")
    ] = "",
    output: OutputOption = None,
    workers: WorkersOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn every knob of the space alone, around one network; say which of them the proxy can see
    at all.
    """
    sampled = [name for name in metrics.split(",") if name]
    if unknown := [name for name in sampled if name not in MEASURED]:
        raise InputError(
            f"--metrics: '{unknown[0]}' is not known.{nearest(unknown[0], MEASURED)} Allowed "
            f"are: {', '.join(MEASURED)}."
        )
    setting, folder = _load(study, settings, output, "ablation")
    if sampled and setting.spec.sampling.searched:
        most = max(setting.spec.sampling.searched)
        raise InputError(
            "sampling.steps: is a list, but --metrics needs one number: --set "
            f"sampling.steps={most}."
        )
    name, point = validation.centre(setting, around)
    cells = validation.ablation_cells(
        validation.variants(setting, name, point), seeds, budget, sampled
    )
    grid, scorer = train_grid(setting, folder, cells, workers)
    scores = [*SCORES, *sampled]
    found = validation.summarise_ablation(grid, scorer, budget, scores)
    write_json(folder / "ablation.json", found)
    write_text(folder / "ablation.md", validation.markdown(found))
    if as_json:
        return print_json(found)
    rows = [
        (row["network"], row["macs"] / 1e9, *(_effect(row["effects"][score]) for score in scores))
        for row in found["rows"]
    ]
    title = (
        f"difference to {found['around']} in standard errors of the seeds; seen from "
        f"{validation.SEEN:g} on (*)"
    )
    print_table(title, ["network", "GMACs", *scores], rows)
    return say(f"Every figure: {folder / 'ablation.json'}; as a table: {folder / 'ablation.md'}")


def _effect(effect: dict[str, Any]) -> str:
    if "standard_errors" not in effect:
        return "–"
    return f"{effect['standard_errors']:+.1f}{'*' if effect['seen'] else ''}"


def train_grid(
    setting: Setting, folder: Path, cells: tuple[Cell, ...], workers: int | None
) -> tuple[Grid, Scorer]:
    """Train cells in workers of this machine, and wait for them."""
    run = open_run(folder, setting)
    setting = run.setting()
    with progress_bar() as report:
        data = prepare(setting.spec.data, setting.spec.proxy.latent, report)
        report("reference of the sampled scores", 0.0)
        check_sampled(
            dict.fromkeys(name for cell in cells for name in cell.sampled), data, setting.spec
        )
    grid, scorer = Grid(run, cells), Scorer(run, setting, data, pick_device())
    grid.write_plan()
    heed_termination()
    with (
        told("Interrupted; what was trained is kept. Run the same command to go on."),
        progress_bar() as report,
    ):

        def tick() -> None:
            done = sum(grid.is_done(scorer, cell) for cell in cells)
            report(f"{done} of {len(cells)} trainings", done / len(cells))

        if not all(grid.is_done(scorer, cell) for cell in cells):
            LocalEngine("archsearch.study.grid_worker").run(
                run, len(cells), workers or automatic_workers(), tick
            )
    return grid, scorer


def _load(
    study: str, settings: list[str] | None, output: Path | None, what: str
) -> tuple[Setting, Path]:
    path = catalog.find("study", study)
    setting = load_setting(path, settings or [])
    check_metric_files(setting)
    return setting, output or Path("runs") / f"{path.stem}-{what}"


def _budgets(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            "--budgets: must be whole numbers divided by commas, such as 1,2,4,8, but got "
            f"'{text}'."
        ) from None
    if found != sorted(set(found)) or found[0] < 1:
        raise InputError(f"--budgets: must rise from 1 or more, but got '{text}'.")
    return found


def _print(found: dict[str, Any]) -> None:
    for score, of in found["scores"].items():
        rows = [
            (
                row["rankings"],
                row["networks"],
                row.get("tau"),
                f"{row['low']:.2f} to {row['high']:.2f}" if "low" in row else "",
                row.get("spearman"),
                row["tau_within_macs_thirds"],
            )
            for row in of["agreement"]
        ]
        print_table(
            score,
            ["rankings", "networks", "Kendall τ", "95 %", "Spearman", "τ within thirds of MACs"],
            rows,
        )
        for budget, spread in of["spread"].items():
            console.print(
                f"{score} at {budget} ×: standard deviation between networks "
                f"{spread['between'] ** 0.5:.4f}, between seeds "
                f"{spread['within'] ** 0.5:.4f}; variance ratio {spread['ratio']:.1f}",
                highlight=False,
            )
