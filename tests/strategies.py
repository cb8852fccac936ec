"""Hypothesis strategies for small architectures: every knob, sizes that a test can build."""

from typing import Any

from hypothesis import strategies as st

from archsearch.unet.config import UNetConfig

LAYERS = [
    [],
    ["sa"],
    ["ca"],
    ["ff"],
    ["sa", "ca"],
    ["ca", "ff"],
    ["sa", "ca", "ff"],
    ["ff", "sa"],
    ["norm", "ca", "ff"],
]

blocks = st.one_of(
    st.just({}),
    st.builds(
        lambda count, layers: {"transformers": count, "layers": layers},
        st.integers(0, 2),
        st.sampled_from(LAYERS),
    ),
    st.builds(lambda lists: {"transformers": lists}, st.lists(st.sampled_from(LAYERS), max_size=2)),
)

heads = st.one_of(
    st.builds(lambda n: {"heads": n}, st.sampled_from([1, 2, 4, 8])),
    st.builds(lambda n: {"head_dim": n}, st.sampled_from([1, 4, 8])),
)


def _some(options: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=options)


attentions = st.builds(
    lambda options, sizes: options | sizes,
    _some(
        {
            "kv": st.sampled_from(["separate", "shared", "shared_everywhere"]),
            "normalizer": st.sampled_from(["softmax", "relu", "linear", "linear_everywhere"]),
            "kv_heads": st.just(1),
            "qk_norm": st.sampled_from(["none", "rms"]),
            "kv_compression": st.sampled_from(["none", "conv"]),
        }
    ),
    st.one_of(st.just({}), heads),
)
feed_forwards = _some(
    {
        "expansion": st.sampled_from([2, 4, 6, 8]),
        "activation": st.sampled_from(["gelu", "geglu", "silu", "swiglu", "relu"]),
    }
)
convs = st.sampled_from(["full", "separable", "expanded", "inverted"])
projections = st.sampled_from(["conv", "linear"])
added = _some(
    {
        "text_dim": st.sampled_from([None, 1, 40]),
        "ids": st.integers(1, 7),
        "id_dim": st.sampled_from([2, 6, 64]),
    }
)


@st.composite
def config_data(draw: st.DrawFn) -> dict[str, Any]:
    """A small architecture as a user may write it, with or without what is default anyway; always
    one that can be built.
    """
    sides = st.lists(blocks, min_size=1, max_size=3)
    stage = st.builds(
        lambda required, optional: required | optional,
        st.fixed_dictionaries(
            {"channels": st.sampled_from([8, 16, 24]), "down": sides, "up": sides}
        ),
        _some(
            {
                "flat": st.sampled_from([False, False, True]),
                "conv": convs,
                "projection": projections,
                "attention": attentions,
                "feed_forward": feed_forwards,
            }
        ),
    )
    return draw(
        st.builds(
            lambda required, optional: required | optional,
            st.fixed_dictionaries(
                {
                    "norm_groups": st.sampled_from([1, 4, 8]),
                    "sample_size": st.sampled_from([4, 8]),
                    "context_dim": st.integers(1, 12),
                    "context_tokens": st.integers(1, 6),
                    "in_channels": st.integers(1, 5),
                    "out_channels": st.integers(1, 5),
                    "stages": st.lists(stage, min_size=1, max_size=3),
                }
            ),
            _some(
                {
                    "middle": st.lists(blocks, max_size=2),
                    "time_width": st.sampled_from([8, 32, 96, 512]),
                    "added": added,
                    "guidance_dim": st.sampled_from([None, 4, 40]),
                    "conv": convs,
                    "projection": projections,
                    "attention": attentions,
                    "feed_forward": feed_forwards,
                }
            ),
        )
    )


def _sizes(data: dict[str, Any]) -> list[int]:
    sizes = [data["sample_size"]]
    for stage in data["stages"][1:]:
        sizes.append(sizes[-1] if stage.get("flat") else sizes[-1] // 2)
    return sizes


def _normalises(data: dict[str, Any]) -> bool:
    """Whether every norm has more than one value a group: not so on one pixel with as many
    channels, own or entering, as groups.
    """
    return all(
        size > 1
        or data["norm_groups"]
        not in [stage["channels"] for stage in data["stages"][max(index - 1, 0) : index + 1]]
        for index, size in enumerate(_sizes(data))
    )


def _compresses(data: dict[str, Any]) -> bool:
    """Whether keys and values can be compressed where they are: not on one pixel."""
    return _sizes(data)[-1] > 1 or "'kv_compression': 'conv'" not in repr(data)


configs = (
    config_data()
    .map(lambda data: data | {"stages": [data["stages"][0] | {"flat": False}, *data["stages"][1:]]})
    .filter(_normalises)
    .filter(_compresses)
    .map(UNetConfig.model_validate)
)
