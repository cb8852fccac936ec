"""Where the cost of an architecture lies: by stage and by unit."""

from collections.abc import Callable
from typing import Any

from archsearch.cost.units import macs, params
from archsearch.unet.config import UNetConfig
from archsearch.unet.parts import ResidualBlock
from archsearch.unet.plan import plan
from archsearch.unet.units import Unit, unit_fields

Times = Callable[[Unit], float | None]
"""Milliseconds of a unit, None where they are not known."""


def unit_costs(config: UNetConfig, times: Times | None = None) -> list[dict[str, Any]]:
    """Every unit with its place, fields, parameters, MACs and, given ``times``, milliseconds; in execution order."""
    rows = []
    for place, unit in plan(config).placed():
        row = {"place": place, **unit_fields(unit), "params": params(unit), "macs": macs(unit).total}
        rows.append(row | ({"ms": times(unit)} if times else {}))
    return rows


def stage_costs(config: UNetConfig, times: Times | None = None) -> list[dict[str, Any]]:
    """One row a stage, the middle, and what belongs to none (input, time embedding, output)."""
    rows: list[dict[str, Any]] = [
        {
            "stage": f"stages[{index}]",
            "channels": stage.channels,
            "size": config.sample_size // 2**index,
            "down": describe_side(stage.down),
            "up": describe_side(stage.up),
            "conv": config.conv_of(index),
        }
        for index, stage in enumerate(config.stages)
    ]
    if config.middle:
        rows.append({"stage": "middle", "down": describe_side(config.middle)})
    rows.append({"stage": "input, time, output"})
    costs = unit_costs(config, times)
    for row in rows:
        mine = [cost for cost in costs if _belongs(cost["place"], row["stage"])]
        row |= {name: sum(cost[name] or 0 for cost in mine) for name in ("params", "macs", *(["ms"] if times else []))}
    return rows


def _belongs(place: str, stage: str) -> bool:
    return place.startswith(stage) if stage.startswith(("stages", "middle")) else place in ("input", "time", "output")


def describe_side(blocks: tuple[ResidualBlock, ...]) -> str:
    """Residual blocks and their transformer blocks in short: ``2 × (R + 3 [sa ca ff])``."""
    runs: list[tuple[str, int]] = []
    for block in blocks:
        text = _short(block)
        if runs and runs[-1][0] == text:
            runs[-1] = (text, runs[-1][1] + 1)
        else:
            runs.append((text, 1))
    return ", ".join(f"{count} × {text}" if count > 1 else text for text, count in runs)


def _short(block: ResidualBlock) -> str:
    if not block.transformers:
        return "R"
    if len(set(block.transformers)) == 1:
        count = len(block.transformers)
        return f"(R + {f'{count} ' if count > 1 else ''}[{' '.join(block.transformers[0])}])"
    return "(R + " + " ".join(f"[{' '.join(layers)}]" for layers in block.transformers) + ")"
