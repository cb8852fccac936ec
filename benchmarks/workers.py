"""What two workers do in the time of one, and what of a worker's time is not training.

The quickstart's study with trainings of some twenty seconds and no rungs is run with one worker
and with two, with the default sampler. ``speed`` is pictures times multiply-accumulates a second,
from the start of the first trial to that of the last, so that a worker that finds nothing more to
do does not count; ``coordination`` is the share of their wall time in between that was neither
training nor scoring. ``machine`` is what two processes that only train one network get done in the
time of one: more than that nothing can reach.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from archsearch import Study
from archsearch.study.notes import notes_of

LOOP = """
import sys, time, torch
import archsearch
torch.set_num_threads(1)
study = archsearch.Study("studies/quickstart.yaml")
network = study.setting.proxy(archsearch.arch("mobilediffusion-lite"))
model = archsearch.build(network).to(memory_format=torch.channels_last)
side = network.sample_size
inputs = (torch.randn(8, network.in_channels, side, side), torch.rand(8),
          torch.randn(8, network.context_tokens, network.context_dim))
steps, started = 0, None
while started is None or time.monotonic() - started < float(sys.argv[1]):
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(*inputs).float().square().mean()
    loss.backward()
    model.zero_grad()
    steps += 1
    if started is None and steps == 3:
        steps, started = 0, time.monotonic()
print(steps)
"""


def machine(seconds: float = 30) -> float:
    """Steps of training of two processes at once, by those of one."""

    def steps(processes: int) -> int:
        command = [sys.executable, "-c", LOOP, str(seconds)]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(processes)]
        return sum(int(each.communicate()[0]) for each in running)

    ones = [steps(1), steps(1)]
    return steps(2) / (sum(ones) / 2)


def one(workers: int, samples: int, trials: int, folder: Path) -> dict[str, Any]:
    data = yaml.safe_load(Path("studies/quickstart.yaml").read_text(encoding="utf-8"))
    data |= {"report": []}
    data["proxy"]["samples"] = samples
    data["search"] = {
        "sampler": {"name": "surrogate", "startup_trials": 4},
        "trials": trials,
        "repeats": 0.0,
        "confirm_seeds": 1,
        "enqueue": ["presets", "cheapest"],
    }
    data["engine"] = {"kind": "local", "workers": workers}
    path = folder / f"workers-{workers}.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    study = Study(path, folder / f"workers-{workers}")
    study.run()
    complete = study.results.trials.complete()
    times = [
        (trial.datetime_start.timestamp(), trial.datetime_complete.timestamp())
        for trial in complete
        if trial.datetime_start and trial.datetime_complete
    ]
    first, last = min(start for start, _ in times), max(start for start, _ in times)
    # Of a trial that goes on after the last has begun only the part before counts.
    shares = [max(0.0, (min(end, last) - start) / (end - start)) for start, end in times]
    notes = [notes_of(trial) for trial in complete]
    seconds = [each["train_seconds"] + each["scoring_seconds"] for each in notes]
    busy = sum(share * taken for share, taken in zip(shares, seconds, strict=True))
    work = sum(share * samples * each["macs"] for share, each in zip(shares, notes, strict=True))
    return {
        "trials": len(complete),
        "seconds_a_trial": round(sum(seconds) / len(seconds), 1),
        "wall": round(last - first, 1),
        "speed": work / (last - first),
        "coordination": round(1 - busy / (workers * (last - first)), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=480)
    parser.add_argument("--trials", type=int, default=16)
    arguments = parser.parse_args()
    found: dict[str, Any] = {"machine": round(machine(), 3)}
    with tempfile.TemporaryDirectory() as name:
        runs = {
            workers: one(workers, arguments.samples, arguments.trials, Path(name))
            for workers in (1, 2)
        }
    ratio = runs[2]["speed"] / runs[1]["speed"]
    print(json.dumps(found | {"workers": runs, "two_against_one": round(ratio, 3)}, indent=1))


if __name__ == "__main__":
    main()
