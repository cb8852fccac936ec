"""Log of ExecuTorch's ``executor_runner`` (with XNNPACK linked in also called ``xnn_executor_runner``).

Lines (source: examples/portable/executor_runner/executor_runner.cpp of pytorch/executorch; the prefix is that of its log)::

    I 00:00:00.012345 executorch:executor_runner.cpp:541] Iteration 1 of 18: 3.211042 ms
    I 00:00:00.067890 executorch:executor_runner.cpp:552] Model executed successfully 18 time(s) in 57.801200 ms.

Older versions print no ``Iteration`` lines, still older ones no time in the last. Times are of ``method->execute()`` alone. They
lie in the ETDump too, as ``Method::execute`` in the table that its Inspector prints; a build for measuring has no tracer, whose
events cost time, so that the log is what we read.
"""

import re
from pathlib import Path

from archsearch.errors import InputError
from archsearch.latency.phone.timings import read_ms

NUMBER = r"(\S+)"
ITERATION = re.compile(rf"Iteration (\d+) of (\d+): {NUMBER} ms")
TOTAL = re.compile(rf"Model executed successfully (\d+) time\(s\) in {NUMBER} ms")


def read_executor_log(path: Path, text: str, warmup: int) -> list[float]:
    """Times of the runs in ms.

    From the ``Iteration`` lines, without the first ``warmup``. Where an older version prints none, the mean of all runs, warm-up
    among them, is the only time: then n = 1 and p10 = p50 = p90.

    Raises:
        InputError: The log tells no time, or is cut short.
    """
    total = TOTAL.search(text)
    if not total:
        raise InputError(
            f"{path}: has no 'Model executed successfully … time(s) in … ms': cut short, or of a version without times?"
        )
    count = int(total[1])
    times = [read_ms(found[3], path, f"iteration {found[1]}") for found in ITERATION.finditer(text)]
    if not times:
        if count < 1:
            raise InputError(f"{path}: the model was executed {count} times.")
        return [read_ms(total[2], path, "total") / count]
    if len(times) != count:
        raise InputError(f"{path}: {len(times)} iterations are listed of {count}: lines are missing.")
    if count <= warmup:
        raise InputError(f"{path}: has {count} runs, but {warmup} of them warm up.")
    return times[warmup:]
