"""``archsearch doctor``."""

from typing import Annotated

import typer

from archsearch.cli.app import JsonOption, app, print_json, print_table, say
from archsearch.cli.results import RunArgument
from archsearch.study.doctor import examine


@app.command()
def doctor(
    run_dir: RunArgument,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what is wrong; mend nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a run's database and files after a crash, and mend them.

    What somebody is at work on is left alone. Exits with 1 where something is left that cannot be
    mended.
    """
    found = examine(run_dir, mend=not dry_run)
    if as_json:
        print_json(found.to_dict())
    elif found.findings:
        rows = [(each.where, each.what, each.state, each.done) for each in found.findings]
        print_table(f"{run_dir}, looked through", ["where", "what", "state", "how"], rows)
    if not as_json:
        say(_sum_up(found.counts()))
    if not found.well:
        raise typer.Exit(1)


def _sum_up(counts: dict[str, int]) -> str:
    if not counts:
        return "All is well."
    return ", ".join(f"{count} {state}" for state, count in counts.items()) + "."
