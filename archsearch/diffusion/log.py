"""What a training says of itself while it runs: a CSV file, and TensorBoard's events where they are asked for."""

import csv
from pathlib import Path
from typing import Any

from archsearch.errors import require_extra
from archsearch.files import write_text

COLUMNS = ("samples", "loss", "learning_rate", "gradient_norm", "seconds")


class TrainingLog:
    """Rows of a training by samples seen, appended as they come. Taken up again, what lies beyond the checkpoint is cut off.

    Args:
        folder: Where ``log.csv`` and the events go.
        samples: Pictures seen so far: rows up to there are kept.
        tensorboard: Whether events are written too.

    Raises:
        InputError: TensorBoard is asked for but not installed.
    """

    def __init__(self, folder: Path, samples: int = 0, tensorboard: bool = False) -> None:
        self.path = folder / "log.csv"
        self._writer = None if not tensorboard else _event_writer(folder, samples)
        kept = []
        if samples and self.path.is_file():
            with self.path.open(encoding="utf-8", newline="") as file:
                kept = [row for row in csv.DictReader(file) if _whole(row) and int(row["samples"]) <= samples]
        lines = [",".join(COLUMNS), *(",".join(row[name] for name in COLUMNS) for row in kept)]
        write_text(self.path, "\n".join(lines) + "\n")

    def write(self, **values: float) -> None:
        """Append a row with a value for every column."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(",".join(f"{values[name]:.8g}" for name in COLUMNS) + "\n")
        for name in COLUMNS[1:]:
            self.scalar(f"training/{name}", values[name], int(values["samples"]))

    def scalar(self, name: str, value: float, samples: int) -> None:
        """Add a number to the events; nothing where there are none."""
        if self._writer is not None:
            self._writer.add_scalar(name, value, samples)

    def close(self) -> None:
        """Write out what is pending."""
        if self._writer is not None:
            self._writer.close()


def _whole(row: dict[str, Any]) -> bool:
    """Whether a row was written to its end."""
    return None not in row and all(row.get(name) for name in COLUMNS) and row["samples"].isdigit()


def _event_writer(folder: Path, samples: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise require_extra("tensorboard", "logs") from None
    return SummaryWriter(str(folder), purge_step=samples + 1 if samples else None)
