"""Versions of what scores rest on, each raised whenever equal input would give another result:
stored scores are never mixed with those of another version.

They stand together here, without anything that computes, so that a run can be read without torch.
The versions of metrics stand with the metrics, in ``metrics/registry.py``.
"""

TRAINING = 3
"""Raised whenever the same key would give other weights."""
EVALUATION = 3
"""Raised whenever the same weights would have another held-out loss."""
SAMPLING = 2
"""Raised whenever a network would draw other pictures."""
PROMPTS = 1
"""Raised whenever equal data would give other captions to draw pictures of."""
QUANTISING = 1
"""Raised whenever a network would have another loss in int8."""
DISTILLING = {"progressive": 2, "ufogen": 3, "dmd": 2}
"""Each raised whenever a distillation by that method would make another network."""
ADAPTING = 1
"""Raised whenever an adapter would be trained to another."""
