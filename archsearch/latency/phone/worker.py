"""Converts for ``RemoteConverter``: ``python -m archsearch.latency.phone.worker --format FORMAT``.

It says its facts (``peer.serve``), then answers each ``{"thing": …, "seed": …, "folder": path}``
with ``{"file": …, "inputs": […]}``.
"""

import argparse
from pathlib import Path

from archsearch.latency.phone.bundle import CONVERTERS, RUNTIME_OF, Format
from archsearch.latency.process import Answer, serve
from archsearch.latency.things import from_data
from archsearch.runtimes.base import facts
from archsearch.runtimes.registry import get_runtime


def main(arguments: list[str] | None = None) -> None:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser(
        description="Converts for `archsearch latency bundle --runtime-python`; not meant for "
        "hands."
    )
    parser.add_argument("--format", required=True, choices=CONVERTERS)
    format: Format = parser.parse_args(arguments).format
    serve(lambda: facts(get_runtime(RUNTIME_OF[format])), lambda request: convert(format, request))


def convert(format: Format, request: Answer) -> Answer:
    """Convert the thing of a request into its folder."""
    file, inputs = CONVERTERS[format](
        from_data(request["thing"]), request["seed"], Path(request["folder"])
    )
    return {"file": file, "inputs": [each.model_dump() for each in inputs]}


if __name__ == "__main__":
    main()
