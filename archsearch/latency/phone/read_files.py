"""Results that a script of the bundle collects: a folder with a log for every run of a tool, in the order of measuring.

``results/bundle.txt`` has the digest of the bundle; ``results/<number>.<key>.log`` is what the tool printed, closed by our script
with ``exit code: <n>``; ONNX Runtime's tool has its table of runs beside it, ``.csv``.
"""

import math
import re
from pathlib import Path

from archsearch.errors import InputError
from archsearch.latency.phone.manifest import Manifest
from archsearch.latency.phone.read_executor import read_executor_log
from archsearch.latency.phone.read_perf_test import read_perf_test
from archsearch.latency.phone.timings import Returned, Timing, pair

NAME = re.compile(r"^(\d{5})\.([a-z0-9_-]+)\.log$")
EXIT = re.compile(r"^exit code: (\d+)\s*$", re.MULTILINE)


def read_folder(folder: Path, manifest: Manifest) -> Returned:
    """Read what ``run_onnx_android.sh`` or ``run_executorch_android.sh`` collected.

    Raises:
        InputError: It is of another bundle, cut short (but for the last run), or holds times that are not positive.
    """
    _check_bundle(folder, manifest)
    order, known = manifest.order(), manifest.by_key
    logs = sorted(path for path in folder.iterdir() if path.suffix == ".log")
    if not logs:
        raise InputError(f"{folder}: has no logs of runs, <number>.<key>.log.")
    timings = []
    for path in logs:
        match = NAME.match(path.name)
        if not match or match[2] not in known:
            raise InputError(f"{path}: is not of this bundle: a log is called <number>.<key>.log, with a key of its manifest.")
        number = int(match[1])
        if not 1 <= number <= len(order) or order[number - 1] != match[2]:
            raise InputError(f"{path}: run {number} of this bundle is not {match[2]}.")
        text = _text(path)
        ended = EXIT.search(text)
        if not ended:
            if path == logs[-1]:
                break  # cut off there: the rest is missing, and will be named so
            raise InputError(f"{path}: is cut short: it does not end with 'exit code: <n>'.")
        timings.append(_timing(path, text, match[2], int(ended[1]), manifest))
    return pair(timings)


def _timing(path: Path, text: str, key: str, code: int, manifest: Manifest) -> Timing:
    if code:
        said = [line.strip() for line in text.splitlines() if line.strip() and not EXIT.match(line)]
        return Timing(key, failed=f"exit code {code}: {said[-1][:300] if said else 'nothing was printed'}")
    warmup = manifest.conditions.warmup
    if manifest.conditions.format == "onnx":
        times = read_perf_test(path.with_suffix(".csv"), path, text, warmup)
    else:
        times = read_executor_log(path, text, warmup)
    for index, ms in enumerate(times):
        if not (math.isfinite(ms) and ms > 0):
            raise InputError(f"{path}: run {index + 1}: a time must be positive, but got {ms} ms.")
    return Timing(key, times_ms=tuple(times))


def _check_bundle(folder: Path, manifest: Manifest) -> None:
    path = folder / "bundle.txt"
    if not path.exists():
        raise InputError(f"{folder}: has no bundle.txt, which the bundle's script writes: not results of a bundle?")
    found = _text(path).strip()
    if found != manifest.bundle:
        raise InputError(f"{path}: these are results of bundle {found[:40]!r}, not of this one, {manifest.bundle!r}.")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from error
