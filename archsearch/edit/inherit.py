"""From (config, weights) to (config, weights): the weights of an edited network from those of the trained one.

Everything that both have in common is kept, tensor by tensor. What is thinned keeps its most important channels, what takes another
form takes the closest one, what is new adds nothing. How close each is, and which are exact, stand with the functions that do it.
"""

import torch

from archsearch.edit.align import Site, align
from archsearch.edit.blocks import fresh, inherit_linear, inherit_residual, inherit_transformer, new_residual, new_transformer
from archsearch.edit.maps import State, first, keep_best, norm_along, part, placed, take
from archsearch.edit.streams import Streams, frequencies
from archsearch.errors import InputError
from archsearch.unet.config import UNetConfig
from archsearch.unet.plan import Plan, plan


def inherit(source: UNetConfig, state: State, target: UNetConfig, seed: int = 0) -> State:
    """Weights for ``target`` out of those of ``source``.

    What has no weights (``norm_groups``, ``sample_size``, the normaliser) may change too; the output then moves as it must.

    Args:
        source: The trained architecture.
        state: Its weights, fp32, by our names.
        target: The edited architecture.
        seed: Of the weights that are new; torch's own random state is left alone.

    Raises:
        InputError: The edit is none of trained weights: stages are added, a width grows, the text context is another, or an
            expanded convolution becomes another kind.
    """
    if len(target.stages) > len(source.stages):
        raise InputError(f"stages grow from {len(source.stages)} to {len(target.stages)}; trained weights can lose stages only")
    if target.context_dim != source.context_dim:
        raise InputError(
            f"context_dim changes from {source.context_dim} to {target.context_dim}: another text encoder's features have "
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
        layers = {"linear1": (streams.time_hidden, sinusoids), "linear2": (streams.time, streams.time_hidden)}
        new: State = {}
        for name, (rows, columns) in layers.items():
            new |= placed(inherit_linear(part(self.old, f"time.{name}"), rows, columns), f"time.{name}")
        return new | (placed(self._added(), "time") if target.added else {})

    def _added(self) -> State:
        """The added embedding: kept where it takes the same, else new and, until it is trained, zero."""
        before, target = self.source.time, self.target.time
        if (before.text_dim, before.ids, before.id_dim) == (target.text_dim, target.ids, target.id_dim):
            first_layer, second = part(self.old, "time.added1"), part(self.old, "time.added2")
            hidden = torch.arange(before.width)
            if target.width < before.width:
                hidden = keep_best(norm_along(first_layer["weight"], 0) * norm_along(second["weight"], 1), target.width)
            kept1 = inherit_linear(first_layer, hidden, torch.arange(before.added))
            return placed(kept1, "added1") | placed(inherit_linear(second, self.streams.time, hidden), "added2")
        new = {name: tensor for name, tensor in fresh(target).items() if name.startswith("added")}
        return new | {name: torch.zeros_like(new[name]) for name in ("added2.weight", "added2.bias")}

    def _ends(self) -> State:
        outer = self.streams.stages[0]
        samples = first(self.source.input.in_channels, self.target.input.in_channels)
        predictions = first(self.source.output.out_channels, self.target.output.out_channels)
        new = placed(inherit_linear(part(self.old, "input"), outer, samples), "input")
        new |= placed(inherit_linear(part(self.old, "output.conv"), predictions, outer), "output.conv")
        return new | {f"output.norm.{name}": take(self.old[f"output.norm.{name}"], 0, outer) for name in ("weight", "bias")}

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
        if before is None or self.streams.source_widths[site.stage] != before.block.residual.out_channels:
            current = self.streams.widths[site.reads[0]]
            new = placed(new_residual(target.residual, current), "residual")
            return new | (placed(new_transformer(target), "transformer") if target.projection else {})
        source, stream = before.block, self.streams.stages[site.stage]
        widths = self._widths_read(before)
        inputs = self.streams.joined(site.reads, widths)
        old = part(self.old, before.prefix)
        residual = inherit_residual(part(old, "residual"), source.residual, target.residual, inputs, stream, self.streams.time)
        new = placed(residual, "residual")
        if target.projection:
            new |= placed(inherit_transformer(part(old, "transformer"), source, target, stream), "transformer")
        return new

    def _widths_read(self, site: Site) -> tuple[tuple[int, int], ...]:
        """Stage and width of each tensor that a block of the trained network joins."""
        return tuple((stage, self.streams.source_widths[stage]) for stage in site.reads)
