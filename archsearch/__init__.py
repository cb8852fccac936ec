"""Neural architecture search for text-to-image UNets that must run on phones.

The names below are loaded when they are first used, so that the package itself imports at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from archsearch import benchmark
    from archsearch.after import adapt, adapt_front, distill, distill_front, few_steps
    from archsearch.api import (
        Study,
        arch,
        build,
        compare,
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
    "adapt_front",
    "arch",
    "benchmark",
    "build",
    "compare",
    "distill",
    "distill_front",
    "few_steps",
    "latency_table",
    "price",
    "space",
]

_ELSEWHERE = {
    "Record": "archsearch.study.store",
    "Store": "archsearch.study.store",
    "UNetConfig": "archsearch.unet.config",
    "adapt": "archsearch.after",
    "adapt_front": "archsearch.after",
    "distill": "archsearch.after",
    "distill_front": "archsearch.after",
    "few_steps": "archsearch.after",
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
