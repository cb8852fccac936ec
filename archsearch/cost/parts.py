"""The price of a network in parts: the units of one kind in one stage, which few choices decide.

Parameters, MACs and times of the parts add up to those of the network. Memory follows from three
figures: ``base``, what is held before the first stage; what each stage keeps for the way up; and of
each part the most that it reaches above what was held when its stage was entered.
"""

from dataclasses import dataclass, field
from itertools import pairwise

from archsearch.cost.price import Bill, ForwardPass, Place, bill
from archsearch.unet.plan import Plan
from archsearch.unet.units import Unit

ENDS, RESIDUAL = "ends", "residual"
_ROLES = (
    dict.fromkeys(("input", "time", "output"), ENDS)
    | dict.fromkeys(("downsample", "upsample"), RESIDUAL)
    | {"norm": "projection"}
)
NOTHING = -(2**60)
"""What a part reaches that has no units."""


@dataclass
class Part:
    """The units of one role in one place."""

    params: int = 0
    macs: int = 0
    reach: int = NOTHING
    """Elements, above what was held when the place was entered."""
    units: list[Unit] = field(default_factory=list)
    """Each as often as it occurs."""


@dataclass(frozen=True)
class Parts:
    """A network in parts."""

    parts: dict[tuple[Place, str], Part]
    """By place and role: ``ends``, ``residual`` (with what changes the resolution),
    ``projection``, and the kinds of transformer layers."""
    base: int
    """Elements held before the first stage is entered."""
    kept: dict[Place, int]
    """Elements that each stage keeps for the way up."""


def parts_of(plan: Plan) -> Parts:
    """Price a network in parts; together they give what ``price`` says."""
    found: dict[tuple[Place, str], Part] = {}
    bills: dict[int, Bill] = {}
    for path, unit in plan.placed():
        head, _, inner = path.partition(".")
        place: Place = "ends"
        if inner:
            place = "middle" if head.startswith("middle") else int(head[len("stages[") : -1])
        part = found.setdefault((place, _ROLES.get(unit.kind, unit.kind)), Part())
        if id(unit) not in bills:
            bills[id(unit)] = bill(unit)
        part.params += bills[id(unit)].params
        part.macs += bills[id(unit)].macs.total
        part.units.append(unit)
    walk = ForwardPass(plan, bills)
    walk.run()
    starts = walk.starts
    for (place, kind), elements in walk.reached.items():
        part = found[place, _ROLES.get(kind, kind)]
        part.reach = max(part.reach, elements - starts[0 if place == "ends" else place])
    entered: list[Place] = [*range(len(plan.stages)), "middle"]
    kept = {here: starts[below] - starts[here] for here, below in pairwise(entered)}
    return Parts(found, starts[0], kept)
