"""Where and in which precision a training computes."""

from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16", "fp16"]
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device() -> torch.device:
    """The accelerator torch sees, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def best_precision(device: torch.device) -> Precision:
    """bf16 where it is native (CUDA from Ampere, CPUs with AMX or AVX512-BF16), fp16 on older CUDA, else fp32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu":
        capability = torch.backends.cpu.get_cpu_capability() if hasattr(torch.backends.cpu, "get_cpu_capability") else ""
        checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        return "bf16" if capability.startswith("AVX512") and any(check and check() for check in checks) else "fp32"
    return "fp32"


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Compute in ``precision`` inside the block; fp32 leaves everything as it is."""
    return torch.autocast(device.type, _TYPES.get(precision, torch.bfloat16), enabled=precision in _TYPES)


def memory_format(device: torch.device, channels_last: bool | Literal["auto"]) -> torch.memory_format:
    """Layout of pictures in memory. ``auto``: channels last on CPU and CUDA, where convolutions are faster so; not on mps."""
    wanted = device.type in ("cpu", "cuda") if channels_last == "auto" else channels_last
    return torch.channels_last if wanted else torch.contiguous_format


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; the CPU's allocator has no class of its own for it."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )
