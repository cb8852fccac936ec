"""ncnn on the CPU, in float32. Needs an environment of its own: packages ncnn and pnnx."""

import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from archsearch.errors import ArchsearchError, import_package
from archsearch.runtimes.base import Array, Runtime


# A loaded network. ncnn knows no batch: inside, inputs and output are without that dimension, which
# is 1.
class _NcnnSession:
    def __init__(
        self,
        ncnn: Any,
        param: Path,
        weights: Path,
        inputs: tuple[Tensor, ...],
        shape: tuple[int, ...],
        threads: int,
    ) -> None:
        self._net = ncnn.Net()
        options = self._net.opt
        options.num_threads = threads
        options.use_vulkan_compute = False
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
        options.use_bf16_storage = False
        if self._net.load_param(str(param)) or self._net.load_model(str(weights)):
            raise ArchsearchError(f"ncnn cannot load what pnnx made of it{_foreign_layers(param)}.")
        unbatched = [tensor.squeeze(0) if tensor.ndim > 1 else tensor for tensor in inputs]
        arrays = [
            np.ascontiguousarray(x.to(torch.int32 if x.dtype == torch.int64 else x.dtype).numpy())
            for x in unbatched
        ]
        # pnnx calls them in0, in1, …, and drops those that the graph does not use. ncnn gets copies
        # of its own: a first layer that works in place would overwrite numpy's array, and crash.
        self._feed = [
            (name, ncnn.Mat(arrays[int(name.removeprefix("in"))]).clone())
            for name in self._net.input_names()
        ]
        # unused inputs are listed among the outputs too
        (self._output,) = (name for name in self._net.output_names() if name.startswith("out"))
        self._shape = shape

    def run(self) -> list[Array]:
        # the output is copied: it lies in a pool of the network's, and would go with it
        extractor = self._net.create_extractor()
        for name, mat in self._feed:
            extractor.input(name, mat)
        code, output = extractor.extract(self._output)
        if code:
            raise ArchsearchError(f"ncnn cannot run it (code {code}).")
        return [np.array(output).reshape(self._shape)]


class NcnnRuntime(Runtime):
    """ncnn with pnnx's converter, from TorchScript: fused, channels packed by 4 to 16, Winograd
    where it pays.
    """

    name = "ncnn"
    library = "ncnn"
    packages = ("ncnn", "pnnx")
    graph_level = "pnnx level 2"

    @override
    def convert(
        self, module: nn.Module, inputs: tuple[Tensor, ...], folder: Path, threads: int = 1
    ) -> _NcnnSession:
        ncnn, pnnx = (import_package(package) for package in self.packages)
        if any(tensor.shape[0] != 1 for tensor in inputs):
            raise ArchsearchError(
                "ncnn takes batch 1 only, but got inputs of "
                f"{[tuple(tensor.shape) for tensor in inputs]}."
            )
        source, param, weights = (
            folder / f"module.{ending}" for ending in ("pt", "ncnn.param", "ncnn.bin")
        )
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            traced = torch.jit.trace(module.eval(), inputs, check_trace=False)  # type: ignore[no-untyped-call]
            traced.save(str(source))
            shape = tuple(traced(*inputs).shape)
        kinds = {torch.float32: "f32", torch.int64: "i64"}
        shapes = ",".join(
            f"{list(tensor.shape)}{kinds[tensor.dtype]}".replace(" ", "") for tensor in inputs
        )
        made = subprocess.run(  # pnnx.convert would also run the Python code that pnnx writes
            [pnnx.EXEC_PATH, str(source), f"inputshape={shapes}", "fp16=0"],
            capture_output=True,
            text=True,
            cwd=folder,
            check=False,
        )
        if made.returncode or not param.is_file() or not weights.is_file():
            said = (made.stderr.strip() or made.stdout.strip()).splitlines()[-1:]
            raise ArchsearchError(
                f"pnnx cannot convert it (exit code {made.returncode}): "
                f"{''.join(said) or 'it does not say why'}."
            )
        return _NcnnSession(ncnn, param, weights, inputs, shape, threads)


def _foreign_layers(param: Path) -> str:
    layers = param.read_text(encoding="utf-8").splitlines()[2:]
    kinds = {layer.split()[0] for layer in layers if layer.strip()}
    foreign = sorted(kind for kind in kinds if "." in kind or ":" in kind)
    return f": it has no layer for {', '.join(foreign)}" if foreign else ""
