"""The files that trainings leave, named by record: weights, and checkpoints from which a longer
budget goes on. They lie in the run's folder, and where other machines find them if there is such a
place.
"""

from collections.abc import Callable
from pathlib import Path

from archsearch import files
from archsearch.diffusion.spec import CHECKPOINT
from archsearch.study.rundir import RunDir, is_record_name, record_name

CHECKPOINT_BYTES = 2 * 1024**3
"""Checkpoints of finished trainings are kept up to this size in all, the latest first."""


class TrainingFiles:
    """Weights and checkpoints of one run.

    Args:
        run: Its folder.
    """

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self._places = run.artifacts
        self._dropped: set[str] = set()

    def weights(self, name: str) -> Path:
        """File of the weights of the record called ``name``; it may be gone, or on another machine:
        ``Store.load`` brings them, or makes them again.
        """
        return self.run.path / _weights(name)

    def fetch_weights(self, name: str) -> Path | None:
        """That file, brought here where another machine has it; None where nobody has."""
        return self._places.fetch(_weights(name))

    def share(self, name: str) -> None:
        """Put what a finished training leaves where other machines find it."""
        if self._places.shared:
            self._dropped.discard(name)
            self._places.push(_weights(name))
            self.share_checkpoint(name)
            # It is fetched for a longer budget: kept here too, it would count towards no quota.
            (self.run.training(name) / CHECKPOINT).unlink(missing_ok=True)

    def share_checkpoint(self, name: str) -> None:
        """Put the checkpoint of a training under way where other machines can go on from it."""
        self._places.push(_log(name), _checkpoint(name))

    def begin_from_furthest(self, key: str, name: str, steps: int) -> None:
        """Put into the folder of the training called ``name`` the checkpoint that has got furthest
        of all trainings under ``key``, this machine's and others', within ``steps``.
        """
        from archsearch.diffusion.trainer import steps_in

        self._fetch_checkpoints(key)
        folder = self.run.training(name)
        own = folder / CHECKPOINT
        found = {path: steps_in(path) for path in self.run.trainings.glob(f"{key}-*/{CHECKPOINT}")}
        within = [path for path, done in found.items() if done <= steps]
        furthest = max(within, key=lambda path: found[path], default=own)
        if furthest != own and found[furthest] > found.get(own, 0):
            folder.mkdir(parents=True, exist_ok=True)
            for part in ("log.csv", CHECKPOINT):  # the checkpoint last: it is what counts
                if (furthest.parent / part).is_file():
                    files.write_bytes(folder / part, (furthest.parent / part).read_bytes())

    def _fetch_checkpoints(self, key: str) -> None:
        """Bring here what other machines have of a training, where it has seen more."""
        from archsearch.diffusion.trainer import steps_in

        for artifact in self._places.found("training") if self._places.shared else ():
            name = Path(artifact.name).parent.name
            own = is_record_name(name) and name.startswith(f"{key}-")
            if not own or artifact.name != _checkpoint(name):
                continue
            folder = self.run.training(name)
            theirs = folder / f".theirs.{CHECKPOINT}"
            if self._places.copy(artifact.name, theirs):
                if steps_in(theirs) > steps_in(folder / CHECKPOINT):
                    self._places.copy(_log(name), folder / "log.csv")
                    theirs.replace(folder / CHECKPOINT)
                theirs.unlink(missing_ok=True)

    def keep_quota(self, newest: str, is_finished: Callable[[str, int], bool]) -> None:
        """Drop checkpoints of finished trainings beyond the quota.

        Args:
            newest: Name of the record whose checkpoint goes last.
            is_finished: Whether the training of a key has ended after a budget.
        """
        found = [
            artifact
            for artifact in self._places.found("training")
            if artifact.name.endswith(f"/{CHECKPOINT}")
            and is_record_name(Path(artifact.name).parent.name)
        ]
        total = 0
        for artifact in sorted(
            found, key=lambda each: (Path(each.name).parent.name != newest, -each.modified)
        ):
            total += artifact.size
            key, _, budget = Path(artifact.name).parent.name.rpartition("-")
            if total > CHECKPOINT_BYTES and is_finished(key, int(budget)):
                self._places.remove(artifact.name)

    def drop(self, name: str, checkpoint: bool = True) -> None:
        """Remove the weights of the record called ``name``, and its checkpoint. Without it, which
        stays under the quota, ``Store.load`` need not train again.
        """
        gone = [_weights(name), *([_checkpoint(name)] if checkpoint else [])]
        for each in gone:
            (self.run.path / each).unlink(missing_ok=True)
        if self._places.shared and name not in self._dropped:  # one request each, and once
            for each in gone:
                self._places.remove(each)
            if checkpoint:
                self._dropped.add(name)


def _weights(name: str) -> str:
    return f"weights/{record_name(name)}.safetensors"


def _checkpoint(name: str) -> str:
    return f"training/{record_name(name)}/{CHECKPOINT}"


def _log(name: str) -> str:
    return f"training/{record_name(name)}/log.csv"
