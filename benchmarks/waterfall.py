"""What each step of a recipe costs in quality: trained weights are taken from network to network.

The network that the recipe begins with is trained from scratch at a study's proxy scale. Then each
step is applied to the weights that the step before left, and the edited network is finetuned. Two
differences of the held-out loss come of each step, on the same held-out pictures, times and noises:

- right after the edit, against the network before it, nothing trained in between;
- after the finetune, against the network before it trained on unedited for as long, on the same
  pictures in the same order with the same noises. A short finetune lowers the loss of every network
  that is not trained to its end; that gain is no merit of the edit.

The whole walk is repeated with other seeds. Intervals are of 95 %. Right after the edit they say
what other held-out pictures would change; after the finetune also what other seeds would, by the
spread between walks, which is taken as one for all steps, and as one for all points of the curve
along one step. What other seeds of the first training would change is in neither.

Whether the proxy can judge a step at all is asked too: each network is scored once more with
nothing coming out of its stage of 16² (at deployment), where most steps of the paper are made.

Whatever is done is kept in the output folder: the same command goes on, and more walks can be
added. Tables (``waterfall.csv``, ``curve.csv``) and figures are written after every step.
"""

import argparse
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from scipy import stats
from torch import Tensor

import archsearch
from archsearch import catalog
from archsearch.cost.price import price
from archsearch.data.prepare import Prepared, prepare
from archsearch.diffusion.evaluate import held_out
from archsearch.diffusion.recipe import memory_format, pick_device, settled
from archsearch.diffusion.spec import CHECKPOINT, Recipe
from archsearch.diffusion.trained import begin
from archsearch.diffusion.trainer import Trainer
from archsearch.edit.inherit import inherit
from archsearch.edit.recipe import apply_recipe, load_recipe
from archsearch.files import write_bytes, write_json, write_text
from archsearch.latency.predict import Predictor, load_table
from archsearch.report.costs import Change, draw_waterfall
from archsearch.report.style import BLUE, GREY, RED, entitle, new_figure, save, styled
from archsearch.study.setting import load_setting
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet

Array = np.ndarray[Any, np.dtype[np.float64]]
LOOKS, WEIGHTS, SILENCED = "looks.json", "weights.safetensors", "silenced.json"
INNER = "stages.2.upsample.conv"
"""What comes out of the stage of 16² at deployment, and of all that lies inside it."""


@dataclass(frozen=True)
class Work:
    """What all trainings share."""

    data: Prepared
    recipe: Recipe
    device: torch.device
    samples: int
    """Pictures of a finetune."""


def train(
    work: Work,
    network: UNetConfig,
    state: dict[str, Tensor] | None,
    seed: int,
    looks: Sequence[int],
    folder: Path,
    first: dict[str, Any] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Train, and look at the held-out losses after each number of pictures in ``looks``.

    ``first`` is the look before any picture, where it is known. Returns the weights after
    ``work.samples`` pictures and the look at them; a later call reads what is there.
    """
    known: dict[str, Any] = {"0": first} if first else {}
    if (folder / LOOKS).is_file():
        known = json.loads((folder / LOOKS).read_text())
    trainer: Trainer | None = None
    for look in looks:
        if str(look) in known:
            continue
        found: dict[str, Any] = {}
        if look == 0:
            assert state is not None
            model = with_weights(work, network, state)
        else:
            if trainer is None:
                folder.mkdir(parents=True, exist_ok=True)
                recipe = work.recipe.model_copy(update={"samples": work.samples})
                trainer = Trainer(
                    network, work.data, recipe, seed, work.device, folder, initial=state
                )
            began, seen = time.process_time(), trainer.samples
            trainer.run(look)
            if trainer.samples > seen:
                spent = time.process_time() - began
                found["train_ms"] = round(1e3 * spent / (trainer.samples - seen), 2)
            model = trainer.averaged()
        scored = held_out(model, work.data, work.recipe, work.device)
        found |= {"loss": scored.loss, "losses": scored.losses, "pictures": scored.pictures}
        if look == work.samples:
            tensors = {name: each.contiguous().cpu() for name, each in model.state_dict().items()}
            write_bytes(folder / WEIGHTS, safetensors.torch.save(tensors))
        known[str(look)] = found  # after the weights: what was looked at is kept
        write_json(folder / LOOKS, known)
        print(
            json.dumps({"folder": str(folder), "pictures": look, "loss": scored.loss}), flush=True
        )
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return safetensors.torch.load_file(folder / WEIGHTS), known[str(work.samples)]


def with_weights(work: Work, network: UNetConfig, state: dict[str, Tensor]) -> UNet:
    model = UNet(network)
    model.load_state_dict(state)
    layout = memory_format(work.device, work.recipe.channels_last)
    model.eval().to(work.device, memory_format=layout)  # type: ignore[call-overload]
    return model


def silence_inner(work: Work, network: UNetConfig, state: dict[str, Tensor], folder: Path) -> None:
    """Write the held-out loss with nothing from the inner stages."""
    if not (folder / SILENCED).is_file():
        silent = {n: torch.zeros_like(t) for n, t in state.items() if n.startswith(INNER)}
        model = with_weights(work, network, state | silent)
        scored = held_out(model, work.data, work.recipe, work.device)
        write_json(folder / SILENCED, {"loss": scored.loss})


@dataclass(frozen=True)
class Network:
    """A network of the recipe, and its proxy."""

    step: str
    config: UNetConfig
    proxy: UNetConfig


def walk(
    work: Work,
    networks: Sequence[Network],
    start: tuple[dict[str, Tensor], dict[str, Any]],
    number: int,
    looks: dict[str, Sequence[int]],
    folder: Path,
) -> Iterator[None]:
    """One walk down the recipe; stops after each step to have it written down."""
    before, (state, look) = networks[0].proxy, start
    for index, network in enumerate(networks[1:], 1):
        if network.proxy.digest == before.digest:  # a step that the proxy cannot see
            continue
        own = looks.get(network.step, (0, work.samples))
        seed = 100 * number + index
        edited = inherit(before, state, network.proxy, seed)
        place = folder / str(index)
        train(work, before, state, seed, own, place / "unedited", look)
        state, look = train(work, network.proxy, edited, seed, own, place / "edited")
        before = network.proxy
        silence_inner(work, before, state, place)
        yield


@dataclass(frozen=True)
class Spread:
    """How much a difference scatters between walks: one standard deviation for all steps."""

    deviation: float
    freedom: int

    @classmethod
    def of(cls, differences: Iterable[Array]) -> "Spread | None":
        """Of differences (walks, draws), one a step; None with fewer than two walks."""
        means = [each.mean(1) for each in differences if len(each) > 1]
        freedom = sum(len(each) - 1 for each in means)
        if not freedom:
            return None
        squares = sum(float(((each - each.mean()) ** 2).sum()) for each in means)
        return cls((squares / freedom) ** 0.5, freedom)


def change(differences: Array, pictures: Array, spread: Spread | None) -> Change:
    """Mean of differences (walks, draws) with its interval of 95 %.

    Draws of one held-out picture are not independent: pictures are what is sampled. ``spread`` adds
    what the seeds of other walks would change.
    """
    each = differences.mean(0)
    mean = float(each.mean())
    _, row = np.unique(pictures, return_inverse=True)
    sums = np.bincount(row, each - mean)
    count = len(sums)
    parts = [(float((sums**2).sum()) / len(each) ** 2 * count / (count - 1), count - 1)]
    if spread:
        parts.append((spread.deviation**2 / len(differences), spread.freedom))
    variance = sum(part for part, _ in parts)
    # Welch and Satterthwaite's degrees of freedom of a sum of variances.
    freedom = variance**2 / max(sum(part**2 / free for part, free in parts), 1e-300)
    half = float(stats.t.ppf(0.975, max(freedom, 1))) * variance**0.5
    return Change(mean, mean - half, mean + half)


Pair = tuple[dict[str, Any], dict[str, Any]]
"""What was seen in one walk of an edited network and of the unedited one, by number of pictures."""


def differences(pairs: Sequence[Pair], look: int) -> tuple[Array, Array]:
    """Losses of the edited network less those of the unedited one, (walks, draws), and the picture
    of each draw.
    """
    both = [(edited[str(look)], unedited[str(look)]) for edited, unedited in pairs]
    found = [np.array(edited["losses"]) - np.array(other["losses"]) for edited, other in both]
    return np.array(found), np.array(both[0][0]["pictures"])


def row_of(pairs: Sequence[Pair], look: int, name: str, spread: Spread | None) -> dict[str, Any]:
    """What a step changes of the loss after so many pictures, as columns of a table."""
    found, pictures = differences(pairs, look)
    delta = change(found, pictures, spread)
    return {
        name: round(delta.value, 6),
        f"{name}_low": round(delta.low, 6),
        f"{name}_high": round(delta.high, 6),
        f"{name}_of_walks": " ".join(f"{value:.5f}" for value in found.mean(1)),
    }


def mean_loss(seen: Sequence[dict[str, Any]], look: int) -> float:
    return round(float(np.mean([each[str(look)]["loss"] for each in seen])), 6)


@dataclass(frozen=True)
class Report:
    """Tables and figures of what is there so far."""

    arguments: argparse.Namespace
    networks: Sequence[Network]

    def folders(self, index: int) -> list[Path]:
        """Of a step in all walks."""
        walks = range(1, self.arguments.walks + 1)
        return [self.arguments.output / f"walk-{number}" / str(index) for number in walks]

    def silenced(self, folders: Sequence[Path]) -> float | None:
        """Mean loss with nothing from the inner stages, of the walks that know it."""
        paths = [folder / SILENCED for folder in folders if (folder / SILENCED).is_file()]
        losses = [json.loads(path.read_text())["loss"] for path in paths]
        return round(float(np.mean(losses)), 6) if losses else None

    def pairs(self, index: int) -> list[Pair]:
        """What was seen of a step in each walk that has done it."""
        found = []
        for folder in self.folders(index):
            paths = [folder / which / LOOKS for which in ("edited", "unedited")]
            if all(path.is_file() for path in paths):
                edited, unedited = (json.loads(path.read_text()) for path in paths)
                if edited.keys() == unedited.keys():
                    found.append((edited, unedited))
        return found

    def write(self) -> None:
        """Write tables and figures of the steps that one walk at least has done."""
        arguments, end = self.arguments, self.arguments.finetune
        seen = {index: self.pairs(index) for index in range(1, len(self.networks))}
        spread = Spread.of(differences(pairs, end)[0] for pairs in seen.values() if pairs)
        start = json.loads((arguments.output / "start" / LOOKS).read_text())
        predictor = Predictor(load_table(catalog.find("table", arguments.table)))
        rows: list[dict[str, Any]] = []
        for index, network in enumerate(self.networks):
            cost, small = price(network.config), price(network.proxy)
            row = {
                "step": network.step if index else arguments.start,
                "params": cost.params,
                "macs": cost.macs,
                "latency_ms": round(predictor.predict(network.config).ms, 2),
                "proxy_params": small.params,
                "proxy_macs": small.macs,
            }
            if not index:
                trained = start[str(arguments.samples)]
                row |= {
                    "proxy_train_ms": trained["train_ms"],
                    "loss_finetuned": round(trained["loss"], 6),
                    "loss_without_inner": self.silenced([arguments.output / "start"]),
                }
            elif pairs := seen[index]:
                edited, unedited = zip(*pairs, strict=True)
                row |= {
                    "proxy_train_ms": min(each[str(end)]["train_ms"] for each in edited),
                    "walks": len(pairs),
                    "loss_before": mean_loss(unedited, 0),
                    "loss_edited": mean_loss(edited, 0),
                    "loss_finetuned": mean_loss(edited, end),
                    "loss_without_inner": self.silenced(self.folders(index)),
                    "loss_unedited": mean_loss(unedited, end),
                    **row_of(pairs, 0, "delta_edited", None),
                    **row_of(pairs, end, "delta_finetuned", spread),
                }
                if network.step == arguments.curve:
                    self.follow(pairs)
            rows.append(row)
        table = pd.DataFrame(rows)
        if "walks" in table:
            table["walks"] = table["walks"].astype("Int64")
            self.draw(table)
        write_text(arguments.output / "waterfall.csv", table.to_csv(index=False))

    def draw(self, table: pd.DataFrame) -> None:
        """The waterfall with quality."""
        arguments = self.arguments
        panels = {
            "parameters (M), counted": list(table["params"] / 1e6),
            "GMACs, counted": list(table["macs"] / 1e9),
            f"ms, predicted {arguments.table}": list(table["latency_ms"]),
        }
        finetune = f"{arguments.finetune:,} pictures"
        labels = {
            "delta_edited": "Δ loss right after the edit",
            "delta_finetuned": f"Δ loss after {finetune}",
        }
        changes = {
            label: [
                None if pd.isna(value) else Change(value, low, high)
                for value, low, high in zip(
                    *(table[column][1:] for column in (name, f"{name}_low", f"{name}_high")),
                    strict=True,
                )
            ]
            for name, label in labels.items()
        }
        notes = [
            f"Δ loss: held-out denoising loss of proxies (study {arguments.study}); more is worse. "
            "Lines and ± are 95 % intervals; that of a hollow point includes 0. –: the proxy does "
            "not have what this step changes.",
            "Right after the edit: against the network of the step before; interval over held-out "
            "pictures.",
            f"After {finetune}: against that network trained on unedited for as long; interval "
            "over held-out pictures and the finetunes' seeds "
            f"({table['walks'].max()} walks, one first training).",
        ]
        whole, without = table.loc[0, ["loss_finetuned", "loss_without_inner"]]
        notes.append(
            f"The loss of {arguments.start} is {whole:.4f}, and {without:.4f} with nothing from "
            "its stages of 16² and less. The less these differ, the less the proxy can say of "
            "steps there."
        )
        steps, path = list(table["step"][1:]), arguments.output / "waterfall.png"
        draw_waterfall(arguments.start, steps, panels, path, changes, notes)

    def follow(self, pairs: Sequence[Pair]) -> None:
        """One step along its finetune: table and figure."""
        edited, unedited = zip(*pairs, strict=True)
        looks = sorted(map(int, edited[0]))
        spread = Spread.of(differences(pairs, look)[0] for look in looks if look)
        rows = [
            {
                "step": self.arguments.curve,
                "pictures": look,
                "walks": len(pairs),
                "loss_edited": mean_loss(edited, look),
                "loss_unedited": mean_loss(unedited, look),
                **row_of(pairs, look, "delta", spread if look else None),
            }
            for look in looks
        ]
        table = pd.DataFrame(rows)
        write_text(self.arguments.output / "curve.csv", table.to_csv(index=False))
        self.draw_curve(table)

    @styled()
    def draw_curve(self, table: pd.DataFrame) -> None:
        """The step against the same network left as it was."""
        figure, (whole, gap) = new_figure(columns=2, height=2.9)
        step, seen = self.arguments.curve, table["pictures"]
        for column, label, colour, form in (
            ("loss_unedited", "left as it was", GREY, "o-"),
            ("loss_edited", step, RED, "s--"),
        ):
            whole.plot(seen, table[column], form, color=colour, label=label, ms=3)
        whole.set(ylabel="held-out denoising loss", xlabel="pictures of the finetune")
        whole.legend()
        ends = [table["delta"] - table["delta_low"], table["delta_high"] - table["delta"]]
        gap.axhline(0, color=GREY, linewidth=0.7)
        gap.errorbar(seen, table["delta"], yerr=ends, color=BLUE, fmt="D-", ms=3, elinewidth=1.0)
        gap.set(ylabel="difference, 95 % interval", xlabel="pictures of the finetune")
        entitle(
            figure,
            f"{step}: its finetune, beside the same network left as it was",
            f"Proxy scale, study {self.arguments.study}; means of {table['walks'].max()} walks. "
            "Both networks see the same pictures and noises, each with a new optimizer. Intervals "
            "are over held-out pictures and, but for the first, seeds of the finetunes.",
        )
        save(figure, self.arguments.output / "curve.png")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--start", default="sd15")
    parser.add_argument("--recipe", default="mobilediffusion")
    parser.add_argument("--study", default="emoji", help="proxy scale, data, recipe of training")
    parser.add_argument("--table", default="cpu-onnxruntime-fp32")
    parser.add_argument(
        "--samples", type=int, default=12_000, help="pictures of the first training"
    )
    parser.add_argument("--finetune", type=int, default=960, help="pictures after each step")
    parser.add_argument("--curve", default="ReLU attention", help="step that is followed closely")
    parser.add_argument("--curve-samples", type=int, default=1_920)
    parser.add_argument("--draws", type=int, default=512, help="of the held-out loss")
    parser.add_argument("--walks", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True, help="kept between calls")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = {k: v for k, v in vars(arguments).items() if k not in ("walks", "output", "table")}
    begin(arguments.output, "waterfall.json", {"schema": 1, **settings})

    setting, device = load_setting(catalog.find("study", arguments.study)), pick_device()
    changes = {"init": "scratch", "parent": None, "draws": arguments.draws}
    recipe = settled(setting.spec.proxy.recipe.model_copy(update=changes), device)
    path = catalog.find("recipe", arguments.recipe)
    networks = [
        Network(each.step, each.config, setting.proxy(each.config))
        for each in apply_recipe(archsearch.arch(arguments.start), load_recipe(path), path)
    ]
    data = prepare(setting.spec.data, setting.spec.proxy.latent)
    first = Work(data, recipe, device, arguments.samples)
    start = train(
        first, networks[0].proxy, None, 0, [arguments.samples], arguments.output / "start"
    )
    silence_inner(first, networks[0].proxy, start[0], arguments.output / "start")
    # The optimizer begins anew with each finetune: it takes its first steps on trained weights.
    gently = recipe.model_copy(update={"warmup": 0.2})
    work = Work(data, gently, device, arguments.finetune)
    looks: dict[str, Sequence[int]] = {
        arguments.curve: curve_looks(arguments.finetune, arguments.curve_samples, recipe.batch)
    }
    report = Report(arguments, networks)
    for number in range(1, arguments.walks + 1):
        for _ in walk(work, networks, start, number, looks, arguments.output / f"walk-{number}"):
            report.write()
    report.write()


def curve_looks(finetune: int, end: int, batch: int) -> list[int]:
    """Numbers of pictures at which a step is followed closely: close at first."""
    between = [finetune * share for share in (0, 0.1, 0.25, 0.5)]
    whole = {batch * round(each / batch) for each in (*between, (finetune + end) / 2)}
    return sorted({*whole, finetune, end})


if __name__ == "__main__":
    main()
