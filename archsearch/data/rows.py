"""Tensors that grow row by row on disk and end as one safetensors file: what is larger than memory can be cached too."""

import json
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import torch
from torch import Tensor

_DTYPES = {torch.uint8: "U8", torch.int64: "I64", torch.float16: "F16", torch.float32: "F32", torch.float64: "F64"}


class _Spool:
    """The rows of one tensor so far, in a temporary file that has no name: nothing is left of it if the process dies."""

    def __init__(self, folder: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed with the writer
        self.dtype, self.shape, self.rows = dtype, shape, 0


class RowWriter:
    """Collects named tensors whose first dimension grows; use it in a ``with`` statement.

    Args:
        folder: Where the temporary files lie. It must have room for all rows.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._spools: dict[str, _Spool] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for spool in self._spools.values():
            spool.file.close()

    def append(self, name: str, rows: Tensor) -> None:
        """Add rows of shape (n, …) to the tensor ``name``; every call for a name gives the same dtype and shape of a row.

        Raises:
            ValueError: The dtype or the shape differs from that of the first rows.
            OSError: The disk is full.
        """
        rows = rows.detach().cpu().contiguous()
        shape = tuple(rows.shape[1:])
        spool = self._spools.get(name) or self._spools.setdefault(name, _Spool(self._folder, rows.dtype, shape))
        if (spool.dtype, spool.shape) != (rows.dtype, shape):
            raise ValueError(f"'{name}' has rows of {spool.dtype} {spool.shape}, but got {rows.dtype} {shape}.")
        spool.file.write(rows.numpy().tobytes())
        spool.rows += len(rows)

    def write(self, path: Path, metadata: dict[str, str]) -> None:
        """Write all tensors into the safetensors file ``path``.

        Raises:
            OSError: The disk is full.
        """
        # Wide numbers first: every tensor then begins at a multiple of its own width, as readers by memory map need it.
        ordered = sorted(self._spools.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
        header: dict[str, Any] = {"__metadata__": metadata}
        start = 0
        for name, spool in ordered:
            spool.file.flush()
            end = start + spool.file.seek(0, 2)
            header[name] = {"dtype": _DTYPES[spool.dtype], "shape": [spool.rows, *spool.shape], "data_offsets": [start, end]}
            start = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for _, spool in ordered:
                spool.file.seek(0)
                shutil.copyfileobj(spool.file, file, 1 << 20)
