"""The live page of a run: what it shows, whom it answers, and how it stops and extends a run."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from archsearch.api import Study
from archsearch.cli.dashboard import _way_to
from archsearch.report.live import watch
from archsearch.report.live.guard import MAX_BODY, Guard, is_loopback, own_names
from archsearch.report.live.server import bind, live_page
from archsearch.report.live.watch import read_log
from archsearch.study.lock import FolderLock, runner_of
from archsearch.study.results import Results
from archsearch.study.rundir import RunDir
from benchmarks.kill_sweep import Run
from tests.conftest import Cli
from tests.study.conftest import own_cache, put, rewrite_claim, started

__all__ = ["own_cache"]  # a fixture

PATIENCE_SECONDS = 120.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often, so that a test need not wait, and not for long after it. What the report holds is
    told in ``test_page.py``, and seen in a browser below.
    """
    monkeypatch.setattr(watch, "render", lambda study: f"<h1>{study.name}</h1>")
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(watch, "REPORT_SECONDS", 0.2)
    monkeypatch.setattr(watch, "WATCHED_SECONDS", 1.0)


@dataclass(frozen=True)
class Answer:
    """What a server said."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def said(self) -> dict[str, Any]:
        """Its JSON."""
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass(frozen=True)
class Client:
    """Asks a server as a browser does that has the cookie; each header can be changed, or left out
    with None.
    """

    port: int
    token: str

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, **changed: str | None
    ) -> Answer:
        headers = {"Host": f"127.0.0.1:{self.port}", "Cookie": self.cookie}
        if method != "GET":
            origin = f"http://127.0.0.1:{self.port}"
            headers |= {"Origin": origin, "Content-Type": "application/json"}
            headers |= {"Content-Length": str(len(body or b""))}
        given = headers | {name.replace("_", "-"): value for name, value in changed.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with suppress(BrokenPipeError):
            connection.putrequest(method, path, skip_host=True)
            for name, value in given.items():
                if value is not None:
                    connection.putheader(name, value)
            connection.endheaders(body)
        answer = connection.getresponse()
        found = Answer(answer.status, dict(answer.getheaders()), answer.read())
        connection.close()
        return found

    @property
    def cookie(self) -> str:
        return f"archsearch_{self.port}={self.token}"

    def order(self, path: str, **content: Any) -> Answer:
        return self.ask(path, "POST", json.dumps(content).encode())

    def live(self) -> dict[str, Any]:
        answer = self.ask("/live.json")
        assert answer.status == 200, answer.body
        return answer.said


@contextmanager
def watched(folder: Path) -> Iterator[Client]:
    """The live page of a run, served by this process."""
    page = live_page(folder, lambda: Study.open(folder))
    server, guard = bind(page, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield Client(guard.port, guard.token)
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run in which three trials have ended."""
    home = tmp_path_factory.mktemp("made") / "home"
    run = Run(home, proxy={"samples": 32}, search={"trials": 3})
    found = started(run.path, run.folder)[1]
    for loss in (0.5, 0.4, 0.3):
        asked = found.trials.ask()
        assert asked is not None
        found.trials.tell(asked.trial, {"val_loss": loss}, {"train_seconds": 2.0})
    return run.folder


@pytest.fixture
def results(made: Path, tmp_path: Path) -> Results:
    """The same run, in a folder of its own."""
    return Study.open(shutil.copytree(made, tmp_path / "run")).results


@pytest.fixture
def client(results: Results) -> Iterator[Client]:
    with watched(results.run.path) as found:
        yield found


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def wait_for(what: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.1)
    return found


# What is shown


def test_the_figures_are_those_of_the_study(client: Client, results: Results) -> None:
    live, known = client.live(), Study.open(results.run.path).progress()
    assert live["progress"] == json.loads(json.dumps(known))
    assert live["progress"]["finished"] == 3
    assert (live["runner"], live["trainings"], live["error"], live["started"]) == (
        None,
        [],
        "",
        None,
    )


def test_a_training_under_way_is_shown_with_its_curve(client: Client, results: Results) -> None:
    asked = results.trials.ask()
    assert asked is not None
    asked.trial.set_user_attr("samples_seen", 8)
    asked.trial.set_user_attr("key", "0123456789abcdef")
    log = results.run.training("0123456789abcdef-32") / "log.csv"
    log.parent.mkdir(parents=True)
    log.write_text(
        "samples,loss,learning_rate,gradient_norm,seconds\n8,0.9,1,1,2\n16,0.7,1,1,4\n24,0."
    )
    (training,) = wait_for(lambda: client.live()["trainings"])
    assert training["curve"] == [[8, 0.9], [16, 0.7]]
    assert (training["samples"], training["budget"], training["loss"]) == (16, 32, 0.7)
    assert training["seconds_left"] == 4.0


def test_a_log_is_read_up_to_the_row_that_is_being_written(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    assert read_log(log) == []
    log.write_text("samples,loss,learning_rate,gradient_norm,seconds\n8,0.5,1,1,2\n16,0.4,1")
    assert read_log(log) == [(8, 0.5, 2.0)]


def test_the_report_is_written_when_something_has_come_in(client: Client, results: Results) -> None:
    assert client.ask("/report").status == 404  # nobody has looked yet
    first = wait_for(lambda: client.live()["report"]["version"])
    report = client.ask("/report")
    assert (report.status, first) == (200, 1)
    assert report.headers["Content-Security-Policy"].startswith("sandbox allow-scripts")
    assert b"small" in report.body  # the study's name
    time.sleep(0.5)
    assert client.live()["report"] == {"version": 1, "writing": False, "error": ""}
    put(results.store, "some", [0.3])
    assert wait_for(lambda: client.live()["report"]["version"] == 2, 20)


def test_a_run_that_has_not_begun_is_waited_for(made: Path, tmp_path: Path, cli: Cli) -> None:
    run = RunDir(shutil.copytree(made, tmp_path / "run"))
    run.database.unlink()
    with watched(run.path) as client:
        live = client.live()
        assert live["progress"] is None
        assert "has no study.db yet" in live["error"]
        assert client.order("/stop").status == 409
        assert not run.database.is_file()
    assert cli("dashboard", tmp_path)[0] == 2  # no run at all
    run.database.write_bytes(b"no database at all" * 1000)
    code, _, err = cli("dashboard", run.path)
    assert code == 2
    assert "study.db" in err


# Whom it answers


def test_the_token_in_the_address_becomes_a_cookie(client: Client) -> None:
    answer = client.ask(f"/?token={client.token}", Cookie=None)
    assert answer.status == 200
    assert answer.headers["Set-Cookie"] == f"{client.cookie}; Path=/; HttpOnly; SameSite=Strict"
    assert "Set-Cookie" not in client.ask("/").headers
    for path in ("/", "/page.js", "/page.css", "/live.json"):
        headers = client.ask(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "Access-Control-Allow-Origin" not in headers
    assert "default-src 'none'" in client.ask("/").headers["Content-Security-Policy"]


REFUSED: dict[str, tuple[int, dict[str, Any]]] = {
    "another host": (403, {"Host": "example.org"}),
    "another port": (403, {"Host": "127.0.0.1:1"}),
    "no host": (403, {"Host": None}),
    "no token": (403, {"Cookie": None}),
    "a wrong token": (403, {"Cookie": "archsearch_{port}=guessed"}),
    "a wrong token in the address": (403, {"path": "/live.json?token=guessed", "Cookie": None}),
    "an unknown path": (404, {"path": "/study.db"}),
    "a path out of the folder": (404, {"path": "/../study.yaml"}),
    "another method": (405, {"method": "PUT"}),
    "an order without a token": (403, {"method": "POST", "Cookie": None}),
    "an order with the token in the address": (
        403,
        {"method": "POST", "path": "/stop?token={token}", "Cookie": None},
    ),
    "an order without an origin": (403, {"method": "POST", "Origin": None}),
    "an order of another site": (403, {"method": "POST", "Origin": "http://example.org"}),
    "an order from a sandbox": (403, {"method": "POST", "Origin": "null"}),
    "a form": (415, {"method": "POST", "Content_Type": "application/x-www-form-urlencoded"}),
    "an order without a length": (411, {"method": "POST", "Content_Length": None}),
    "a large order": (413, {"method": "POST", "body": b" " * (MAX_BODY + 1)}),
    "an order that is no JSON": (400, {"method": "POST", "body": b"{"}),
    "an order that is no object": (400, {"method": "POST", "body": b"[1]"}),
    "an unknown order": (404, {"method": "POST", "path": "/delete", "body": b"{}"}),
    "words that stop does not know": (404, {"method": "POST", "body": b'{"now": true}'}),
    "trials that are no number": (
        409,
        {"method": "POST", "path": "/extend", "body": b'{"trials": "9"}'},
    ),
    "no more trials": (409, {"method": "POST", "path": "/extend", "body": b'{"trials": 3}'}),
    "no number": (409, {"method": "POST", "path": "/extend", "body": b"{}"}),
    "minutes of a study without a limit": (
        409,
        {"method": "POST", "path": "/extend", "body": b'{"minutes": 90}'},
    ),
    "a stop of what nobody runs": (409, {"method": "POST", "body": b"{}"}),
}


def test_the_browser_is_led_by_a_page_that_only_the_user_reads(tmp_path: Path) -> None:
    address = "http://127.0.0.1:8420/?token=secret&x"
    way = _way_to(address, tmp_path)
    assert "secret" not in way
    page = tmp_path / "dashboard.html"
    assert way == page.as_uri()
    assert page.stat().st_mode & 0o077 == 0
    assert "url=http://127.0.0.1:8420/?token=secret&amp;x" in page.read_text()


def test_what_is_refused_changes_nothing(client: Client, results: Results) -> None:
    client.live()
    before = files_of(results.run.path)
    for name, (status, changes) in REFUSED.items():
        asked = {"path": "/stop" if changes.get("method") == "POST" else "/live.json"} | changes
        known = {"port": client.port, "token": client.token}
        asked = {k: v.format(**known) if isinstance(v, str) else v for k, v in asked.items()}
        answer = client.ask(**asked)
        assert answer.status == status, name
        assert answer.said["error"], name
    assert files_of(results.run.path) == before


def test_a_server_has_the_names_of_where_it_listens() -> None:
    assert own_names("127.0.0.1", 8420) == {"127.0.0.1:8420", "localhost:8420", "[::1]:8420"}
    assert {"localhost", "localhost:80"} <= own_names("127.0.0.1", 80)
    every = own_names("0.0.0.0", 8420)
    assert {f"{socket.gethostname().lower()}:8420", "127.0.0.1:8420"} <= every
    assert "example.org:8420" not in every
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0")] == [
        True,
        True,
        True,
        False,
    ]
    guard = Guard(lambda *_: [], "::1", 8420, "word")
    assert guard.address == "http://[::1]:8420/?token=word"
    assert "word" not in repr(guard)


def test_a_port_in_use_is_told(client: Client, results: Results, cli: Cli) -> None:
    code, _, err = cli("dashboard", results.run.path, "--port", client.port)
    assert code == 2
    assert f"--port: {client.port} of 127.0.0.1 is in use" in err
    assert cli("dashboard", results.run.path, "--port", 70000)[0] == 2
    assert cli("dashboard", results.run.path, "--host", "192.0.2.1")[0] == 2  # not ours


# Stopping and extending


def test_a_run_of_another_machine_is_not_stopped_here(client: Client, results: Results) -> None:
    lock = FolderLock(results.run)
    rewrite_claim(results.store, lock.name, host="elsewhere", token="theirs")
    answer = client.order("/stop")
    assert answer.status == 409
    assert f"is run by process {os.getpid()} on elsewhere, since 20" in answer.said["error"]
    assert wait_for(lambda: client.live()["runner"])["is_here"] is False
    assert "Stop it first" in client.order("/extend", trials=9).said["error"]
    rewrite_claim(results.store, lock.name, heartbeat=0.0)
    assert runner_of(results.run, results.store.claims) is None


@pytest.mark.slow
@pytest.mark.parametrize("ignores", [False, True], ids=["", "in the background of a script"])
def test_stopping_interrupts_who_runs_the_folder(
    client: Client, results: Results, ignores: bool
) -> None:
    code = (
        "import signal, sys, time; from pathlib import Path\n"
        f"if {ignores}: signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from archsearch.cli.app import heed_termination; heed_termination()\n"
        "from archsearch.study.lock import FolderLock; from archsearch.study.rundir import RunDir\n"
        "lock = FolderLock(RunDir(Path(sys.argv[1]))); print(flush=True)\n"
        "try: time.sleep(60)\n"
        "except KeyboardInterrupt: lock.release(); sys.exit(7)\n"
    )
    command = [sys.executable, "-c", code, str(results.run.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        answer = client.order("/stop")
        assert answer.status == 200
        assert f"Process {process.pid} was asked to stop" in answer.said["done"]
        assert process.wait(timeout=30) == 7
    assert wait_for(lambda: client.live()["runner"] is None, 20)


@pytest.mark.slow
def test_a_run_is_watched_stopped_and_extended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "home", proxy={"samples": 3200}, search={"trials": 2, "confirm_seeds": 1})
    process = run.start()
    wait_for((run.folder / "study.db").is_file)
    # What is started from the page notes its trainings too.
    monkeypatch.setenv("PYTHONPATH", f"{run.home / 'hook'}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("KILL_SWEEP_LOG", str(run.sittings))
    with watched(run.folder) as client:

        def curve() -> list[list[float]]:
            trainings = client.live()["trainings"]
            found: list[list[float]] = trainings[0]["curve"] if trainings else []
            return found

        first = wait_for(lambda: [*curve()][1:])
        longer = wait_for(lambda: [*curve()][len(first) + 2 :])
        assert longer[-1][0] > first[-1][0]
        (training,) = client.live()["trainings"]
        assert (training["trial"], training["budget"]) == (0, 3200)
        assert 0 < training["seconds_left"] < 600
        runner = client.live()["runner"]
        assert (runner["pid"], runner["is_here"]) == (process.pid, True)
        refused = client.order("/extend", trials=9)
        assert refused.status == 409
        assert f"is being run by process {process.pid}" in refused.said["error"]

        records = run.records()
        assert client.order("/stop").status == 200
        assert process.wait(timeout=60) == 130
        assert "to go on: archsearch run" in run.printed.read_text()
        live = wait_for(lambda: found if not (found := client.live())["runner"] else None)
        wait_for(lambda: client.live()["progress"]["outcomes"].get("waiting"))
        assert live["started"] is None
        assert run.running() == 0
        assert run.records() >= records

        done = client.order("/extend", trials=3)
        assert done.status == 200, done.said
        assert client.order("/extend", trials=4).status == 409  # it is making ready
        assert wait_for(lambda: client.live()["runner"])["pid"] != process.pid
        assert wait_for(lambda: client.live()["started"]["code"] is not None, 300)
        live = client.live()
        assert live["started"]["code"] == 0, live["started"]
        wait_for(lambda: client.live()["progress"]["finished"] == 3)
        assert client.live()["progress"]["target"] == 3
    assert run.records() >= records
    assert run.repeated() == (0, 0)
    began = run.sittings.read_text().splitlines()
    again = json.loads(began[1])  # the training that was interrupted, from its checkpoint
    assert (again["what"], again["name"]) == ("began", training["name"])
    assert again["samples"] > 0
    log = (run.folder / "logs" / "run.log").read_text()
    assert f"--output {run.folder} --trials 3" in log
    assert "Results: " in log
