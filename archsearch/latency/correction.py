"""From sums of units to latencies of networks: the constant that a device needs."""

from collections.abc import Sequence

import numpy as np

from archsearch.errors import InputError
from archsearch.latency.lines import Correction


def fit_correction(pairs: Sequence[tuple[str, float, float]], with_offset: bool = False) -> Correction:
    """Fit ``measured = scale * sum (+ offset)`` on whole networks.

    The scale alone minimises the mean absolute relative error, so that one odd measurement does not bend it: it is the median
    of measured/sum, weighted by sum/measured. With an offset the squared relative error is minimised.

    Args:
        pairs: Digest, sum of the units' medians in ms and measured ms of each network.
        with_offset: Fit an offset too; takes three networks.

    Raises:
        InputError: Too few networks, or they ask for a scale that is not positive.
    """
    least = 3 if with_offset else 1
    if len(pairs) < least:
        raise InputError(
            f"a correction{' with offset' if with_offset else ''} is fitted on {least} or more networks, got {len(pairs)}"
        )
    sums, measured = np.array([pair[1] for pair in pairs]), np.array([pair[2] for pair in pairs])
    if with_offset:
        design = np.stack([sums / measured, 1 / measured], axis=1)  # (networks, 2)
        scale, offset = (float(value) for value in np.linalg.lstsq(design, np.ones(len(pairs)), rcond=None)[0])
    else:
        scale, offset = _weighted_median(measured / sums, sums / measured), 0.0
    if scale <= 0:
        raise InputError(f"the networks ask for a scale that is not positive ({scale=:.3g}): fit without offset or measure more")
    return Correction(scale=scale, offset=offset, fitted_on=[digest for digest, _, _ in pairs])


def _weighted_median(
    values: "np.ndarray[tuple[int], np.dtype[np.float64]]", weights: "np.ndarray[tuple[int], np.dtype[np.float64]]"
) -> float:
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    lower = int(np.searchsorted(cumulative, cumulative[-1] / 2))
    return float(values[order][lower])
