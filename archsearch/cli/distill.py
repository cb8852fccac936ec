"""``archsearch distill``, ``adapt`` and ``few-steps``: what is made from trained networks, and what
they draw in few steps.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from archsearch import after
from archsearch.cli.app import (
    JsonOption,
    SetOption,
    app,
    heed_termination,
    interruptible,
    print_json,
    print_table,
    progress_bar,
    quoted,
    say,
)
from archsearch.cli.results import marked
from archsearch.errors import InputError
from archsearch.metrics.spec import MAX_SEED

FrontOption = Annotated[
    bool,
    typer.Option(
        "--front",
        help="Do it to every member of a run's front, and to the presets, with one budget each, "
        "and say whether their order survives.",
    ),
]


@app.command()
def distill(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="Folder that `archsearch train` or `archsearch distill` made; with --front, of a "
            "run."
        ),
    ],
    output: Annotated[
        Path, typer.Option(help="Folder of the distilled network; one that is there goes on.")
    ],
    method: Annotated[
        str,
        typer.Option(
            help="progressive: guidance in one pass, then half the steps, and again. ufogen, dmd: "
            "a generator of 1, 2 or 4 steps."
        ),
    ] = "progressive",
    to: Annotated[int, typer.Option(min=1, max=1000, help="Steps to reach.")] = 8,
    start: Annotated[
        int | None,
        typer.Option(
            "--from",
            min=2,
            max=1000,
            help="progressive: steps that halving begins from; by default 64, or those that the "
            "network was distilled to.",
        ),
    ] = None,
    guidance: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="LOW HIGH",
            help="Guidance weights that it is to give: by default 1 to 8 for progressive, 3 to 3 "
            "for dmd.",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Pictures to see, in each round (by default as many as the study's budget).",
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(min=0, help="By default 1e-4, and 1e-3 in the first round of progressive."),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            help="A score of the pictures that each student draws, beside those of the network it "
            "comes from in as many steps, e.g. kid_effnet. May be given several times."
        ),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Pictures that a score is taken of: by default 128; with --front as many as the "
            "study says.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of the training.")] = 0,
    front: FrontOption = False,
    as_json: JsonOption = False,
) -> None:
    """Distill a trained network to fewer steps. The same command again goes on."""
    heed_termination()
    options: dict[str, Any] = {"method": method, "to": to, "start": start, "guidance": guidance}
    options |= {"samples": samples, "learning_rate": learning_rate, "seed": seed}
    options["metrics"] = metrics or ()
    options |= {} if images is None else {"images": images}
    with interruptible(kept="the last checkpoint is kept"), progress_bar() as report:
        if front:
            found = after.distill_front(checkpoint, output, report=report, **options)
        else:
            rows = after.distill(checkpoint, output, report=report, **options)
    if front:
        return _show_front(found, as_json)
    if as_json:
        return print_json(rows)
    shown = [name for name in rows[-1] if name not in ("weights", "error_low", "error_high")]
    known = [{name: row.get(name, "–") for name in shown} for row in rows]
    cells = [["any" if value is None else value for value in row.values()] for row in known]
    print_table(f"{checkpoint} → {output}", shown, cells)
    return say(
        f"Pictures: {output / 'samples.png'}. Draw others with: archsearch generate "
        f'{quoted(output)} "a red heart" --output heart.png'
    )


@app.command()
def adapt(
    checkpoint: Annotated[
        Path,
        typer.Argument(help="Folder that `archsearch train` made; with --front, of a run."),
    ],
    output: Annotated[Path, typer.Option(help="Folder of the adapter; one that is there goes on.")],
    method: Annotated[
        str,
        typer.Option(
            help="lora: a few weights beside the network's, toward other pictures. control: what "
            "is drawn has the edges of a picture. inpaint: a part of a picture is drawn anew."
        ),
    ] = "lora",
    study: Annotated[
        str | None,
        typer.Option(
            help="A study, by name or path, whose data are learned from (by default what the "
            "network learned from)."
        ),
    ] = None,
    rank: Annotated[int, typer.Option(min=1, max=512, help="lora: its rank.")] = 8,
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="Pictures to see (by default as many as the network's budget)."),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="By default that of the network's training.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of the training.")] = 0,
    settings: SetOption = None,
    front: FrontOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train an adapter: a LoRA, control by edges, or inpainting. The same command again goes on."""
    if settings and study is None:
        raise InputError("--set: overrides keys of a study, but no --study is given.")
    heed_termination()
    options: dict[str, Any] = {"method": method, "study": study, "overrides": settings or ()}
    options |= {"rank": rank, "samples": samples, "learning_rate": learning_rate, "seed": seed}
    with interruptible(kept="the last checkpoint is kept"), progress_bar() as report:
        if front:
            found = after.adapt_front(checkpoint, output, report=report, **options)
        else:
            found = after.adapt(checkpoint, output, report=report, **options)
    if front:
        return _show_front(found, as_json)
    if as_json:
        return print_json(found)
    print_table(f"{method} for {checkpoint} → {output}", ["", ""], list(found.items()))
    heeds = {"control": " --picture edges.png", "inpaint": " --picture all.png --mask part.png"}
    return say(
        f'Draw with it: archsearch generate {quoted(checkpoint)} "a red heart" --output heart.png '
        f"--adapter {quoted(output)}{heeds.get(method, '')}"
    )


@app.command("few-steps")
def few_steps(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a run.")],
    steps: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            max=1000,
            help="A number of steps. May be given several times; by default 50, 8, 4 and 1.",
        ),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            help="A score of the pictures, by default kid_effnet. May be given several times."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score what the front and the presets draw in few steps: quality against the latency of a
    picture. The run keeps the scores, and its report shows them.
    """
    heed_termination()
    with interruptible(kept="the scores so far are kept"), progress_bar() as report:
        asked = steps or after.STEPS, metrics or ("kid_effnet",)
        found = after.few_steps(run_dir, *asked, report=report)
    if as_json:
        return print_json(found)
    columns = ["network", "how", "steps", "passes", found["cost"], *found["metrics"]]
    rows = [
        [
            *(row[name] for name in columns[:4]),
            marked(found["cost"], row["cost"], row["provenance"]),
            *(row["scores"].get(name, "–") for name in found["metrics"]),
        ]
        for row in found["steps"]
    ]
    print_table("quality by number of steps", columns, rows)
    for order in found["orders"]:
        steps_of = "" if order["steps"] is None else f" in {after.in_steps(order['steps'])}"
        say(
            f"Order by {found['quality']} as the search believes it, and by {order['score']}, "
            f"{order['how']}{steps_of}: {_tau(order)}."
        )
    return say(f"The report shows it: archsearch report {quoted(run_dir)}")


def _show_front(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        return print_json(found)
    rows, beside = found["rows"], ("_low", "_high", "_floor", "_floor_sd")
    whole = next(row for row in rows if "ended" not in row)
    shown = [name for name in whole if name != "weights" and not name.endswith(beside)]
    print_table("what became of the front", shown, [[r.get(n, "–") for n in shown] for r in rows])
    for row in rows:
        if "ended" in row:
            say(f"{row['network']}: {row['ended']}")
    for score, tau in found["agreement"].items():
        before = f"{found['order_of']} as the search believes it"
        say(f"Order by {before}, and by {score} afterwards: {_tau(tau)}.")
    return None


def _tau(found: dict[str, Any]) -> str:
    return (
        f"Kendall's τ {found['tau']:.2f} ({found['low']:.2f} to {found['high']:.2f}), over "
        f"{found['networks']} networks"
    )
