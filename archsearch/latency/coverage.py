"""Which units a search space needs, and which of its networks need a unit."""

import random
from collections.abc import Callable, Collection, Iterator

from archsearch.errors import InputError
from archsearch.latency.keys import keys_of
from archsearch.space.space import InvalidPointError, Point, Space
from archsearch.unet.config import UNetConfig
from archsearch.unet.units import Unit

ENUMERATE_UP_TO = 20_000
QUIET_DRAWS = 3_000


def points(space: Space) -> Iterator[tuple[Point, UNetConfig]]:
    """The architectures of a space: all of a small one; of a large one, draws until 3,000 in a row bring no new unit."""
    if space.size <= ENUMERATE_UP_TO:
        for point in space.points():
            try:
                yield point, space.build(point)
            except InvalidPointError:
                continue
        return
    rng, quiet = random.Random(0), 0
    seen: set[Unit] = set()
    while quiet < QUIET_DRAWS:
        point, config = space.sample_valid(rng)
        known = len(seen)
        seen.update(keys_of([config]))
        quiet = quiet + 1 if len(seen) == known else 0
        yield point, config


def draw_distinct(
    space: Space, count: int, seed: int, suits: Callable[[UNetConfig], bool] = lambda config: True
) -> list[UNetConfig]:
    """Draw different random networks of a space, in the order of drawing.

    Raises:
        InputError: It does not have as many that ``suits`` says yes to.
    """
    rng, found = random.Random(seed), dict[str, UNetConfig]()
    for _ in range(100 * count):
        if len(found) == count:
            break
        config = space.sample_valid(rng)[1]
        if config.digest not in found and suits(config):
            found[config.digest] = config
    if len(found) < count:
        raise InputError(f"space {space.name}: only {len(found)} different networks were found, but {count} were asked for.")
    return list(found.values())


def units_of(space: Space) -> list[Unit]:
    """The entries that the networks of a space need, sorted."""
    return keys_of(config for _, config in points(space))


def needing(space: Space, units: Collection[Unit]) -> tuple[int, int, list[Point]]:
    """How many of the networks of a space (see ``points``) need one of ``units``, of how many, and those."""
    wanted, total, found = set(units), 0, []
    for point, config in points(space):
        total += 1
        if wanted.intersection(keys_of([config])):
            found.append(point)
    return len(found), total, found
