"""Which block of the trained network each block of the edited one continues."""

from dataclasses import dataclass

from archsearch.unet.plan import Block, Plan


@dataclass(frozen=True, slots=True)
class Site:
    """A block in its place: where its tensors are named, which stages' streams it reads and which it writes."""

    prefix: str
    block: Block
    stage: int
    reads: tuple[int, ...]
    """Stages of the tensors that are joined to its input: the current one, and the skip's where it takes one."""


def sites(plan: Plan) -> dict[str, list[Site]]:
    """Every block by side: ``middle``, ``stages.0.down``, ``stages.0.up`` …"""
    last = len(plan.stages) - 1
    found = {"middle": [Site(f"middle.{n}", block, last, (last,)) for n, block in enumerate(plan.middle)]}
    for index, stage in enumerate(plan.stages):
        before = max(index - 1, 0)
        offered = [before] + [index] * len(stage.down)
        down, up = f"stages.{index}.down", f"stages.{index}.up"
        found[down] = [Site(f"{down}.{n}", block, index, (index if n else before,)) for n, block in enumerate(stage.down)]
        found[up] = []
        for number, block in enumerate(stage.up):
            current = index if number or index == last else index + 1
            skip = (offered[-1 - number],) if block.skip else ()
            found[up].append(Site(f"{up}.{number}", block, index, (current, *skip)))
    return found


def align(source: Plan, target: Plan) -> list[tuple[Site, Site | None]]:
    """Pairs of the target's blocks and what they continue, None for a new one; in no particular order.

    Block by block in each side, the first ones where there are fewer. On the way up, where there is one block more than on the way
    down in both networks, the last continues the last: it takes the skip that enters the stage, which the others do not.
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
