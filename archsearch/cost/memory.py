"""Peak activation memory of inference in closed form.

Batch 1; a tensor lives from the operation that makes it to the last one that reads it; skips are held until they are taken;
attention scores are made in full (no fusion), no workspace of any kernel is counted. Sample, text context and what an added
embedding takes belong to the caller and live throughout; the time embedding lives until the last residual block.
"""

from functools import lru_cache

from archsearch.cost.units import Op, tape
from archsearch.unet import units
from archsearch.unet.plan import Block, Plan


def _peak(ops: list[Op], x: int, x_held: bool) -> int:
    """Most elements alive at once over ``ops``. A held ``x`` belongs to someone else and is not counted."""
    last_read = {name: step for step, op in enumerate(ops) for name in op.reads}
    alive = {} if x_held else {"x": x}
    peak = sum(alive.values())
    for step, op in enumerate(ops):
        alive[op.makes] = op.elements
        peak = max(peak, sum(alive.values()))
        for name in [name for name in alive if last_read.get(name, -1) <= step and name != "y"]:
            del alive[name]
    return peak


@lru_cache(maxsize=65536)
def unit_peak(unit: units.Unit, x: int, x_held: bool) -> int:
    """Peak elements while a unit runs on an input of ``x`` elements, the input counted unless someone else holds it."""
    return _peak(tape(unit), x, x_held)


@lru_cache(maxsize=65536)
def _transformer_peak(
    projection: units.Projection, transformers: tuple[tuple[units.TransformerLayer, ...], ...], x_held: bool
) -> int:
    x = projection.channels * projection.size**2
    outer = 0 if x_held else x  # the residual connection keeps the input to the end
    inner = max((unit_peak(layer, x, False) for layers in transformers for layer in layers), default=0)
    # Around the layers: norm and convolution in, then the copy to token order (three tensors a step); convolution out and sum.
    return outer + max(inner, 2 * x)


def peak_activation_elements(plan: Plan) -> int:
    """Most elements alive at once in a forward pass of ``plan``."""
    return _Walk(plan).run()


class _Walk:
    """Follows a forward pass: ``held`` is what lives besides the running unit, ``size`` the elements of the current tensor."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.held = plan.input.in_channels * plan.input.size**2 + plan.context[0] * plan.context[1]
        self.held += plan.time.text_dim + plan.time.ids
        self.peak = 0
        self.size = 0
        self.is_skip = False

    def run(self) -> int:
        plan = self.plan
        skips: list[int] = []
        self._unit(plan.time, 0, 0)
        self.held += plan.time.width
        self._unit(plan.input, plan.input.out_channels * plan.input.size**2, 0)
        for stage in plan.stages:
            self._keep(skips, stage.keeps(0))
            for index, block in enumerate(stage.down):
                self._block(block)
                self._keep(skips, stage.keeps(index + 1))
            if stage.downsample:
                self._unit(stage.downsample, self.size // 4, self.size)
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
                self._unit(stage.upsample, self.size * 4, self.size)
        self._unit(plan.output, 0, self.size)
        return self.peak

    def _unit(self, unit: units.Unit, out: int, size: int) -> None:
        self.peak = max(self.peak, self.held + unit_peak(unit, size, self.is_skip or size == 0))
        self.size, self.is_skip = out, False

    def _block(self, block: Block, last: bool = False) -> None:
        residual = block.residual
        self._unit(residual, residual.out_channels * residual.size**2, self.size)
        if last:
            self.held -= self.plan.time.width
        if block.projection:
            self.peak = max(self.peak, self.held + _transformer_peak(block.projection, block.transformers, self.is_skip))

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
