"""What matters of published ``config.json`` files, and small ones of every form; keys left out have
diffusers' default.
"""

from typing import Any

from hypothesis import strategies as st

SD15: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768}
SD21: dict[str, Any] = {
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
THREE_STAGES: dict[str, Any] = {
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3,
    "up_block_types": ["CrossAttnUpBlock2D"] * 3,
}
SDXL: dict[str, Any] = {
    "sample_size": 128,
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "use_linear_projection": True,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    # Written out in the published file, though without effect or as by default:
    "addition_embed_type_num_heads": 64,
    "num_attention_heads": None,
    "upcast_attention": None,
    "only_cross_attention": False,
}

PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "sd15": (SD15, 859_520_964),
    "sd21": (SD21, 865_910_724),
    "sdxl": (SDXL, 2_567_463_684),
    "bk-sdm-base": (SD15 | {"layers_per_block": 1}, 579_384_964),
    "bk-sdm-small": (SD15 | {"layers_per_block": 1, "mid_block_type": None}, 482_346_884),
    "bk-sdm-tiny": (
        SD15 | THREE_STAGES | {"layers_per_block": 1, "mid_block_type": None},
        323_384_964,
    ),
    "koala-700m": (
        SDXL
        | {
            "layers_per_block": 1,
            "transformer_layers_per_block": [0, 2, 5],
            "mid_block_type": None,
        },
        782_822_724,
    ),
    "koala-1b": (
        SDXL | {"layers_per_block": 1, "transformer_layers_per_block": [0, 2, 6]},
        1_161_184_324,
    ),
    "ssd-1b": (
        SDXL
        | {
            "mid_block_type": "UNetMidBlock2D",
            "transformer_layers_per_block": [0, [2, 2], [4, 4]],
            "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 0],
        },
        1_331_334_404,
    ),
    "vega": (
        SDXL
        | {
            "mid_block_type": "UNetMidBlock2D",
            "transformer_layers_per_block": [0, [1, 1], [2, 2]],
            "reverse_transformer_layers_per_block": [[2, 2, 2], [1, 1, 1], 0],
        },
        745_225_604,
    ),
}
"""The settings that matter, and the parameters of the UNet: the published counts, to as many digits
as are published.
"""
PUBLISHED["tiny-sd"] = PUBLISHED["bk-sdm-tiny"]  # the same UNet, trained by others


def small(data: dict[str, Any]) -> dict[str, Any]:
    """The same form at a size that a test can run: narrow stages, few channels of text."""
    widths = [16, 32, 64, 64][: len(data.get("block_out_channels", range(4)))]
    heads = data.get("attention_head_dim", 8)
    added = (
        {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 60}
        if "addition_embed_type" in data
        else {}
    )
    return {
        **data,
        **added,
        "sample_size": 16,
        "block_out_channels": widths,
        "norm_num_groups": 8,
        "cross_attention_dim": 24,
        "attention_head_dim": [width // 16 for width in widths]
        if isinstance(heads, list)
        else heads,
    }


@st.composite
def small_settings(draw: st.DrawFn) -> dict[str, Any]:
    """Settings that a UNetConfig can express, in all the ways of writing them."""
    stages = draw(st.integers(1, 3))

    def each(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
        return st.lists(values, min_size=stages, max_size=stages)

    depth, heads = st.integers(1, 3), st.sampled_from([1, 2, 4])
    blocks = draw(each(st.integers(1, 2)))
    one_each = draw(st.booleans())
    down = [
        draw(st.lists(depth, min_size=count, max_size=count)) if one_each else draw(depth)
        for count in blocks
    ]
    up = [
        draw(st.one_of(depth, st.lists(depth, min_size=count + 1, max_size=count + 1)))
        for count in blocks[::-1]
    ]
    added = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 60,
    }
    optional = st.fixed_dictionaries(
        {},
        optional={
            "use_linear_projection": st.booleans(),
            "time_embedding_dim": st.sampled_from([None, 32, 64]),
            "mid_block_type": st.sampled_from([None, "UNetMidBlock2D", "UNetMidBlock2DCrossAttn"]),
            "in_channels": st.integers(1, 9),
            "time_cond_proj_dim": st.sampled_from([None, 4, 16]),
        },
    )
    return {
        "sample_size": draw(st.sampled_from([8, [16, 16]])),
        "norm_num_groups": 4,
        "block_out_channels": draw(each(st.sampled_from([8, 16, 24]))),
        "cross_attention_dim": draw(st.sampled_from([12, [12] * stages])),
        "layers_per_block": draw(st.sampled_from([blocks, blocks[0]]))
        if len(set(blocks)) == 1
        else blocks,
        "transformer_layers_per_block": down,
        "reverse_transformer_layers_per_block": up if one_each or draw(st.booleans()) else None,
        "attention_head_dim": draw(st.one_of(heads, each(heads))),
        "down_block_types": draw(each(st.sampled_from(["DownBlock2D", "CrossAttnDownBlock2D"]))),
        "up_block_types": draw(each(st.sampled_from(["UpBlock2D", "CrossAttnUpBlock2D"]))),
        **draw(optional),
        **draw(st.sampled_from([{}, added])),
    }
