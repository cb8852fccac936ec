"""The module of a UNetConfig."""

from typing import cast

import torch
from torch import Tensor, nn

from archsearch.unet.blocks import ConvBlock, Downsample, Output, TimeEmbedding, Upsample
from archsearch.unet.config import UNetConfig
from archsearch.unet.plan import StagePlan, plan


class Stage(nn.Module):
    """The blocks of one resolution, down and up."""

    def __init__(self, stage: StagePlan) -> None:
        super().__init__()
        self.down = nn.ModuleList(ConvBlock(block) for block in stage.down)
        self.downsample = Downsample(stage.downsample) if stage.downsample else None
        self.up = nn.ModuleList(ConvBlock(block) for block in stage.up)
        self.upsample = Upsample(stage.upsample) if stage.upsample else None
        self.keeps = [stage.keeps(index) for index in range(len(stage.down) + 1)]
        self.takes = [block.skip > 0 for block in stage.up]


class UNet(nn.Module):
    """Predicts from a noisy sample, its timesteps and the text context."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        resolved = plan(config)
        self.config = config
        self.time = TimeEmbedding(resolved.time)
        self.input = nn.Conv2d(resolved.input.in_channels, resolved.input.out_channels, 3, padding=1)
        self.stages = nn.ModuleList(Stage(stage) for stage in resolved.stages)
        self.middle = nn.ModuleList(ConvBlock(block) for block in resolved.middle)
        self.output = Output(resolved.output)

    def forward(
        self,
        sample: Tensor,
        timesteps: Tensor,
        context: Tensor,
        text_embeds: Tensor | None = None,
        time_ids: Tensor | None = None,
    ) -> Tensor:
        """Map (B, in, H, W), (B,) and (B, S, context width) to (B, out, H, W).

        A network with an added embedding (SDXL) also takes the pooled text (B, text_dim) and the time ids (B, ids).
        """
        time = self.time(timesteps, text_embeds, time_ids)
        x = self.input(sample)
        stages = [cast(Stage, stage) for stage in self.stages]
        skips: list[Tensor] = []
        for stage in stages:
            if stage.keeps[0]:
                skips.append(x)
            for keep, block in zip(stage.keeps[1:], stage.down, strict=True):
                x = block(x, time, context)
                if keep:
                    skips.append(x)
            if stage.downsample is not None:
                x = stage.downsample(x)
        for block in self.middle:
            x = block(x, time, context)
        for stage in reversed(stages):
            for take, block in zip(stage.takes, stage.up, strict=True):
                if take:
                    x = torch.cat([x, skips.pop()], dim=1)
                x = block(x, time, context)
            if stage.upsample is not None:
                x = stage.upsample(x)
        prediction: Tensor = self.output(x)
        return prediction


INPUTS = ("sample", "timesteps", "context", "text_embeds", "time_ids")
"""Names of the inputs in order; the last two are a network's with an added embedding only."""


def example_inputs(config: UNetConfig, batch: int = 1, device: str = "cpu") -> tuple[Tensor, ...]:
    """Random inputs of the right shapes, as ``INPUTS`` names them: three, or five with an added embedding.

    Sample (B, in, H, W), timesteps (B,), context (B, S, width); pooled text (B, text_dim), time ids (B, ids).
    """
    size, added = config.sample_size, config.added
    inputs = (
        torch.randn(batch, config.in_channels, size, size, device=device),
        torch.full((batch,), 500.0, device=device),
        torch.randn(batch, config.context_tokens, config.context_dim, device=device),
    )
    if added.text_dim is None:
        return inputs
    return (
        *inputs,
        torch.randn(batch, added.text_dim, device=device),
        torch.full((batch, added.ids), float(8 * size), device=device),  # sizes and crops in pixels
    )
