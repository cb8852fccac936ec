"""Output of ONNX Runtime's ``onnxruntime_perf_test``.

Its ``result_file`` is a table without a header, in seconds (source: ``PerformanceResult::DumpToFile`` in
onnxruntime/test/perftest/performance_runner.h, later .cc, of microsoft/onnxruntime)::

    <model name>,<seconds>,<peak working set in bytes>,<average CPU usage in %>,<number of the run>

From October 2025 on a line may have the total time as a third column, after the time of submission (pull request 26313 of
microsoft/onnxruntime), six in all. With ``-s`` lines such as ``P50 Latency is 0.0587108sec`` follow after an empty one. Standard
output ends with averages (issues 4647 and 10921)::

    Session creation time cost: 0.127918 s
    Total inference time cost: 1.44871 s
    Total inference requests: 10
    Average inference time cost: 144.871 ms
"""

import re
from pathlib import Path

from archsearch.errors import InputError
from archsearch.latency.phone.timings import read_ms

AVERAGE = re.compile(r"^Average inference time cost:\s*(\S+)\s*ms", re.MULTILINE)
COLUMNS = (5, 6)


def read_perf_test(table: Path, log: Path, text: str, warmup: int) -> list[float]:
    """Times of the runs in ms.

    From the table of runs, without the first ``warmup`` of them: the tool itself warms up with one run only. Where there is no
    table, the average of all runs (warm-up among them, but for that one) is the only time: then n = 1 and p10 = p50 = p90.

    Raises:
        InputError: There is neither, or a line is not of the tool's form.
    """
    if not table.exists():
        average = AVERAGE.search(text)
        if not average:
            raise InputError(f"{log}: has no 'Average inference time cost: … ms', and there is no {table.name} beside it.")
        return [read_ms(average[1], log, "Average inference time cost")]
    times = []
    for number, line in enumerate(table.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not line.strip():
            break  # statistics follow
        columns = line.rsplit(",", maxsplit=max(COLUMNS) - 1)
        if len(columns) not in COLUMNS:
            raise InputError(f"{table}: line {number}: {len(columns)} columns, where the tool writes 5 or 6: cut short?")
        times.append(1000 * read_ms(columns[1 if len(columns) == 5 else 2], table, f"line {number}"))
    if len(times) <= warmup:
        raise InputError(f"{table}: has {len(times)} runs, but {warmup} of them warm up: cut short?")
    return times[warmup:]
