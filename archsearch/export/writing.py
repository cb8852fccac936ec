"""What every exporter does: refuse to overwrite, write aside, build the network, and say what the
card of the export is to tell of it.
"""

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from archsearch.errors import ArchsearchError, InputError
from archsearch.runtimes.base import Array
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet
from archsearch.unet.weights import load_weights

# Folders that are an export by their names and may be replaced.
COREML_SUFFIX, COREAI_SUFFIX = ".mlpackage", ".aimodel"
OUTPUT = "prediction"
# Largest difference from torch of an export in float32, as a share of the largest output; and of
# one in float16, which torch itself rounds by 0.002, and linear attention by up to 0.04.
TOLERANCE = 1e-3
TOLERANCE_FLOAT16 = 0.1
METADATA = "archsearch.config"  # under this name a file holds its architecture


@dataclass(frozen=True, slots=True)
class Exported:
    """What is known of a file beside its architecture, for its card.

    Attributes:
        facts: What it holds and what was measured of it while it was written: in words, by name.
        load: The lines that load it, to be run in its folder.
        language: Of these lines.
        operators: How many operators of each kind it has; empty where it has none, or where they
            were not counted.
        outside: Of these, the ones that an accelerator does not take.
    """

    facts: Mapping[str, str]
    load: str
    language: str = "python"
    operators: Mapping[str, int] = field(default_factory=dict)
    outside: Mapping[str, int] = field(default_factory=dict)


def check_target(path: Path, force: bool, files: Collection[str] = ()) -> None:
    """Refuse to overwrite.

    Args:
        path: What is to be written.
        force: Overwrite what is there.
        files: Where the export is a folder, the names of the files in it: a folder that holds
            anything else is nobody's export.

    Raises:
        InputError: ``path`` is there and ``force`` is not given, or it is a folder that no export
            has written.
    """
    if path.is_dir() and files:
        if others := sorted({item.name for item in path.iterdir()} - set(files)):
            raise InputError(
                f"{path}: is a folder that holds {others[0]}; only a folder of "
                f"{', '.join(files)} is replaced."
            )
    elif path.is_dir() and path.suffix not in (COREML_SUFFIX, COREAI_SUFFIX):
        raise InputError(f"{path}: is a folder; give the path of the file to write.")
    if os.path.lexists(path) and not force:
        raise InputError(
            f"{path}: is there already; give another path, or --force to overwrite it."
        )


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Give a folder beside ``path`` to write in; what is called as ``path`` in it, and all else in
    it, then takes its place.

    Raises:
        ArchsearchError: The folder of ``path`` cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(
            dir=path.parent, prefix=f".{path.name}.", ignore_cleanup_errors=True
        ) as name:
            folder = Path(name)
            yield folder
            # What the main file refers to goes first, so that it never points to nothing.
            for new in sorted(folder.iterdir(), key=lambda item: item.name == path.name):
                old = path.with_name(new.name)
                if os.path.lexists(old) and (new.is_dir() or old.is_dir()):
                    # No rename replaces a folder: it is moved aside first.
                    os.replace(old, folder / f".old.{old.name}")
                os.replace(new, old)
    except OSError as error:
        raise ArchsearchError(f"{path}: cannot be written: {error.strerror or error}.") from error


def build(config: UNetConfig, weights: Path | None, seed: int = 0) -> UNet:
    """Build the network in evaluation mode.

    Args:
        config: The architecture.
        weights: A safetensors file of its state dict, under our names or diffusers'; None for
            random weights.
        seed: Of random weights; torch's own random state is left alone.

    Raises:
        InputError: The file cannot be read, or its tensors are not those of the network; the
            message says which.
    """
    if weights is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return UNet(config).eval()
    given = load_weights(config, weights)
    with torch.device("meta"):  # no memory, no random numbers: every tensor is given
        network = UNet(config).eval()
    network.load_state_dict(given, assign=True)
    return network


def difference(got: Array, wanted: Array) -> float:
    """Largest difference of two outputs, as a share of the largest value wanted."""
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


def check_close(error: float, path: Path, runtime: str, half: bool = False) -> None:
    """Refuse an export in float32, or in float16 (``half``), that computes something else than
    torch does in float32.

    Raises:
        ArchsearchError: It does.
    """
    allowed = TOLERANCE_FLOAT16 if half else TOLERANCE
    if not error <= allowed:
        raise ArchsearchError(
            f"{path}: {runtime}'s output differs from torch's by {error:.1e}, allowed are "
            f"{allowed:.0e}."
        )
