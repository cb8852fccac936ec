"""What fits into the time that a search has left, by what its trainings have taken so far."""

import os
import statistics
from collections.abc import Sequence

import numpy as np
from optuna.trial import FrozenTrial

from archsearch.metrics.registry import METRICS
from archsearch.study.notes import notes_of
from archsearch.study.setting import Setting
from archsearch.study.spec import EngineSpec
from archsearch.study.store import Store

GRID_PICTURES = 16
"""Pictures that are drawn of each network that is shown."""
DRAWING_SHARE = 0.2
"""What a pass without gradient takes of a step of training, as measured with the quickstart."""
CLOSING_SECONDS = 15.0
"""For tables and plots, and for a worker that is in the middle of something."""


def automatic_workers(spec: EngineSpec | None = None) -> int:
    """One worker a GPU, or several where a trial takes a share of one; else one a core that this
    process may use.
    """
    import torch

    if torch.cuda.is_available():
        share = 1.0 if spec is None or spec.gpus in ("auto", 0) else float(spec.gpus)
        return max(1, int(torch.cuda.device_count() / share + 1e-9))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Pace:
    """How fast a study's trainings are on this machine.

    Args:
        setting: The study.
        store: Its store.
    """

    def __init__(self, setting: Setting, store: Store) -> None:
        self.setting, self.store = setting, store

    @property
    def workers(self) -> int:
        """How many the study says work at a time."""
        engine = self.setting.spec.engine
        return automatic_workers(engine) if engine.workers == "auto" else engine.workers

    def _rates(self) -> tuple[float, float] | None:
        """Seconds a picture and MAC of training, and seconds of scoring; None before the first."""
        known = [
            details
            for budget, details in self.store.seconds_here()
            if details.get("samples") == budget and "macs" in details
        ]
        if not known:
            return None
        rates = [each["train_seconds"] / (max(1, each["samples"]) * each["macs"]) for each in known]
        return statistics.median(rates), statistics.median(e["scoring_seconds"] for e in known)

    def training_seconds(self, samples: int, macs: float) -> float | None:
        """Seconds of a training with its scoring; None before there is one to judge by.

        Args:
            samples: Pictures it has still to see.
            macs: Of the network, at deployment scale.
        """
        rates = self._rates()
        return None if rates is None else rates[0] * samples * macs + rates[1]

    def drawing_seconds(self, complete: Sequence[FrozenTrial]) -> float:
        """Seconds that scores and pictures of one network take."""
        spec, rates = self.setting.spec, self._rates()
        if rates is None or not complete:
            return 0.0
        sets = {METRICS[name].prompts for name in spec.report if name in METRICS}
        steps = int(np.max(spec.sampling.steps))
        passes = steps * (1 if spec.sampling.guidance == 1 else 2)
        pictures = len(sets) * spec.metrics.images + GRID_PICTURES
        macs = float(statistics.mean(notes_of(t)["macs"] for t in complete))
        return rates[0] * macs * DRAWING_SHARE * passes * pictures

    def ending_seconds(self, complete: Sequence[FrozenTrial], shown: int) -> float:
        """Seconds that scores and pictures of the front and the presets will take at the end, the
        workers sharing them, and one network more than are ``shown`` so far.
        """
        shown = min(len(complete), shown + 1)
        return shown * self.drawing_seconds(complete) / self.workers + CLOSING_SECONDS

    def fits(
        self,
        complete: Sequence[FrozenTrial],
        shown: int,
        samples: int | None = None,
        macs: float | None = None,
    ) -> bool:
        """Whether a training can end in time, and what is done at the end of the run after it.

        Args:
            complete: Trials with scores.
            shown: Networks that are on the front or presets so far.
            samples: Pictures it has to see; by default those of a new candidate.
            macs: Of its network; by default the mean so far.
        """
        left = self.store.clock.left()
        if left == float("inf") or left <= 0 or not complete:
            return left > 0
        mean = statistics.mean(notes_of(t)["macs"] for t in complete)
        training = self.training_seconds(samples or self.setting.spec.budgets[0], macs or mean)
        return left > (training or 0.0) + self.ending_seconds(complete, shown)
