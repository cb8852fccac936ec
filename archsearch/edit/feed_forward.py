"""Feed-forward layers with another expansion or activation, from trained ones.

A hidden unit is its gate row (or, where not gated, its only row), the value row beside it, and its column in the layer back.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from archsearch.edit.maps import State, first, keep_best, take
from archsearch.unet import units
from archsearch.unet.layers import ACTIVATIONS
from archsearch.unet.options import GATED

GELU_AS_SILU = 1.702
"""GELU(x) ≈ x·σ(1.702·x) = SiLU(1.702·x)/1.702 (Hendrycks and Gimpel, arXiv 1606.08415, section 2)."""
SMOOTH = {"gelu": 1.0, "geglu": 1.0, "silu": GELU_AS_SILU, "swiglu": GELU_AS_SILU, "relu": 1.0}


@dataclass(frozen=True, slots=True)
class _Hidden:
    """Rows (N, C + 1) with the bias as last column, the value's where gated; columns back (C, N) and their bias (C,)."""

    gate: Tensor
    value: Tensor | None
    back: Tensor
    bias: Tensor


def inherit_feed_forward(state: State, source: units.FeedForward, target: units.FeedForward, stream: Tensor, fresh: State) -> State:
    """Thin a feed-forward layer to the channels ``stream`` and to the target's hidden units, and change its activation.

    Hidden units are kept by the product of the norms of their rows and column; new ones start from ``fresh`` with a column of zero,
    which leaves the output as it was. GELU and SiLU follow one another by scaling (their closest forms differ by 0.02). A plain
    layer becomes gated exactly, by a value of one. A gated one becomes plain by the best line through each unit's response, were
    the normalised input Gaussian.
    """
    norm = {name: take(state[name], 0, stream) for name in ("norm.weight", "norm.bias")}
    hidden = _thin(_read(state, source.activation in GATED), stream)
    if hidden.value is not None and target.activation not in GATED:
        hidden = _drop_value(hidden, norm, ACTIVATIONS[source.activation])
    elif hidden.value is None and target.activation in GATED:
        ones = torch.zeros_like(hidden.gate)
        ones[:, -1] = 1
        hidden = _Hidden(hidden.gate, ones, hidden.back, hidden.bias)
    hidden = _resize(hidden, _read(fresh, target.activation in GATED))
    scale = SMOOTH[target.activation] / SMOOTH[source.activation]
    return norm | _write(_Hidden(hidden.gate * scale, hidden.value, hidden.back / scale, hidden.bias))


def _read(state: State, gated: bool) -> _Hidden:
    rows = torch.cat([state["expand.weight"], state["expand.bias"][:, None]], dim=1)
    value, gate = rows.chunk(2) if gated else (None, rows)
    return _Hidden(gate, value, state["contract.weight"], state["contract.bias"])


def _write(hidden: _Hidden) -> State:
    rows = hidden.gate if hidden.value is None else torch.cat([hidden.value, hidden.gate])
    return {
        "expand.weight": rows[:, :-1].contiguous(),
        "expand.bias": rows[:, -1].contiguous(),
        "contract.weight": hidden.back,
        "contract.bias": hidden.bias,
    }


def _thin(hidden: _Hidden, stream: Tensor) -> _Hidden:
    columns = torch.cat([stream, torch.tensor([hidden.gate.shape[1] - 1])])
    value = None if hidden.value is None else take(hidden.value, 1, columns)
    return _Hidden(take(hidden.gate, 1, columns), value, take(hidden.back, 0, stream), take(hidden.bias, 0, stream))


def _resize(hidden: _Hidden, fresh: _Hidden) -> _Hidden:
    """As many hidden units as ``fresh`` has: the most important ones, or all of them and then its own, unheard."""
    have, want = len(hidden.gate), len(fresh.gate)
    if want > have:
        value = None
        if hidden.value is not None and fresh.value is not None:
            value = torch.cat([hidden.value, fresh.value[have:]])
        return _Hidden(torch.cat([hidden.gate, fresh.gate[have:]]), value, take(hidden.back, 1, first(have, want)), hidden.bias)
    importance = hidden.gate.norm(dim=1) * hidden.back.norm(dim=0)
    if hidden.value is not None:
        importance = importance * hidden.value.norm(dim=1)
    kept = keep_best(importance, want)
    value = None if hidden.value is None else hidden.value[kept]
    return _Hidden(hidden.gate[kept], value, hidden.back[:, kept], hidden.bias)


def _drop_value(hidden: _Hidden, norm: State, activation: Callable[[Tensor], Tensor]) -> _Hidden:
    """Replace each unit's value · activation(gate) by the least-squares line slope · activation(gate) + offset.

    With z the normalised input before scale and shift, taken as standard normal, value and gate are jointly normal with moments
    that follow from their rows; the expectation over the gate is a sum over Gauss–Hermite nodes.
    """
    assert hidden.value is not None
    scale, shift = norm["norm.weight"].double(), norm["norm.bias"].double()
    gate, value = hidden.gate.double(), hidden.value.double()
    mean_gate = gate[:, :-1] @ shift + gate[:, -1]
    mean_value = value[:, :-1] @ shift + value[:, -1]
    variance = (gate[:, :-1] * scale).square().sum(dim=1).clamp(min=1e-12)
    covariance = (gate[:, :-1] * value[:, :-1] * scale.square()).sum(dim=1)
    nodes, weights = (torch.from_numpy(array) for array in np.polynomial.hermite_e.hermegauss(32))
    weights = weights / math.sqrt(2 * math.pi)
    at = mean_gate[:, None] + variance.sqrt()[:, None] * nodes  # (N, nodes)
    plain = activation(at)
    wanted = (mean_value[:, None] + (covariance / variance)[:, None] * (at - mean_gate[:, None])) * plain  # E[value | gate] · act
    mean_plain, mean_wanted = plain @ weights, wanted @ weights
    spread = (plain.square() @ weights - mean_plain.square()).clamp(min=1e-12)
    slope = ((plain * wanted) @ weights - mean_plain * mean_wanted) / spread
    offset = mean_wanted - slope * mean_plain
    back = hidden.back.double()
    return _Hidden(hidden.gate, None, (back * slope).float(), (hidden.bias.double() + back @ offset).float())
