"""Converts for ``RemoteConverter``: ``python -m archsearch.latency.phone.worker --format FORMAT``, one JSON object a line.

The first line it writes is ``{"facts": {…}}``. Then for every ``{"thing": …, "seed": …, "folder": path}`` it reads, until its
input ends, it writes ``{"file": …, "inputs": […]}``. Either may be ``{"error": message, "input": whether the user's input is to
blame}``.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from archsearch.errors import InputError
from archsearch.latency.phone.convert import CONVERTERS, RUNTIME_OF
from archsearch.latency.phone.manifest import Format
from archsearch.latency.things import from_data
from archsearch.runtimes.base import facts
from archsearch.runtimes.registry import get_runtime


def main(arguments: list[str] | None = None) -> None:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser(description="Converts for `archsearch latency bundle --runtime-python`; not meant for hands.")
    parser.add_argument("--format", required=True, choices=CONVERTERS)
    format: Format = parser.parse_args(arguments).format
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; who started this one ends it
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes to the standard error

    def say(work: Callable[[], dict[str, Any]]) -> bool:
        try:
            answer = work()
        except Exception as error:  # converters raise whatever they like
            words = " ".join(str(error).split())[:500] or type(error).__name__
            answer = {"error": words, "input": isinstance(error, InputError)}
        print(json.dumps(answer), file=answers, flush=True)
        return "error" not in answer

    if say(lambda: {"facts": asdict(facts(get_runtime(RUNTIME_OF[format])))}):
        for line in sys.stdin:
            say(lambda line=line: convert(format, json.loads(line)))  # type: ignore[misc]


def convert(format: Format, request: dict[str, Any]) -> dict[str, Any]:
    """Convert the thing of a request into its folder."""
    file, inputs = CONVERTERS[format](from_data(request["thing"]), request["seed"], Path(request["folder"]))
    return {"file": file, "inputs": [each.model_dump() for each in inputs]}


if __name__ == "__main__":
    main()
