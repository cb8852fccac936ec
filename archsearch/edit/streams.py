"""Which channels of the trained network survive: one map for every tensor that several blocks share."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from archsearch.edit.align import sites
from archsearch.edit.convolution import output_norms
from archsearch.edit.maps import NEW, State, keep_best, norm_along, part
from archsearch.errors import InputError
from archsearch.unet.plan import Plan


class Streams:
    """Maps of the stages' feature maps and of the time embedding.

    A channel's importance is the norm of all weights that write it. Equally many channels stay of every norm group.
    """

    def __init__(self, source: Plan, state: State, target: Plan) -> None:
        self.source_widths, self.widths = stage_widths(source), stage_widths(target)
        groups = target.output.norm_groups
        self.stages = [
            _kept(f"stages[{index}].channels", partial(_written, source, state, index), have, want, groups)
            for index, (have, want) in enumerate(zip(self.source_widths, self.widths, strict=False))
        ]
        have, want = source.time.width, target.time.width
        second = state["time.linear2.weight"]
        self.time = _kept("time_width", lambda: norm_along(second, 0), have, want)
        self.time_hidden = _kept(
            "time_width", lambda: norm_along(second, 1) * norm_along(state["time.linear1.weight"], 0), have, want
        )

    def joined(self, reads: tuple[int, ...], source_reads: tuple[tuple[int, int], ...]) -> Tensor:
        """Map of a block's input.

        Args:
            reads: The stages whose tensors are joined in the edited network.
            source_reads: The stages and widths of those joined in the trained one. What takes the place of a tensor of another
                stage continues its channels where the widths agree, and is new where they do not.
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
    """Map of the timestep's sinusoids: each of the fewer takes the nearest of those there were; cosines first, then sines."""
    half_have, half_want = have // 2, want // 2
    nearest = (torch.arange(half_want) * half_have / half_want).round().long().clamp(max=half_have - 1)
    return torch.cat([nearest, nearest + half_have])


def _kept(field: str, scores: Callable[[], Tensor], have: int, want: int, groups: int = 1) -> Tensor:
    if want > have:
        raise InputError(f"{field} grows from {have} to {want}; of trained weights widths can be thinned only")
    if want == have:
        return torch.arange(have)
    return keep_best(scores(), want, groups)


def _written(plan: Plan, state: State, stage: int) -> Tensor:
    """Norm of what the blocks of a stage write into each of its channels: last convolutions, shortcuts, projections out, (C,)."""
    total = torch.zeros(stage_widths(plan)[stage])
    for site in (site for side in sites(plan).values() for site in side if site.stage == stage):
        residual = part(state, f"{site.prefix}.residual")
        total += output_norms(part(residual, "conv2"), site.block.residual.conv).square()
        for name in (f"{site.prefix}.residual.shortcut.weight", f"{site.prefix}.transformer.proj_out.weight"):
            if name in state:
                total += norm_along(state[name], 0).square()
    return total.sqrt()
