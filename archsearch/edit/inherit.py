"""How a changed network takes over trained weights."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest

import torch
from torch import Tensor

from archsearch.edit.blocks import (
    fresh,
    handed_on,
    inherit_residual,
    inherit_transformer,
    new_residual,
    new_transformer,
    output_norms,
)
from archsearch.edit.maps import (
    NEW,
    State,
    first,
    keep_best,
    norm_along,
    part,
    placed,
    silenced,
    take,
    thin_part,
)
from archsearch.errors import InputError
from archsearch.unet.config import UNetConfig
from archsearch.unet.plan import Block, Plan, plan


def inherit(
    source: UNetConfig, state: State, target: UNetConfig, seed: int = 0, trainable: bool = False
) -> State:
    """Weights for ``target`` out of those of ``source``.

    What has no weights (``norm_groups``, ``sample_size``, the normaliser) may change too; the
    output then moves as it must.

    Args:
        source: The trained architecture.
        state: Its weights, fp32, by our names.
        target: The edited architecture.
        seed: Of the weights that are new; torch's own random state is left alone.
        trainable: Whether gradients go back to ``state``, so that both can be trained together.

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
    with torch.set_grad_enabled(trainable), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _Inheritance(plan(source), state, plan(target)).state()


def missing_blocks(source: UNetConfig, target: UNetConfig) -> list[str]:
    """Blocks and layers of ``target``, by their path, that continue nothing in ``source``: they
    would begin new, and add nothing until they are trained.
    """
    found = []
    for site, before in _align(plan(source), plan(target)):
        if before is None:
            found.append(site.prefix)
            continue
        for index, (layers, theirs) in enumerate(
            zip_longest(site.block.transformers, before.block.transformers, fillvalue=())
        ):
            lacking = {each.kind for each in layers} - {each.kind for each in theirs}
            found += [
                f"{site.prefix}.transformer.blocks.{index} ({kind.replace('_', '-')})"
                for kind in sorted(lacking)
            ]
    return found


@dataclass(frozen=True, slots=True)
class Site:
    """A block in its place: where its tensors are named, which stages' streams it reads and which
    it writes.
    """

    prefix: str
    block: Block
    stage: int
    # Stages of the tensors that are joined to its input: the current one, and the skip's where it
    # takes one.
    reads: tuple[int, ...]


def sites(plan: Plan) -> dict[str, list[Site]]:
    """Every block by side: ``middle``, ``stages.0.down``, ``stages.0.up`` …"""
    last = len(plan.stages) - 1
    found = {
        "middle": [Site(f"middle.{n}", block, last, (last,)) for n, block in enumerate(plan.middle)]
    }
    for index, stage in enumerate(plan.stages):
        before, after = max(index - 1, 0), min(index + 1, last)
        offered = [before] + [index] * len(stage.down)
        down, up = f"stages.{index}.down", f"stages.{index}.up"
        found[down] = [
            Site(f"{down}.{n}", block, index, (index if n else before,))
            for n, block in enumerate(stage.down)
        ]
        found[up] = [
            Site(
                f"{up}.{n}",
                block,
                index,
                (index if n else after, *((offered[-1 - n],) if block.skip else ())),
            )
            for n, block in enumerate(stage.up)
        ]
    return found


def _align(source: Plan, target: Plan) -> list[tuple[Site, Site | None]]:
    # Pairs of the target's blocks and what they continue, None for a new one; in no particular
    # order.
    #
    # Block by block in each side, the first ones where there are fewer. On the way up, where there
    # is one block more than on the way down in both networks, the last continues the last: it takes
    # the skip that enters the stage, which the others do not.
    theirs, ours = sites(source), sites(target)

    def last_enters(found: dict[str, list[Site]], up: str) -> bool:
        return len(found[up]) == len(found[up.replace(".up", ".down")]) + 1

    pairs: list[tuple[Site, Site | None]] = []
    for side, blocks in ours.items():
        continued = theirs.get(side, [])[: len(blocks)]  # a stage may be new as a whole
        missing = len(blocks) - len(continued)
        found: list[Site | None] = [*continued, *[None] * missing]
        both = side.endswith(".up") and side in theirs
        if both and last_enters(theirs, side) and last_enters(ours, side):
            found = [*continued[:-1], *[None] * missing, theirs[side][-1]]
        pairs += zip(blocks, found, strict=True)
    return pairs


# Walks over the edited network and asks for each part what it continues.
#
# The streams are maps of the stages' feature maps. A channel's importance is the norm of all
# weights that write it. Equally many channels stay of every norm group.
class _Inheritance:
    def __init__(self, source: Plan, state: State, target: Plan) -> None:
        self.source, self.old, self.target = source, state, target
        self.source_widths, self.widths = (
            [stage.down[0].residual.out_channels for stage in each.stages]
            for each in (source, target)
        )
        groups = target.output.norm_groups
        self.streams = [
            _kept(f"stages[{index}].channels", partial(self._written, index), have, want, groups)
            for index, (have, want) in enumerate(zip(self.source_widths, self.widths, strict=False))
        ]
        have, want = source.time.width, target.time.width
        time1, time2 = state["time.linear1.weight"], state["time.linear2.weight"]
        self.time = _kept("time_width", lambda: norm_along(time2, 0), have, want)
        self.time_hidden = _kept(
            "time_width", lambda: norm_along(time2, 1) * norm_along(time1, 0), have, want
        )

    def _written(self, stage: int) -> Tensor:
        # Norm of what the blocks of a stage write into each of its channels: last convolutions,
        # shortcuts, projections out, (C,).
        total = torch.zeros(self.source_widths[stage])
        for site in (site for side in sites(self.source).values() for site in side):
            if site.stage != stage:
                continue
            residual, transformer = f"{site.prefix}.residual", f"{site.prefix}.transformer"
            kind = site.block.residual.conv
            total += output_norms(self.old, f"{residual}.conv2", kind).square()
            for name in (f"{residual}.shortcut.weight", f"{transformer}.proj_out.weight"):
                if name in self.old:
                    total += norm_along(self.old[name], 0).square()
        return total.sqrt()

    def state(self) -> State:
        # The weights of the edited network.
        outer = self.streams[0]
        samples = first(self.source.input.in_channels, self.target.input.in_channels)
        predictions = first(self.source.output.out_channels, self.target.output.out_channels)
        new = (
            self._time()
            | thin_part(self.old, "input", outer, samples)
            | thin_part(self.old, "output.conv", predictions, outer)
            | thin_part(self.old, "output.norm", outer)
        )
        for index, (stage, stream) in enumerate(zip(self.target.stages, self.streams, strict=True)):
            for name, sampler in (("downsample", stage.downsample), ("upsample", stage.upsample)):
                if not sampler:
                    continue
                place = f"stages.{index}.{name}"
                if f"{place}.conv.weight" in self.old:
                    new |= thin_part(self.old, f"{place}.conv", stream, stream)
                else:  # no longer flat: pixels are left out, or repeated, until it is trained
                    new |= placed(handed_on(sampler), place)
        for site, before in _align(self.source, self.target):
            new |= placed(self._block(site, before), site.prefix)
        return new

    def _time(self) -> State:
        before, target = self.source.time, self.target.time
        sinusoids = _frequencies(before.channels, target.channels)
        new = thin_part(self.old, "time.linear1", self.time_hidden, sinusoids)
        new |= thin_part(self.old, "time.linear2", self.time, self.time_hidden)
        if target.added:
            new |= placed(self._added(), "time")
        if target.guidance_dim == before.guidance_dim != 0:
            projection = self.old["time.guidance.weight"]
            new["time.guidance.weight"] = take(projection, 0, sinusoids)
        elif target.guidance_dim:  # the guidance weight is not heard until it is trained
            silent = torch.zeros(target.channels, target.guidance_dim)
            new["time.guidance.weight"] = silent
        return new

    def _added(self) -> State:
        # The added embedding: kept where it takes the same, else new and, until it is trained,
        # zero.
        before, target = self.source.time, self.target.time
        taken = [(each.text_dim, each.ids, each.id_dim) for each in (before, target)]
        if taken[0] != taken[1]:
            new = {name: each for name, each in fresh(target).items() if name.startswith("added")}
            return silenced(new, "added2")
        old = part(self.old, "time")
        hidden = torch.arange(before.width)
        if target.width < before.width:
            importance = norm_along(old["added1.weight"], 0) * norm_along(old["added2.weight"], 1)
            hidden = keep_best(importance, target.width)
        return thin_part(old, "added1", hidden) | thin_part(old, "added2", self.time, hidden)

    def _block(self, site: Site, before: Site | None) -> State:
        target, widths = site.block, self.source_widths
        if before is None or widths[site.stage] != before.block.residual.out_channels:
            new = placed(new_residual(target.residual, self.widths[site.reads[0]]), "residual")
            if target.projection:
                new |= placed(new_transformer(target), "transformer")
            return new
        source, stream = before.block, self.streams[site.stage]
        old = part(self.old, before.prefix)
        residual = inherit_residual(
            part(old, "residual"),
            source.residual,
            target.residual,
            self._joined(site, before),
            stream,
            self.time,
        )
        new = placed(residual, "residual")
        if target.projection:
            transformer = inherit_transformer(part(old, "transformer"), source, target, stream)
            new |= placed(transformer, "transformer")
        return new

    def _joined(self, site: Site, before: Site) -> Tensor:
        # Map of a block's input, of which the current tensor and the skip are the parts.
        #
        # What takes the place of a tensor of another stage continues its channels where the widths
        # agree, and is new where they do not.
        parts, offset = [], 0
        for position, stage in enumerate(site.reads):
            index = torch.full((self.widths[stage],), NEW)
            if position < len(before.reads):
                width = self.source_widths[before.reads[position]]
                if width == self.source_widths[stage]:
                    index = self.streams[stage] + offset
                offset += width
            parts.append(index)
        return torch.cat(parts)


def _kept(
    field: str, scores: Callable[[], Tensor], have: int, want: int, groups: int = 1
) -> Tensor:
    if want > have:
        raise InputError(
            f"{field} grows from {have} to {want}; of trained weights widths can be thinned only"
        )
    return torch.arange(have) if want == have else keep_best(scores(), want, groups)


def _frequencies(have: int, want: int) -> Tensor:
    # Map of the timestep's sinusoids: each of the fewer takes the nearest of those there were;
    # cosines first, then sines.
    half_have, half_want = have // 2, want // 2
    nearest = (torch.arange(half_want) * half_have / half_want).round().long()
    nearest = nearest.clamp(max=half_have - 1)
    return torch.cat([nearest, nearest + half_have])
