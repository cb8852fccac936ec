"""A model of quality: what every network of a space would score, and how sure that is.

Each training is a noisy measurement, and no network is trained often. So all of them are pooled by
a Bayesian regression (equally a Gaussian process: its weights are integrated out). What a training
measures is the sum of

- a level for each budget, of which nothing is known before;
- for each knob an effect of its choices, half of it along their order where they have one;
- effects of log parameters and log MACs;
- interactions of all pairs of knobs;
- what knobs and size do differently at a shorter budget than the longest;
- what the network has beyond all that, the same each time it is trained;
- noise, of which half stays when the same training goes on to a longer budget, and more of it the
  shorter the budget.

How large each of these is (one variance for each knob) has a log-normal prior and is integrated out
too, by draws from a normal approximation around the largest posterior density: with few trainings
nothing is taken to be zero, least of all noise.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from archsearch.search_space.space import Dimension, label

Array = NDArray[np.float64]

LEVEL_VARIANCE = 100.0
"""Prior variance of a budget's level, in variances of what was measured: as good as unknown."""
PRIOR_SPREAD = 1.0
"""Standard deviation of the logarithm of each component's standard deviation."""
PRIORS = {"knob": 0.3, "size": 0.5, "pairs": 0.1, "budget": 0.2, "network": 0.2, "noise": 0.3}
"""Median of each component's standard deviation, in standard deviations of what was measured."""
JITTER = 1e-8
VARIANCE_DRAWS = 16
AT_ONCE = 250
"""Networks whose covariances are computed together where only their variances are asked for."""
MOST = 400
"""Trainings that a model rests on at most, the latest: its time grows with their cube."""


@dataclass(frozen=True)
class Design:
    """A network as the model sees it."""

    point: Mapping[str, Any]
    """Label of the choice of each active dimension."""
    params: float
    macs: float
    network: str
    """Names the network: equal names are one network."""


@dataclass(frozen=True)
class Measurement:
    """What one training measured."""

    design: Design
    value: float
    budget: int
    training: str
    """Names the training: equal names are one training after several budgets."""


@dataclass(frozen=True)
class Posterior:
    """What is believed of the true quality of several networks after the longest budget."""

    mean: Array
    """(N,)"""
    covariance: Array
    """(N, N)"""

    @property
    def deviation(self) -> Array:
        """(N,): standard deviation of each."""
        found: Array = np.sqrt(np.maximum(np.diag(self.covariance), 0.0))
        return found

    def draws(self, count: int, seed: int = 0) -> Array:
        """Joint draws, (count, N)."""
        normal = np.random.default_rng(seed).standard_normal((count, len(self.mean)))
        values, vectors = np.linalg.eigh(self.covariance)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        found: Array = self.mean + normal @ root.T
        return found


class Surrogate:
    """The model, fitted.

    Args:
        dimensions: Of the space.
        measured: What was measured, at least one.
        budget: The longest budget: quality means quality after it.
        fit: Whether to fit the components' variances; else they are those of the priors, as for a
            design that is made before anything is measured.
        log_variances: What a fit to the same has found before, instead of another fit.
    """

    def __init__(
        self,
        dimensions: Mapping[str, Dimension],
        measured: Sequence[Measurement],
        budget: int,
        fit: bool = True,
        log_variances: ArrayLike | None = None,
    ) -> None:
        measured = measured[-MOST:]
        self.budget = budget
        self._knobs = {
            name: [label(value) for value in each.values]
            for name, each in dimensions.items()
            if len(each.values) > 1
        }
        self._designs = [each.design for each in measured]
        self._times = np.array(
            [math.log2(max(1, each.budget) / max(1, budget)) for each in measured]  # 0: untrained
        )
        budgets = [each.budget for each in measured]
        values = np.array([each.value for each in measured], dtype=np.float64)
        self._levels = {b: float(np.mean(values[np.equal(budgets, b)])) for b in set(budgets)}
        residuals = values - [self._levels[b] for b in budgets]
        self.scale = float(residuals.std()) or 1e-3 * abs(float(values.mean())) or 1.0
        self._targets = residuals / self.scale
        self._sizes = self._size_scaling()
        self._trainings = np.array([each.training for each in measured])
        self._lower = np.tril_indices(len(measured))  # covariances are symmetric: half says all
        alike = np.equal.outer(budgets, budgets).astype(np.float64)
        self._level = LEVEL_VARIANCE * alike[self._lower]
        sizes = ("size params", "size MACs")
        rest = ("pairs", "budget", "network", "noise", "noise early")
        self._names = [*(f"knob {name}" for name in self._knobs), *sizes, *rest]
        self._prior = np.array(
            [2 * math.log(PRIORS[name.partition(" ")[0]]) for name in self._names]
        )
        if log_variances is not None:
            self.log_variances: Array = np.asarray(log_variances, dtype=np.float64)
        else:
            alone = not fit or len(measured) < 2
            self.log_variances = self._prior[None, :] if alone else self._fit()

    # Kernels

    @cached_property
    def _stack(self) -> Array:
        """Every component's covariance of what was measured, at unit variance: lower triangles."""
        parts = self._components(self._designs, self._designs, self._times, self._times)
        same = (self._trainings[:, None] == self._trainings[None, :]).astype(np.float64)
        parts["noise"] = (same + np.eye(len(same))) / 2
        parts["noise early"] = parts["noise"] * np.outer(self._times, self._times)
        return np.stack([parts[name][self._lower] for name in self._names])

    def _size_scaling(self) -> tuple[Array, Array]:
        sizes = np.array([_size(design) for design in self._designs])
        return sizes.mean(axis=0), np.maximum(sizes.std(axis=0), 0.1)

    def _components(
        self,
        ours: Sequence[Design],
        theirs: Sequence[Design],
        our_times: Array,
        their_times: Array,
        paired: bool = False,
    ) -> dict[str, Array]:
        """Prior covariance of every part of quality at unit variance, (len(ours), len(theirs)); of
        each with the one in its place if ``paired``, (len(ours),).
        """
        outer = np.multiply if paired else np.multiply.outer
        found: dict[str, Array] = {}
        for name, labels in self._knobs.items():
            rows = {each: row for row, each in enumerate(labels)}
            left, right = (
                # Behind the last where the dimension is not active.
                [rows[d.point[name]] if name in d.point else len(labels) for d in side]
                for side in (ours, theirs)
            )
            kernel = _choice_kernel(labels)
            found[f"knob {name}"] = kernel[left, right] if paired else kernel[np.ix_(left, right)]
        mean, spread = self._sizes
        one, other = (
            (np.array([_size(d) for d in side]).reshape(-1, 2) - mean) / spread
            for side in (ours, theirs)
        )
        for i, name in enumerate(("params", "MACs")):
            found[f"size {name}"] = np.asarray(outer(one[:, i], other[:, i]), np.float64)
        knobs = list(found.values())
        total, squares = sum(knobs), sum(each * each for each in knobs)
        count = max(1, len(knobs))
        found["pairs"] = np.asarray((total * total - squares) / count)
        found["budget"] = np.asarray(total * outer(our_times, their_times))
        mine, others = (np.array([d.network for d in side]) for side in (ours, theirs))
        equal = mine == others if paired else mine[:, None] == others[None, :]
        found["network"] = equal.astype(np.float64)
        return found

    # Fit

    def _covariance(self, log_variances: Array) -> Array:
        """Of what was measured; the lower triangle."""
        found: Array = JITTER * np.eye(len(self._targets))
        found[self._lower] += self._level + np.exp(log_variances) @ self._stack
        return found

    def _fit(self) -> Array:
        """Draws of the logarithms of the components' variances, (VARIANCE_DRAWS, components)."""
        from scipy.linalg import cho_solve, cholesky
        from scipy.linalg.lapack import dpotri
        from scipy.optimize import minimize

        spread = (2 * PRIOR_SPREAD) ** 2
        row, column = self._lower
        often = np.where(row == column, 1.0, 2.0)  # in the whole matrix

        def loss(log_variances: Array) -> tuple[float, Array]:
            lower = cholesky(self._covariance(log_variances), lower=True)
            weights = cho_solve((lower, True), self._targets)
            inverse = dpotri(lower, lower=1)[0][self._lower]
            apart = log_variances - self._prior
            value = self._targets @ weights / 2 + np.log(np.diag(lower)).sum()
            inner = often * (inverse - weights[row] * weights[column])
            slopes = np.exp(log_variances) * (self._stack @ inner) / 2
            return float(value + (apart**2).sum() / (2 * spread)), slopes + apart / spread

        bounds = [(prior - 12.0, prior + 6.0) for prior in self._prior]
        best = minimize(loss, self._prior, jac=True, method="L-BFGS-B", bounds=bounds).x
        step = 0.1
        curvature = np.array(
            [(loss(best + each)[1] - loss(best - each)[1]) / (2 * step)
             for each in step * np.eye(len(best))]
        )  # fmt: skip
        values, vectors = np.linalg.eigh((curvature + curvature.T) / 2)
        # Nothing is less certain than the prior left it.
        root = vectors / np.sqrt(np.maximum(values, 1 / spread))
        normal = np.random.default_rng(0).standard_normal((VARIANCE_DRAWS // 2, len(best)))
        drawn: Array = best + np.concatenate([normal, -normal]) @ root.T
        return drawn

    @cached_property
    def _solved(self) -> list[tuple[Array, Array]]:
        """For every draw the covariance's lower triangle and the weights of what was measured."""
        from scipy.linalg import cho_solve, cholesky

        lowers = [cholesky(self._covariance(drawn), lower=True) for drawn in self.log_variances]
        return [(lower, cho_solve((lower, True), self._targets)) for lower in lowers]

    # Answers

    def deviations(self) -> dict[str, float]:
        """Standard deviation of every component, in units of the quality; ``noise`` is that between
        trainings of one network that differ in their seeds.
        """
        mean = np.exp(self.log_variances).mean(axis=0)
        return dict(zip(self._names, (self.scale * np.sqrt(mean)).tolist(), strict=True))

    def posterior(self, designs: Sequence[Design], apart: bool = True) -> Posterior:
        """What is believed of networks, trained ones or not, after the longest budget.

        Args:
            designs: The networks.
            apart: Whether what each network has beyond knobs and size counts: in its quality it
                does, in an effect of a knob it does not.
        """
        from scipy.linalg import solve_triangular

        used = self._used(apart)
        variances = np.exp(self.log_variances[:, used])  # (draws, parts)
        none = np.zeros(len(designs))
        crosses = self._crosses(designs, used)
        own = self._reached * LEVEL_VARIANCE + self._weighted(
            variances.mean(axis=0), self._components(designs, designs, none, none), used
        )
        means: list[Array] = []
        known: Array = np.zeros((len(designs), len(designs)))
        for cross, (lower, weights) in zip(crosses, self._solved, strict=True):
            means.append(cross @ weights)
            half: Array = solve_triangular(lower, cross.T, lower=True)
            known += half.T @ half
        mean = np.mean(means, axis=0)
        apart_means = np.array(means) - mean
        covariance = (
            own - known / len(self.log_variances) + apart_means.T @ apart_means / len(means)
        )
        level, scale = self._level_reached, self.scale
        return Posterior(level + scale * mean, scale**2 * (covariance + covariance.T) / 2)

    @property
    def _reached(self) -> bool:
        """Whether anything was trained for the longest budget."""
        return bool((self._times == 0.0).any())

    @property
    def _level_reached(self) -> float:
        # Where nothing has got to the longest budget yet, the order is known but not the level.
        return self._levels[self.budget if self._reached else max(self._levels)]

    def _used(self, apart: bool) -> list[int]:
        """The parts that quality has, noise aside."""
        return [
            i
            for i, name in enumerate(self._names)
            if not name.startswith("noise") and (apart or name != "network")
        ]

    def _weighted(self, by: Array, parts: Mapping[str, Array], used: Sequence[int]) -> Array:
        stacked = np.stack([parts[self._names[i]] for i in used])
        return np.asarray(np.tensordot(by, stacked, 1), dtype=np.float64)

    def _crosses(self, designs: Sequence[Design], used: Sequence[int]) -> Array:
        """Covariance with what was measured, (draws, len(designs), measured)."""
        none = np.zeros(len(designs))
        parts = self._components(designs, self._designs, none, self._times)
        shared = LEVEL_VARIANCE * (self._times == 0.0)[None, :]
        found: Array = shared + self._weighted(np.exp(self.log_variances[:, used]), parts, used)
        return found

    def marginals(
        self, designs: Sequence[Design], less: Design | None = None
    ) -> tuple[Array, Array]:
        """What is believed of each of many networks by itself: means and standard deviations, (N,)
        each. Their covariances, whose number grows with their square, are never computed.

        Args:
            designs: The networks.
            less: Tell of each the difference from this network.
        """
        found = [
            self._marginals(designs[start : start + AT_ONCE], less)
            for start in range(0, len(designs), AT_ONCE)
        ]
        means, deviations = zip(*found, strict=True) if found else ([np.zeros(0)], [np.zeros(0)])
        return np.concatenate(means), np.concatenate(deviations)

    def _marginals(self, designs: Sequence[Design], less: Design | None) -> tuple[Array, Array]:
        from scipy.linalg import solve_triangular

        used = self._used(apart=True)
        average = np.exp(self.log_variances[:, used]).mean(axis=0)
        none, alone = np.zeros(len(designs)), np.zeros(1)
        paired = self._components(designs, designs, none, none, paired=True)
        own = self._weighted(average, paired, used)
        crosses, level = self._crosses(designs, used), self._level_reached
        if less is None:
            own = own + self._reached * LEVEL_VARIANCE
        else:
            beside = self._components([less], designs, alone, none)
            theirs = self._components([less], [less], alone, alone, paired=True)
            own = own + self._weighted(average, theirs, used)
            own = own - 2 * self._weighted(average, beside, used)[0]
            crosses, level = crosses - self._crosses([less], used), 0.0
        means: list[Array] = []
        known: Array = np.zeros(len(designs))
        for cross, (lower, weights) in zip(crosses, self._solved, strict=True):
            means.append(cross @ weights)
            half: Array = solve_triangular(lower, cross.T, lower=True)
            known += np.einsum("ij,ij->j", half, half)
        variance = own - known / len(self.log_variances) + np.var(means, axis=0)
        deviation: Array = np.sqrt(np.maximum(variance, 0.0))
        return level + self.scale * np.mean(means, axis=0), self.scale * deviation


def _size(design: Design) -> tuple[float, float]:
    return math.log(design.params), math.log(design.macs)


def _choice_kernel(labels: Sequence[Any]) -> Array:
    """Prior covariance of the effects of a knob's choices, the last row for none at all."""
    count = len(labels)
    found = np.eye(count + 1)
    if count > 2 and all(isinstance(each, int | float) for each in labels):
        steps = np.append(np.linspace(-1.0, 1.0, count), 0.0)
        found = found / 2 + np.outer(steps, steps) / 2
    return found
