"""What adapters do for a trained network, on itself and, without being trained again, on what was
distilled from it.

*LoRA toward another drawing style.* ``kid_effnet`` of pictures of the other style's captions
against pictures of that style, without and with the LoRA. The gap is the distance of the network
without it, less that which the network has from the style that it learned: the LoRA closes so much
of it. The same of the held-out loss.

*Control by edges.* Held-out pictures give edges and captions. The error is the share of pixels in
which the edges of what is drawn are others than those asked for, without and with the adapter, from
the same noise; the cut comes with its interval of 95 %, held-out pictures resampled.

One thread. Trainings that were cut off go on.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import archsearch
from archsearch import catalog
from archsearch.adapters.control import Controlled, edges
from archsearch.adapters.training import load_adapter
from archsearch.adapters.work import Scores, Work, begin_work, read_checkpoint
from archsearch.data.latent import latent_space
from archsearch.data.spec import DataSpec
from archsearch.diffusion.sample import sample_under, sampling_for
from archsearch.diffusion.trained import SCORES, load_trained
from archsearch.study.setting import read_study

METRIC = "kid_effnet"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", type=Path, help="what adapters are trained for")
    parser.add_argument("made", type=Path, nargs="*", help="folders of what was made from it")
    parser.add_argument("--style", help="study whose pictures are of another style")
    parser.add_argument("--samples", type=int, default=8_000, help="pictures of each training")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument(
        "--control-rate", type=float, help="learning rate of control (by default the network's)"
    )
    parser.add_argument("--images", type=int, default=512, help="pictures a score is taken of")
    parser.add_argument("--pictures", type=int, default=128, help="held-out pictures to control by")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folders = [arguments.network, *arguments.made]
    if arguments.style:
        lora(arguments, folders)
    control(arguments, folders)


def lora(arguments: argparse.Namespace, folders: list[Path]) -> None:
    output, path = arguments.output, arguments.output / "lora"
    trained = archsearch.adapt(
        arguments.network,
        path,
        "lora",
        study=arguments.style,
        rank=arguments.rank,
        samples=arguments.samples,
    )
    here = json.loads((arguments.network / SCORES).read_text("utf-8"))["scores"]["val_loss"]
    gap = trained["val_loss_without"] - here
    closed = (trained["val_loss_without"] - trained["val_loss"]) / gap
    say(what="lora", **trained, val_loss_of_own_style=here, closed_of_loss=closed)
    style = read_study(catalog.find("study", arguments.style), ())[1].data
    own = Scores(begun(arguments.network, output / "own"), (METRIC,), arguments.images)
    other = Scores(begun(arguments.network, output / "other", style), (METRIC,), arguments.images)
    for folder in folders:
        model, conditions = load_trained(folder, own.work.device)
        sampling = sampling_for(conditions)
        from_own, plain = (s.take(model, conditions, sampling)[METRIC] for s in (own, other))
        model = load_adapter(path).on(model, latent_space(conditions.latent))
        adapted = other.take(model, conditions, sampling)[METRIC]
        say(
            what="lora",
            network=folder.name,
            steps=sampling.steps,
            own_style=from_own,
            other_style=plain,
            with_lora=adapted,
            closed=(plain - adapted) / (plain - from_own),
        )


def control(arguments: argparse.Namespace, folders: list[Path]) -> None:
    path = arguments.output / "control"
    trained = archsearch.adapt(
        arguments.network,
        path,
        "control",
        samples=arguments.samples,
        learning_rate=arguments.control_rate,
    )
    say(what="control", **trained)
    work = begun(arguments.network, arguments.output / "own")
    held_out = work.data.held_out
    rows = held_out[torch.linspace(0, len(held_out) - 1, arguments.pictures).long()]
    asked = edges(work.data.images[rows])
    for folder in folders:
        model, conditions = load_trained(folder, work.device)
        sampling, errors = sampling_for(conditions), []
        controlled = load_adapter(path).on(model, latent_space(conditions.latent))
        assert isinstance(controlled, Controlled)

        def see(part: slice, controlled: Controlled = controlled) -> None:
            controlled.see(asked[part].to(work.device))

        for network, before in ((model, lambda _: None), (controlled, see)):
            drawn = sample_under(
                network, conditions, work.context(rows), sampling, 0, work.device, before
            )
            errors.append((edges(drawn) != asked).float().mean((1, 2, 3)))
        low, high = cut_interval(*errors)
        say(
            what="control",
            network=folder.name,
            steps=sampling.steps,
            edges_asked=float(asked.mean()),
            error=float(errors[0].mean()),
            error_controlled=float(errors[1].mean()),
            cut=float(1 - errors[1].mean() / errors[0].mean()),
            cut_low=low,
            cut_high=high,
        )


def cut_interval(without: Tensor, controlled: Tensor, draws: int = 2_000) -> tuple[float, float]:
    """Ends of the bootstrap interval of 95 % of by how much an error is cut."""
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(0, len(without), (draws, len(without)), generator=generator)
    cuts = 1 - controlled[index].mean(1) / without[index].mean(1)
    low, high = torch.quantile(cuts, torch.tensor([0.025, 0.975])).tolist()
    return low, high


def begun(network: Path, folder: Path, other: DataSpec | None = None) -> Work:
    trained = read_checkpoint(network, folder)
    return begin_work(trained, network, folder, "scores.json", {}, {}, lambda _, __: None, other)


def say(**row: Any) -> None:
    print(
        json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}),
        flush=True,
    )


if __name__ == "__main__":
    main()
