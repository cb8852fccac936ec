"""What other packages add: metrics, data sources and runtimes, found through Python's entry points.

A package names what it adds in its ``pyproject.toml``, under one of the groups
``archsearch.metrics``, ``archsearch.sources`` and ``archsearch.runtimes``::

    [project.entry-points."archsearch.metrics"]
    sharpness = "my_package.sharpness:SHARPNESS"
"""

import logging
from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import Any, Literal

_log = logging.getLogger(__name__)

Group = Literal["archsearch.metrics", "archsearch.sources", "archsearch.runtimes"]


def load_plugins(group: Group, needs: Iterable[str], known: Iterable[str]) -> dict[str, Any]:
    """Load what installed packages add to a registry, by name.

    A plugin that cannot be used, since it does not import, is a class instead of an object, lacks
    something or takes the name of another, is left out with a warning that names its package: one
    broken package must not stop every command.

    Args:
        group: The group of entry points.
        needs: Attributes that every entry must have.
        known: Names that are taken.
    """
    found: dict[str, Any] = {}
    for entry in entry_points(group=group):
        package = entry.dist.name if entry.dist else "an unknown package"
        try:
            value = entry.load()
        except Exception as error:
            reason = f"it does not load: {error}"
        else:
            missing = [name for name in needs if not hasattr(value, name)]
            if isinstance(value, type):
                reason = "it is a class; name an object of it"
            elif missing:
                reason = f"it has no {', '.join(missing)}"
            elif entry.name in {*known, *found}:
                reason = "the name is taken"
            else:
                found[entry.name] = value
                continue
        _log.warning("%s: '%s' of package %s is left out, %s", group, entry.name, package, reason)
    return found
