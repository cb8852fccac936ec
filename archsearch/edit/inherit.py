"""How a changed network takes over trained weights."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from archsearch.edit.blocks import (
    fresh,
    inherit_linear,
    inherit_residual,
    inherit_transformer,
    new_residual,
    new_transformer,
    output_norms,
)
from archsearch.edit.maps import NEW, State, first, keep_best, norm_along, part, placed, take
from archsearch.errors import InputError
from archsearch.unet.config import UNetConfig
from archsearch.unet.plan import Block, Plan, plan


@dataclass(frozen=True, slots=True)
class Site:
    """A block in its place: where its tensors are named, which stages' streams it reads and which
    it writes.
    """

    prefix: str
    block: Block
    stage: int
    reads: tuple[int, ...]
    """Stages of the tensors that are joined to its input: the current one, and the skip's where it
    takes one.
    """


def sites(plan: Plan) -> dict[str, list[Site]]:
    """Every block by side: ``middle``, ``stages.0.down``, ``stages.0.up`` …"""
    last = len(plan.stages) - 1
    found = {
        "middle": [Site(f"middle.{n}", block, last, (last,)) for n, block in enumerate(plan.middle)]
    }
    for index, stage in enumerate(plan.stages):
        before = max(index - 1, 0)
        offered = [before] + [index] * len(stage.down)
        down, up = f"stages.{index}.down", f"stages.{index}.up"
        found[down] = [
            Site(f"{down}.{n}", block, index, (index if n else before,))
            for n, block in enumerate(stage.down)
        ]
        found[up] = []
        for number, block in enumerate(stage.up):
            current = index if number or index == last else index + 1
            skip = (offered[-1 - number],) if block.skip else ()
            found[up].append(Site(f"{up}.{number}", block, index, (current, *skip)))
    return found


def align(source: Plan, target: Plan) -> list[tuple[Site, Site | None]]:
    """Pairs of the target's blocks and what they continue, None for a new one; in no particular
    order.

    Block by block in each side, the first ones where there are fewer. On the way up, where there is
    one block more than on the way down in both networks, the last continues the last: it takes the
    skip that enters the stage, which the others do not.
    """
    theirs, ours = sites(source), sites(target)
    pairs: list[tuple[Site, Site | None]] = []
    for side, blocks in ours.items():
        found: list[Site | None] = [*theirs[side][: len(blocks)]]
        found += [None] * (len(blocks) - len(found))
        if side.endswith(".up") and _enters_last(theirs, side) and _enters_last(ours, side):
            shared = min(len(blocks), len(theirs[side])) - 1
            found = [*theirs[side][:shared], *[None] * (len(blocks) - 1 - shared), theirs[side][-1]]
        pairs += zip(blocks, found, strict=True)
    return pairs


def _enters_last(found: dict[str, list[Site]], up: str) -> bool:
    """Whether the last block of a way up takes the skip that enters its stage."""
    return len(found[up]) == len(found[up.replace(".up", ".down")]) + 1


class Streams:
    """Maps of the stages' feature maps and of the time embedding.

    A channel's importance is the norm of all weights that write it. Equally many channels stay of
    every norm group.
    """

    def __init__(self, source: Plan, state: State, target: Plan) -> None:
        self.source_widths, self.widths = stage_widths(source), stage_widths(target)
        groups = target.output.norm_groups
        self.stages = [
            _kept(
                f"stages[{index}].channels",
                partial(_written, source, state, index),
                have,
                want,
                groups,
            )
            for index, (have, want) in enumerate(zip(self.source_widths, self.widths, strict=False))
        ]
        have, want = source.time.width, target.time.width
        second = state["time.linear2.weight"]
        self.time = _kept("time_width", lambda: norm_along(second, 0), have, want)
        self.time_hidden = _kept(
            "time_width",
            lambda: norm_along(second, 1) * norm_along(state["time.linear1.weight"], 0),
            have,
            want,
        )

    def joined(self, reads: tuple[int, ...], source_reads: tuple[tuple[int, int], ...]) -> Tensor:
        """Map of a block's input.

        Args:
            reads: The stages whose tensors are joined in the edited network.
            source_reads: The stages and widths of those joined in the trained one. What takes the
                place of a tensor of another stage continues its channels where the widths agree,
                and is new where they do not.
        """
        parts, offset = [], 0
        for position, stage in enumerate(reads):
            index = torch.full((self.widths[stage],), NEW)
            if position < len(source_reads):
                source_stage, width = source_reads[position]
                if stage == source_stage or width == self.source_widths[stage]:
                    index = self.stages[stage] + offset
                offset += width
            parts.append(index)
        return torch.cat(parts)


def stage_widths(plan: Plan) -> list[int]:
    """Channels of each stage."""
    return [stage.down[0].residual.out_channels for stage in plan.stages]


def frequencies(have: int, want: int) -> Tensor:
    """Map of the timestep's sinusoids: each of the fewer takes the nearest of those there were;
    cosines first, then sines.
    """
    half_have, half_want = have // 2, want // 2
    nearest = (
        (torch.arange(half_want) * half_have / half_want).round().long().clamp(max=half_have - 1)
    )
    return torch.cat([nearest, nearest + half_have])


def _kept(
    field: str, scores: Callable[[], Tensor], have: int, want: int, groups: int = 1
) -> Tensor:
    if want > have:
        raise InputError(
            f"{field} grows from {have} to {want}; of trained weights widths can be thinned only"
        )
    if want == have:
        return torch.arange(have)
    return keep_best(scores(), want, groups)


def _written(plan: Plan, state: State, stage: int) -> Tensor:
    """Norm of what the blocks of a stage write into each of its channels: last convolutions,
    shortcuts, projections out, (C,).
    """
    total = torch.zeros(stage_widths(plan)[stage])
    for site in (site for side in sites(plan).values() for site in side if site.stage == stage):
        residual = part(state, f"{site.prefix}.residual")
        total += output_norms(part(residual, "conv2"), site.block.residual.conv).square()
        for name in (
            f"{site.prefix}.residual.shortcut.weight",
            f"{site.prefix}.transformer.proj_out.weight",
        ):
            if name in state:
                total += norm_along(state[name], 0).square()
    return total.sqrt()


def inherit(source: UNetConfig, state: State, target: UNetConfig, seed: int = 0) -> State:
    """Weights for ``target`` out of those of ``source``.

    What has no weights (``norm_groups``, ``sample_size``, the normaliser) may change too; the
    output then moves as it must.

    Args:
        source: The trained architecture.
        state: Its weights, fp32, by our names.
        target: The edited architecture.
        seed: Of the weights that are new; torch's own random state is left alone.

    Raises:
        InputError: The edit is none of trained weights: stages are added, a width grows, the text
            context is another, or an expanded convolution becomes another kind.
    """
    if len(target.stages) > len(source.stages):
        raise InputError(
            f"stages grow from {len(source.stages)} to {len(target.stages)}; trained weights "
            "can lose stages only"
        )
    if target.context_dim != source.context_dim:
        raise InputError(
            f"context_dim changes from {source.context_dim} to {target.context_dim}: another "
            "text encoder's features have "
            "nothing in common with those that the cross-attention was trained on"
        )
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _Heir(plan(source), state, plan(target)).state()


class _Heir:
    """Walks over the edited network and asks for each part what it continues."""

    def __init__(self, source: Plan, state: State, target: Plan) -> None:
        self.source, self.old, self.target = source, state, target
        self.streams = Streams(source, state, target)

    def state(self) -> State:
        new = self._time() | self._ends() | self._samplers()
        for site, before in align(self.source, self.target):
            new |= placed(self._block(site, before), site.prefix)
        return new

    def _time(self) -> State:
        streams, target = self.streams, self.target.time
        sinusoids = frequencies(self.source.time.channels, target.channels)
        layers = {
            "linear1": (streams.time_hidden, sinusoids),
            "linear2": (streams.time, streams.time_hidden),
        }
        new: State = {}
        for name, (rows, columns) in layers.items():
            new |= placed(
                inherit_linear(part(self.old, f"time.{name}"), rows, columns), f"time.{name}"
            )
        return new | (placed(self._added(), "time") if target.added else {})

    def _added(self) -> State:
        """The added embedding: kept where it takes the same, else new and, until it is trained,
        zero.
        """
        before, target = self.source.time, self.target.time
        if (before.text_dim, before.ids, before.id_dim) == (
            target.text_dim,
            target.ids,
            target.id_dim,
        ):
            first_layer, second = part(self.old, "time.added1"), part(self.old, "time.added2")
            hidden = torch.arange(before.width)
            if target.width < before.width:
                hidden = keep_best(
                    norm_along(first_layer["weight"], 0) * norm_along(second["weight"], 1),
                    target.width,
                )
            kept1 = inherit_linear(first_layer, hidden, torch.arange(before.added))
            return placed(kept1, "added1") | placed(
                inherit_linear(second, self.streams.time, hidden), "added2"
            )
        new = {name: tensor for name, tensor in fresh(target).items() if name.startswith("added")}
        return new | {
            name: torch.zeros_like(new[name]) for name in ("added2.weight", "added2.bias")
        }

    def _ends(self) -> State:
        outer = self.streams.stages[0]
        samples = first(self.source.input.in_channels, self.target.input.in_channels)
        predictions = first(self.source.output.out_channels, self.target.output.out_channels)
        new = placed(inherit_linear(part(self.old, "input"), outer, samples), "input")
        new |= placed(
            inherit_linear(part(self.old, "output.conv"), predictions, outer), "output.conv"
        )
        return new | {
            f"output.norm.{name}": take(self.old[f"output.norm.{name}"], 0, outer)
            for name in ("weight", "bias")
        }

    def _samplers(self) -> State:
        new: State = {}
        for index, stage in enumerate(self.target.stages):
            kept = self.streams.stages[index]
            for name, unit in (("downsample", stage.downsample), ("upsample", stage.upsample)):
                if unit:
                    prefix = f"stages.{index}.{name}.conv"
                    new |= placed(inherit_linear(part(self.old, prefix), kept, kept), prefix)
        return new

    def _block(self, site: Site, before: Site | None) -> State:
        target = site.block
        if (
            before is None
            or self.streams.source_widths[site.stage] != before.block.residual.out_channels
        ):
            current = self.streams.widths[site.reads[0]]
            new = placed(new_residual(target.residual, current), "residual")
            return new | (
                placed(new_transformer(target), "transformer") if target.projection else {}
            )
        source, stream = before.block, self.streams.stages[site.stage]
        widths = self._widths_read(before)
        inputs = self.streams.joined(site.reads, widths)
        old = part(self.old, before.prefix)
        residual = inherit_residual(
            part(old, "residual"),
            source.residual,
            target.residual,
            inputs,
            stream,
            self.streams.time,
        )
        new = placed(residual, "residual")
        if target.projection:
            new |= placed(
                inherit_transformer(part(old, "transformer"), source, target, stream), "transformer"
            )
        return new

    def _widths_read(self, site: Site) -> tuple[tuple[int, int], ...]:
        """Stage and width of each tensor that a block of the trained network joins."""
        return tuple((stage, self.streams.source_widths[stage]) for stage in site.reads)
