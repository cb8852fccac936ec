"""Neural architecture search for text-to-image UNets that must run on phones.

The names below are loaded when they are first used, so that the package itself imports at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from archsearch import benchmark
    from archsearch.adapters.generate import generate
    from archsearch.api import (
        Study,
        adapt,
        arch,
        build,
        compare,
        distill,
        latency_table,
        price,
        space,
    )
    from archsearch.study.store import Record, Store
    from archsearch.unet.config import UNetConfig

__version__ = "0.1.0"

__all__ = [
    "Record",
    "Store",
    "Study",
    "UNetConfig",
    "adapt",
    "arch",
    "benchmark",
    "build",
    "compare",
    "distill",
    "generate",
    "latency_table",
    "price",
    "space",
]

_ELSEWHERE = {
    "Record": "archsearch.study.store",
    "Store": "archsearch.study.store",
    "UNetConfig": "archsearch.unet.config",
    "generate": "archsearch.adapters.generate",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'archsearch' has no attribute '{name}'")
    if name == "benchmark":  # a package, not a name in one
        return importlib.import_module("archsearch.benchmark")
    found = getattr(importlib.import_module(_ELSEWHERE.get(name, "archsearch.api")), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
