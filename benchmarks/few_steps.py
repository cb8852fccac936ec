"""What is lost in few steps: ``kid_effnet`` and ``alignment`` of what trained networks draw.

The networks are folders as ``archsearch train`` and ``archsearch distill`` make them, all of one
network. Each draws the same captions from the same noise, in its own number of steps, or, where it
draws in any, in every number of ``--steps``. ``kid_effnet`` has its interval by the jackknife
over pictures. One thread; processor time.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from archsearch.adapters.work import Scores, begin_work, read_checkpoint
from archsearch.diffusion.sample import sampling_for
from archsearch.diffusion.trained import load_trained

METRICS = ("kid_effnet", "alignment")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", type=Path, help="what all others were made from")
    parser.add_argument("made", type=Path, nargs="*", help="folders of what was made from it")
    parser.add_argument("--steps", default="50,8,4,1")
    parser.add_argument("--guidance", type=float, help="by default what its study draws with")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--output", type=Path, required=True, help="an empty folder for notes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    trained = read_checkpoint(arguments.network, arguments.output)
    work = begin_work(
        trained, arguments.network, arguments.output, "few_steps.json", {}, {}, lambda _, __: None
    )
    scores = Scores(work, METRICS, arguments.images)
    for folder in (arguments.network, *arguments.made):
        model, conditions = load_trained(folder, work.device)
        asked = [None] if conditions.steps else list(map(int, arguments.steps.split(",")))
        for steps in asked:
            weight = None if conditions.steps else arguments.guidance
            sampling = sampling_for(conditions, steps, weight)
            began = time.process_time()
            found = scores.take(model, conditions, sampling)
            found = {name: round(value, 4) for name, value in found.items()}
            row = {"folder": folder.name, **sampling.model_dump(), **found}
            row["seconds"] = round(time.process_time() - began, 1)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
