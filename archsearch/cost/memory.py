"""Peak activation memory of inference in closed form.

Batch 1; a tensor lives from the operation that makes it to the last one that reads it; skips are held until they are taken;
attention scores are made in full (no fusion), no workspace of any kernel is counted. Sample, text context and what an added
embedding takes belong to the caller and live throughout; the time embedding lives until the last residual block.
"""

from collections.abc import Mapping
from itertools import chain

from archsearch.cost.bill import Bill
from archsearch.unet import units
from archsearch.unet.plan import Block, Plan


def peak_activation_elements(plan: Plan, bills: Mapping[int, Bill]) -> int:
    """Most elements alive at once in a forward pass of ``plan``.

    Args:
        plan: The network, resolved.
        bills: What its units cost, by their ``id``.
    """
    return _Walk(plan, bills).run()


class _Walk:
    """Follows a forward pass: ``held`` is what lives besides the running unit, ``size`` the elements of the current tensor."""

    def __init__(self, plan: Plan, bills: Mapping[int, Bill]) -> None:
        self.plan = plan
        self.bills = bills
        self.held = plan.input.in_channels * plan.input.size**2 + plan.context[0] * plan.context[1]
        self.held += plan.time.text_dim + plan.time.ids
        self.peak = 0
        self.size = 0
        self.is_skip = False
        self.blocks: dict[tuple[int, bool], int] = {}  # equal blocks are one object: each is looked at once

    def run(self) -> int:
        plan = self.plan
        skips: list[int] = []
        self._unit(plan.time, 0)
        self.held += plan.time.width
        self._unit(plan.input, plan.input.out_channels * plan.input.size**2)
        for stage in plan.stages:
            self._keep(skips, stage.keeps(0))
            for index, block in enumerate(stage.down):
                self._block(block)
                self._keep(skips, stage.keeps(index + 1))
            if stage.downsample:
                self._unit(stage.downsample, self.size // 4)
        for block in plan.middle:
            self._block(block)
        residuals_left = sum(len(stage.up) for stage in plan.stages)
        for stage in reversed(plan.stages):
            for block in stage.up:
                if block.skip:
                    self._concatenate(skips)
                self._block(block, last=residuals_left == 1)
                residuals_left -= 1
            if stage.upsample:
                self._unit(stage.upsample, self.size * 4)
        self._unit(plan.output, 0)
        return self.peak

    def _unit(self, unit: units.Unit, out: int) -> None:
        cost = self.bills[id(unit)]
        self.peak = max(self.peak, self.held + (cost.peak_held if self.is_skip else cost.peak))
        self.size, self.is_skip = out, False

    def _block(self, block: Block, last: bool = False) -> None:
        residual = block.residual
        key = (id(block), self.is_skip)
        peak = self.blocks.get(key)
        if peak is None or last:
            cost = self.bills[id(residual)]
            peak = cost.peak_held if self.is_skip else cost.peak
            if block.projection:
                released = self.plan.time.width if last else 0  # nothing after the last residual block reads the time embedding
                peak = max(peak, self._transformer_peak(block.projection, block) - released)
            self.blocks[key] = peak
        self.peak = max(self.peak, self.held + peak)
        if last:
            self.held -= self.plan.time.width
        self.size, self.is_skip = residual.out_channels * residual.size**2, False

    def _transformer_peak(self, projection: units.Projection, block: Block) -> int:
        x = projection.channels * projection.size**2
        inner = 2 * x  # around the layers: norm, projection and the copy to token order, two at a time beside the input
        for key in set(map(id, chain.from_iterable(block.transformers))):
            inner = max(inner, self.bills[key].peak)
        return x + inner  # the residual connection keeps the input to the end

    def _keep(self, skips: list[int], keep: bool) -> None:
        if keep:
            skips.append(self.size)
            self.held += self.size
            self.is_skip = True

    def _concatenate(self, skips: list[int]) -> None:
        skip = skips.pop()
        # With a skip straight from the innermost block, the current tensor is that skip.
        current = 0 if self.is_skip else self.size
        joined = self.size + skip
        self.peak = max(self.peak, self.held + current + joined)
        self.held -= skip
        self.size, self.is_skip = joined, False
