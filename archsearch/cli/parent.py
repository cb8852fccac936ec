"""``archsearch parent``: one trained network that the candidates of a study start from."""

from pathlib import Path
from typing import Annotated

import typer

from archsearch.api import Study
from archsearch.cli.app import (
    JsonOption,
    SetOption,
    group,
    heed_termination,
    interruptible,
    print_json,
    print_table,
    progress_bar,
    say,
)
from archsearch.errors import check_known
from archsearch.study.parent import load_parent
from archsearch.study.parent_training import HOWS, judged
from archsearch.study.parents import find_parent

parent = group("parent", "Train one network that the candidates of a study start from.")


@parent.command()
def train(
    study: Annotated[str, typer.Argument(help="A study, by name or path.")],
    output: Annotated[
        Path,
        typer.Option(
            help="Folder of the training; one that is there goes on. parent.safetensors in it is "
            "the parent."
        ),
    ],
    how: Annotated[
        str,
        typer.Option(
            help="largest: the space's largest network alone. elastic: with it, in every step, the "
            "cheapest and a random one, whose weights are inherited from it."
        ),
    ] = "largest",
    samples: Annotated[int, typer.Option(min=1, help="Pictures to see at most.")] = 60_000,
    settings: SetOption = None,
) -> None:
    """Train the parent of a study's space. It ends early where the held-out loss does not fall any
    more.
    """
    check_known(how, HOWS, f"--how: '{how}' is not known")
    chosen = Study(study, output, settings or [])
    heed_termination()
    with interruptible(kept="what was trained is kept"), progress_bar() as report:
        found = chosen.train_parent(output, how, samples, report)  # type: ignore[arg-type]
    best = min(found.about["curve"], key=judged)
    say(
        f"{found.path}: held-out loss {judged(best):.4f} after {best['samples']:,} pictures. "
        f"Use it with --set proxy.init=parent --set proxy.parent={found.path}"
    )


@parent.command()
def show(
    name: Annotated[str, typer.Argument(help="A parent, by name or path.")],
    as_json: JsonOption = False,
) -> None:
    """Show what a parent was trained on, and how far."""
    found = load_parent(find_parent(name))
    size = sum(tensor.numel() for tensor in found.state.values())
    about = {"digest": found.digest, "params": size, **found.about}
    if as_json:
        return print_json(about)
    plain = {k: v for k, v in about.items() if not isinstance(v, dict | list)}
    data = dict(about.get("data", {}))
    plain |= {f"licence of {name}": each for name, each in data.pop("licences", {}).items()}
    rows = [(name, value) for name, value in (plain | data).items()]
    print_table(f"parent {found.path.name}", ["", ""], rows)
    if "curve" not in about:
        return say("A network that was not trained as a parent: nothing is known of its training.")
    columns = list(about["curve"][0])
    rows = [tuple(look[column] for column in columns) for look in about["curve"]]
    return print_table("held-out loss", columns, rows)
