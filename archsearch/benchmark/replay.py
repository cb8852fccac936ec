"""Searches repeated on recorded scores: how many trainings would each have needed?

A replayed search chooses among the recorded networks alone, so that everything it is told was
measured: a loss of one training after a short budget, with a seed drawn among those recorded. It is
judged by the front that it reports, at the networks' recorded means of the held-out loss after the
longest budget: the share of the hypervolume of the best front of the whole table.

A sampler that proposes points of the space gets the nearest recorded network that it does not know
yet (fewest knobs that differ, then as proposed), and is told that network's own point.
"""

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import create_trial

from archsearch.benchmark.table import BUDGETS, LATENCY, LOSSES, Benchmark
from archsearch.errors import InputError, check_known
from archsearch.study.front import non_dominated
from archsearch.study.proposals import make_sampler
from archsearch.study.search import gains
from archsearch.study.spec import Sampler
from archsearch.study.surrogate import Measurement, Surrogate
from archsearch.study.volume import Box

SAMPLERS = ("surrogate", "random", "nsga2", "tpe", "gp")
OBJECTIVES = {"val_loss": "minimize", "latency_ms": "minimize"}
LEADING = 0.99
"""Share of the best hypervolume that entries of the leaderboard are timed to."""
STARTUP = 8
DRAWS = 64


@dataclass(frozen=True)
class Replayed:
    """A replayed search."""

    sampler: str
    seed: int
    chosen: tuple[str, ...]
    """Digests of the networks that it trained, in order."""
    raw: tuple[float, ...]
    """After each training: share of the best hypervolume that the front of raw scores has."""
    believed: tuple[float, ...]
    """The same for the front that our model reports of the same trainings."""
    minutes: tuple[float, ...]
    """After each training: core-minutes that the trainings so far have taken, as recorded, and the
    processor time of the search itself, in which they were chosen."""

    def minutes_to(self, target: float) -> float:
        """Core-minutes until the front that it reports has so large a share; infinite where it
        never has.
        """
        reached = (
            m for m, share in zip(self.minutes, self.believed, strict=True) if share >= target
        )
        return next(reached, math.inf)


class Replay:
    """The recorded networks as a search finds them.

    Args:
        table: The benchmark.
        latency: Name of the latency table that is the second objective.
        budget: Pictures seen by the trainings that searches are told of.
        score: Of the losses, the one that they are told.

    Raises:
        InputError: The benchmark has no such latencies, budget or loss.
    """

    def __init__(
        self,
        table: Benchmark,
        latency: str = "cpu-onnxruntime-fp32",
        budget: int = BUDGETS[1],
        score: str = LOSSES[0],
    ) -> None:
        columns = map(str, table.networks.columns)
        known = [name.removeprefix(LATENCY) for name in columns if name.startswith(LATENCY)]
        check_known(latency, known, f"latency: '{latency}' is no table of the benchmark")
        if budget not in table.budgets:
            listed = ", ".join(f"{each:,}" for each in table.budgets)
            raise InputError(f"budget: {budget:,} pictures is not recorded; there are {listed}.")
        check_known(score, LOSSES, f"score: '{score}' is not one that searches are told")
        self.table, self.budget, self.score = table, budget, score
        truth = table.mean()
        self.networks = [str(digest) for digest in truth.index]
        taken = table.networks[f"{LATENCY}{latency}"]
        self.latency = {str(digest): float(ms) for digest, ms in taken.items()}
        self.truth = {digest: float(truth[digest]) for digest in self.networks}
        self.points = {digest: table.designs[digest].point for digest in self.networks}
        values = [self._values(digest) for digest in self.networks]
        self.box = Box.around(OBJECTIVES, values)  # type: ignore[arg-type]
        self.best = self.box.hypervolume(values)
        recorded = table.rows[table.rows["budget"] == budget]
        self.seconds = {
            (str(digest), int(seed)): float(seconds)
            for digest, seed, seconds in zip(
                *(recorded[name] for name in ("digest", "seed", "seconds")), strict=True
            )
        }

    def _values(self, digest: str) -> list[float]:
        return [self.truth[digest], self.latency[digest]]

    def _share(self, digests: Sequence[str]) -> float:
        return self.box.hypervolume([self._values(d) for d in digests]) / self.best

    def run(self, sampler: str, trainings: int, seed: int = 0) -> Replayed:
        """Repeat one search.

        Args:
            sampler: One of :data:`SAMPLERS`.
            trainings: How many networks it trains; at most as many as there are.
            seed: Of the sampler, and of which seed of a network it is told.

        Raises:
            InputError: The sampler is not known.
        """
        check_known(sampler, SAMPLERS, f"sampler: '{sampler}' is not known")
        rng = random.Random(seed)
        chooser = _Modelled(self, rng) if sampler == "surrogate" else _Proposed(self, sampler, seed)
        told: dict[str, float] = {}
        raw, believed, minutes = [], [], []
        taken = 0.0
        for _ in range(min(trainings, len(self.networks))):
            began = time.process_time()
            digest = chooser.choose(told)
            trained = rng.choice(self.table.seeds(digest, self.budget))
            told[digest] = self.table.look_up(digest, self.budget, trained)[self.score]
            chooser.tell(digest, told[digest])
            taken += time.process_time() - began + self.seconds[digest, trained]
            minutes.append(taken / 60)
            tried = list(told)
            raw.append(self._share(_front(tried, [told[d] for d in tried], self.latency)))
            believed.append(self._share(_front(tried, self.believe(told, tried), self.latency)))
        return Replayed(sampler, seed, tuple(told), tuple(raw), tuple(believed), tuple(minutes))

    def model(self, told: dict[str, float]) -> Surrogate:
        """Our model of what a search was told."""
        measured = [
            Measurement(self.table.designs[digest], value, self.budget, digest)
            for digest, value in told.items()
        ]
        return Surrogate(self.table.space.dimensions, measured, self.budget)

    def believe(self, told: dict[str, float], digests: Sequence[str]) -> list[float]:
        """Posterior means of networks."""
        found = self.model(told).posterior([self.table.designs[d] for d in digests])
        means: list[float] = found.mean.tolist()
        return means


def _front(digests: Sequence[str], losses: Sequence[float], latency: dict[str, float]) -> list[str]:
    kept = non_dominated([[loss, latency[d]] for d, loss in zip(digests, losses, strict=True)])
    return [digest for digest, member in zip(digests, kept, strict=True) if member]


class _Modelled:
    """Chooses as the sampler ``surrogate`` does: first evenly, then by expected hypervolume."""

    def __init__(self, replay: Replay, rng: random.Random) -> None:
        self.replay, self.order = replay, rng.sample(replay.networks, len(replay.networks))

    def tell(self, digest: str, value: float) -> None:
        """Nothing is kept: the model is made anew of what was told."""

    def choose(self, told: dict[str, float]) -> str:
        left = [digest for digest in self.order if digest not in told]
        if len(told) < STARTUP:
            return left[0]
        tried, designs = list(told), self.replay.table.designs
        model = self.replay.model(told)
        drawn = model.posterior([designs[d] for d in (*tried, *left)]).draws(DRAWS, len(told))
        costs = np.log([self.replay.latency[d] for d in (*tried, *left)])
        points = np.stack([drawn, np.broadcast_to(costs, drawn.shape)], axis=-1)
        low, high = points.min(axis=(0, 1)), points.max(axis=(0, 1))
        points = (points - low) / np.where(high > low, high - low, 1.0)
        known, mine = points[:, : len(tried)], points[:, len(tried) :]
        corner = np.full(2, 1.1)
        worth = [gains(k[non_dominated(k)], m, corner) for k, m in zip(known, mine, strict=True)]
        return left[int(np.argmax(np.mean(worth, axis=0)))]


class _Proposed:
    """Takes the recorded network that is nearest to what one of Optuna's samplers proposes."""

    def __init__(self, replay: Replay, sampler: str, seed: int) -> None:
        self.replay = replay
        population = 8 if sampler == "nsga2" else None
        startup = STARTUP if sampler in ("tpe", "gp") else None
        spec = Sampler(name=sampler, population_size=population, startup_trials=startup)
        self.space = {
            name: CategoricalDistribution([str(label) for label in (*labels, "")])
            for name, labels in replay.table.labels.items()
        }
        self.noted: dict[str, Any] = {}
        self.study = optuna.create_study(
            sampler=make_sampler(spec, seed), directions=["minimize", "minimize"]
        )

    def choose(self, told: dict[str, float]) -> str:
        trial = self.study.ask()
        proposed = {
            name: trial.suggest_categorical(name, d.choices) for name, d in self.space.items()
        }
        self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        # To what is told in its place belongs what a sampler notes with a proposal: its generation.
        self.noted = self.study.get_trials(deepcopy=False)[trial.number].system_attrs
        left = [digest for digest in self.replay.networks if digest not in told]
        return min(left, key=lambda digest: self._distance(proposed, digest))

    def _distance(self, proposed: dict[str, Any], digest: str) -> int:
        point = self.replay.points[digest]
        return sum(str(point.get(name, "")) != value for name, value in proposed.items())

    def tell(self, digest: str, value: float) -> None:
        point = self.replay.points[digest]
        self.study.add_trial(
            create_trial(
                params={name: str(point.get(name, "")) for name in self.space},
                distributions=self.space,  # type: ignore[arg-type]
                values=[value, math.log(self.replay.latency[digest])],
                system_attrs=self.noted,
            )
        )


def summarise(found: Sequence[Replayed], target: float = 0.95) -> dict[str, dict[str, Any]]:
    """By sampler: quartiles over seeds of the share after each training, and the median number of
    trainings to ``target``, None where it is not reached; of core-minutes to :data:`LEADING`, the
    figure of the leaderboard, None where fewer searches get there.
    """
    summary: dict[str, dict[str, Any]] = {}
    for sampler in dict.fromkeys(each.sampler for each in found):
        own = [each for each in found if each.sampler == sampler]
        taken = np.quantile(
            [e.minutes_to(LEADING) for e in own], [0.25, 0.5, 0.75], method="higher"
        )
        summary[sampler] = {
            "seeds": len(own),
            "core_minutes": [round(float(m), 1) if math.isfinite(m) else None for m in taken],
        }
        for kind in ("raw", "believed"):
            shares = np.array([getattr(each, kind) for each in own])
            low, middle, high = np.quantile(shares, [0.25, 0.5, 0.75], axis=0)
            reached = np.flatnonzero(middle >= target)
            summary[sampler][kind] = {
                "share": [round(float(value), 4) for value in middle],
                "quartiles": [[round(float(v), 4) for v in side] for side in (low, high)],
                "trainings_to_target": int(reached[0]) + 1 if len(reached) else None,
            }
    return summary
