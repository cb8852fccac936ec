"""``archsearch drive``: a search that another program leads."""

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from archsearch import api
from archsearch.cli.app import SetOption, app, complain, heed_termination, interruptible

HELP = """Search with a sampler of another program, in JSON lines.

Reads one JSON object a line from standard input and answers each with one on standard output:

\b
{"space": {}}                   the dimensions, their values and conditions
{"ask": {}}                     a candidate of the study's own sampler
{"ask": {"point": {...}}}       a candidate at a point, its values as `space show` prints them
{"tell": {"trial": 0}}          trains the candidate's proxy, as a worker does
{"tell": {"trial": 0, "scores": {"val_loss": 0.21}}}      scores from outside
{"tell": {"trial": 0, "outcome": "diverged"}}             a training that came to nothing
{"front": {}}                   the Pareto front so far

An example, with its answers:

\b
$ archsearch drive studies/quickstart.yaml --output runs/driven
{"ask": {}}
{"trial": 0, "point": {"outer_width": 320, ...}, "costs": {"params": 276828936, ...}, "digest": ...}
{"tell": {"trial": 0, "scores": {"val_loss": 0.21}}}
{"trial": 0, "scores": {"val_loss": 0.21, "latency_ms": 4296.1, ...}}

A point that breaks a rule or a limit is answered with "infeasible" and costs no trial. A request
that is wrong is answered with "error" and the number of its line, and does not end the command. At
the end of the input, trials that were asked for and not told are queued again.
"""


@app.command(help=HELP)
def drive(
    study: Annotated[str, typer.Argument(help="A study, by name or path.")],
    output: Annotated[
        Path | None,
        typer.Option(help="Folder of the run (by default runs/NAME). One that is there goes on."),
    ] = None,
    settings: SetOption = None,
) -> None:
    """Search with a sampler of another program, in JSON lines."""
    search = api.Study(study, output, settings or ())
    search.check()
    search.results.trials.requeue_dead(blame=False)
    heed_termination()
    kept = "trials that were not told are queued again"
    with interruptible(kept=kept), closing(search.drive(sys.stdin.buffer)) as answers:
        for answer in answers:
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
    if search.write():
        complain(f"Results: {search.folder}/pareto.csv, {search.folder}/trials.csv")
