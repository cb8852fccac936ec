"""Converting with another Python, for formats whose library lives in an environment of its own."""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import archsearch
from archsearch.errors import ArchsearchError, InputError
from archsearch.latency.phone.manifest import Format, Input
from archsearch.latency.things import Thing, to_data
from archsearch.runtimes.base import RuntimeFacts

CLOSE_SECONDS = 2.0


class RemoteConverter:
    """A ``Converter`` in another process, which is started again for the next thing where one has ended it.

    Args:
        format: What it writes.
        python: A Python with torch, numpy, pydantic and the format's library; archsearch need not be installed there.

    Attributes:
        facts: What tables say of the runtime.

    Raises:
        InputError: ``python`` does not start, or lacks something.
    """

    def __init__(self, format: Format, python: Path) -> None:
        self._format, self._python = format, python
        self._process: subprocess.Popen[str] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="archsearch-converter-", ignore_cleanup_errors=True)
        try:
            self.facts = self._start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __call__(self, thing: Thing, seed: int, folder: Path) -> tuple[str, list[Input]]:
        """Convert ``thing`` into ``folder``.

        Raises:
            InputError: The other Python lacks something.
            ArchsearchError: It cannot convert it, or died of it.
        """
        if self._process is None:
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        request = {"thing": to_data(thing), "seed": seed, "folder": str(folder.resolve())}
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            answer = self._read()
        except BrokenPipeError:
            answer = None
        except ArchsearchError:
            raise
        except BaseException:  # Ctrl-C while waiting: its answer would be taken for the next one's
            self._end(0.01)
            raise
        if answer is None:
            raise ArchsearchError(f"{self._python}: {self._last_words()}")
        return answer["file"], [Input.model_validate(each) for each in answer["inputs"]]

    def close(self) -> None:
        """End the process and remove its files."""
        self._end(CLOSE_SECONDS)
        self._folder.cleanup()

    def _start(self) -> RuntimeFacts:
        folder = Path(self._folder.name)
        package = folder / "path" / "archsearch"
        if not package.is_symlink():
            # not the folder that holds archsearch: where that is site-packages, its torch would hide the other Python's
            package.parent.mkdir()
            package.symlink_to(Path(archsearch.__file__).resolve().parent, target_is_directory=True)
        command = [str(self._python), "-P", "-m", "archsearch.latency.phone.worker", "--format", self._format]
        pipe, environment = subprocess.PIPE, os.environ | {"PYTHONPATH": str(package.parent)}
        try:
            with self._log.open("w") as log:
                self._process = subprocess.Popen(
                    command, stdin=pipe, stdout=pipe, stderr=log, env=environment, text=True, encoding="utf-8"
                )
        except OSError as error:
            raise InputError(f"--runtime-python {self._python}: does not start: {error.strerror or error}.") from error
        answer = self._read()
        if answer is None:
            raise InputError(
                f"--runtime-python {self._python}: cannot convert: {self._last_words()}. It must be Python 3.11 or later with "
                f"torch, numpy, pydantic and the library of {self._format}."
            )
        return RuntimeFacts(**answer["facts"])

    def _read(self) -> dict[str, Any] | None:
        """The next answer; None where the process has ended."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            return None
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise (InputError if answer["input"] else ArchsearchError)(answer["error"])
        return answer

    @property
    def _log(self) -> Path:
        return Path(self._folder.name) / "stderr"

    def _last_words(self) -> str:
        """Wait for a process that has closed its output, and tell how it ended."""
        assert self._process is not None
        code = self._process.wait()
        self._end(0.01)
        said = self._log.read_text(encoding="utf-8", errors="replace").strip()
        return f"its process ended with exit code {code}{', and last said: ' + said.splitlines()[-1][:300] if said else ''}"

    def _end(self, seconds: float) -> None:
        """End the process: by closing its input, by force where it is still there after ``seconds``."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.communicate(timeout=seconds)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            pass
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream:
                    stream.close()
