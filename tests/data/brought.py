"""Tiny real models as a user would bring them: CLIP, T5, autoencoders."""

import json
from pathlib import Path
from typing import Any

import torch

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789-'#.,()"
CLIP_WORDS = [*LETTERS, *(f"{c}</w>" for c in LETTERS), "<|startoftext|>", "<|endoftext|>"]


def clip_tokenizer(folder: Path) -> None:
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(CLIP_WORDS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)


def clip(folder: Path, kind: str = "CLIPTextModel", tokenizer: bool = True) -> Path:
    import transformers

    torch.manual_seed(0)
    last = len(CLIP_WORDS) - 1
    shared = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = shared | {"vocab_size": last + 1, "max_position_embeddings": 24, "projection_dim": 8}
    text |= {"bos_token_id": last - 1, "eos_token_id": last, "pad_token_id": last}
    if kind == "CLIPModel":
        vision = shared | {"image_size": 32, "patch_size": 8}
        config: Any = transformers.CLIPConfig(
            text_config=text, vision_config=vision, projection_dim=8
        )
    else:
        config = transformers.CLIPTextConfig(**text)
    getattr(transformers, kind)(config).save_pretrained(folder)
    if tokenizer:
        clip_tokenizer(folder)
    return folder


def t5(folder: Path, kind: str = "T5EncoderModel") -> Path:
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    torch.manual_seed(0)
    vocab = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(
        folder
    )
    config = transformers.T5Config(
        vocab_size=len(vocab), d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=2
    )
    getattr(transformers, kind)(config).save_pretrained(folder)
    return folder


def kl(folder: Path, channels: int = 4, **more: Any) -> Path:
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    blocks = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
    }
    sizes = {"block_out_channels": (8, 8, 8), "norm_num_groups": 4, "latent_channels": channels}
    AutoencoderKL(**(blocks | sizes | more)).save_pretrained(folder)
    return folder


def tiny(folder: Path, channels: int = 4) -> Path:
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    sides = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    counts = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    AutoencoderTiny(**sides, **counts, latent_channels=channels).save_pretrained(folder)
    return folder
