"""Runs whose workers outgrow their memory, that are killed, whose disk is full or database locked;
and Ray clusters, whole and broken.
"""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from archsearch.api import Study
from archsearch.errors import InputError
from archsearch.study import ray as ray_module
from archsearch.study.notes import notes_of
from archsearch.study.pace import automatic_workers
from archsearch.study.ray import require_answer
from archsearch.study.setting import load_setting
from archsearch.study.spec import EngineSpec
from archsearch.study.worker import held_bytes, memory_limit
from benchmarks.kill_sweep import HOOK_NAME, Run, Sweep

from .conftest import WriteStudy, outcomes

# Memory


def grown(code: str, *arguments: object) -> int:
    """What a process holds that runs ``code`` and then waits."""
    text = f"import sys, mmap\n{code}\nprint(flush=True)\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout
        process.stdout.readline()
        held = held_bytes(process.pid)
        process.communicate()
    return held


def test_memory_is_what_a_process_has_to_itself(tmp_path: Path) -> None:
    (tmp_path / "pictures").write_bytes(b"x" * 200_000_000)
    plain = grown("")
    assert grown("kept = b'x' * 200_000_000") - plain > 190_000_000
    mapped = (
        "m = mmap.mmap(open(sys.argv[1], 'rb').fileno(), 0, prot=mmap.PROT_READ); sum(m[::4096])"
    )
    assert grown(mapped, tmp_path / "pictures") - plain < 50_000_000
    assert held_bytes(2**22 - 3) == 0  # gone


def test_the_limit_is_the_studys_or_a_share_of_the_machine() -> None:
    assert memory_limit(EngineSpec(memory_gb=3), 2) == 3
    assert memory_limit(EngineSpec(memory_gb=None), 2) is None
    one, two = (memory_limit(EngineSpec(), count) for count in (1, 2))
    assert one == pytest.approx(2 * two)  # type: ignore[operator]
    assert 0 < one < psutil.virtual_memory().total / 1e9  # type: ignore[operator]


GROWING = """
import os, sys, time
if "archsearch.study.worker" in " ".join(sys.orig_argv):
    import threading
    def grow():
        while not ({moment}):
            time.sleep(0.05)
        try:
            os.close(os.open({flag!r}, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return  # one worker grows
        global kept
        kept = b"x" * {size}
    threading.Thread(target=grow, daemon=True).start()
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [2_000_000_000, 4_000_000_000], ids=["over", "far over"])
def test_a_worker_that_outgrows_its_memory_is_replaced(tmp_path: Path, size: int) -> None:
    run = Run(
        tmp_path / "home",
        proxy={"samples": 3200},
        search={"trials": 2, "confirm_seeds": 1},
        engine={"memory_gb": 2},
    )
    training = run.folder / "training"
    moment = f"os.path.isdir({str(training)!r}) and os.listdir({str(training)!r})"
    flag = str(tmp_path / "grown")
    hook = run.home / "hook" / HOOK_NAME
    hook.write_text(hook.read_text() + GROWING.format(moment=moment, flag=flag, size=size))
    assert run.start().wait(timeout=600) == 0, run.printed.read_text()
    assert Path(flag).exists()
    printed, log = run.printed.read_text(), (run.folder / "logs" / "worker-0.log").read_text()
    assert "GB, but engine.memory_gb is 2: " in printed
    assert "GB, but engine.memory_gb is 2: " in log
    results = Study.open(run.folder).results
    if size == 2_000_000_000:
        assert "another takes its place after its current trial" in printed
        assert outcomes(results) == ["complete"] * 2
    else:
        assert "its trial is queued again" in printed
        assert sorted(outcomes(results)) == ["complete"] * 2 + ["interrupted"]
    assert not any(notes_of(trial).get("kills") for trial in results.trials.all())
    assert run.repeated() == (0, 0)


@pytest.mark.slow
def test_workers_that_are_too_large_from_the_start_end_the_run_by_name(tmp_path: Path) -> None:
    run = Run(tmp_path / "home", proxy={"samples": 32_000}, engine={"memory_gb": 0.05})
    assert run.start().wait(timeout=600) == 1
    assert "Raise engine.memory_gb" in run.printed.read_text().splitlines()[-1]
    assert run.running() == 0


# Kills, disks and locks; benchmarks/kill_sweep.py does more of the same


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Sweep]:
    sweep = Sweep(tmp_path, seed=int(time.time()))
    yield sweep
    assert sweep.found.faults == 0, sweep.found
    assert sweep.found.records > 0


@pytest.mark.slow
def test_a_run_that_is_killed_is_in_the_end_the_run_that_was_not(sweep: Sweep) -> None:
    sweep.sweep(kills=3)
    assert sum(sweep.found.kills.values()) == 3


@pytest.mark.slow
def test_so_is_one_that_a_model_leads_through_rungs_and_repetitions(sweep: Sweep) -> None:
    sweep.samplers = ("surrogate",)
    sweep.sweep(kills=2)
    assert sum(sweep.found.kills.values()) == 2


@pytest.mark.slow
def test_a_full_disk_costs_nothing_but_time(sweep: Sweep) -> None:
    sweep.fill_disk(kilobytes=400)


@pytest.mark.slow
def test_a_database_that_others_lock_is_waited_for(sweep: Sweep) -> None:
    sweep.lock(seconds=30)


@pytest.mark.slow
def test_one_that_is_locked_for_longer_ends_the_run_by_name_and_costs_nothing(
    sweep: Sweep,
) -> None:
    sweep.lock(seconds=12, patience=4)


def _suspend_between_transactions(worker: psutil.Process, database: Path) -> None:
    # One that stands still in the middle of one keeps the database locked: another matter.
    while True:
        worker.suspend()
        try:
            with closing(sqlite3.connect(database, timeout=0.5)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                return
        except sqlite3.OperationalError:
            worker.resume()
            time.sleep(0.1)


@pytest.mark.slow
def test_a_worker_that_stands_still_goes_on_when_it_is_woken(tmp_path: Path) -> None:
    """Longer than the claim of a machine that is lost would last. Meanwhile nobody else can take
    the run up, nor its trial.
    """
    lease = 2.0
    run = Run(
        tmp_path / "home",
        constants={"archsearch.study.claims": {"HEARTBEAT_SECONDS": 0.5, "LEASE_SECONDS": lease}},
        proxy={"samples": 3200},
        search={"trials": 2, "confirm_seeds": 1},
    )
    process = run.start()
    while process.poll() is None and not run.began():
        time.sleep(0.05)
    (worker,) = run.workers()
    _suspend_between_transactions(worker, run.folder / "study.db")
    command = [sys.executable, "-m", "archsearch", "run", run.path, "--output", run.folder]
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert f"is being run by process {process.pid} on " in second.stderr
    time.sleep(3 * lease)
    assert (process.poll(), run.running(), run.began()) == (None, 1, 1)
    worker.resume()
    assert process.wait(timeout=600) == 0, run.printed.read_text()
    assert outcomes(Study.open(run.folder).results) == ["complete"] * 2
    assert run.repeated() == (0, 0)
    assert run.began() == len(run.records()) == 2


@pytest.mark.slow
def test_a_run_that_is_killed_whole_three_times_in_one_trial_blames_nobody(tmp_path: Path) -> None:
    run = Run(tmp_path / "home", proxy={"samples": 3200}, search={"trials": 1, "confirm_seeds": 1})
    for _ in range(3):
        began = run.began()
        process = run.start()
        while process.poll() is None and run.began() == began:
            time.sleep(0.05)
        run.kill("both")
    assert run.finish() == 0, run.printed.read_text()
    assert outcomes(Study.open(run.folder).results) == ["interrupted"] * 3 + ["complete"]


# Ray


def test_an_engine_that_is_not_known_is_refused(write_study: WriteStudy) -> None:
    with pytest.raises(InputError, match=r"engine: 'rey' is not known. Allowed are: local, ray"):
        Study(write_study()).run(engine="rey")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"engine.kind: must be 'local' or 'ray', but got 'rey'"):
        load_setting(write_study(), ["engine.kind=rey"])
    with pytest.raises(InputError, match="--address belongs to --engine ray"):
        Study(write_study()).run(address="127.0.0.1:6379")


def test_a_share_of_more_than_one_is_refused(write_study: WriteStudy) -> None:
    assert load_setting(write_study(), ["engine.gpus=0.5"]).spec.engine.gpus == 0.5
    with pytest.raises(InputError, match=r"engine.gpus: must be a share below 1"):
        load_setting(write_study(), ["engine.gpus=1.5"])


def test_several_workers_share_a_gpu_where_a_trial_takes_a_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    shares = ("auto", 1, 0.5, 0.3, 2, 0)
    workers = [automatic_workers(EngineSpec(gpus=share)) for share in shares]
    assert workers == [2, 2, 4, 6, 1, 2]


@pytest.mark.parametrize(
    "address", ["cluster", "ray://127.0.0.1:10001", "127.0.0.1:", ":6379", "h:²"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="Allowed are HOST:PORT"):
        require_answer(address)


def test_an_address_where_nobody_answers_is_refused() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(InputError, match=r"no Ray cluster answers there: .*refused"):
        require_answer(f"127.0.0.1:{port}")


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", None])
def test_what_answers_but_is_no_cluster_is_refused(
    answer: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_module, "ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = threading.Event()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                if answer is None:  # it never says a word
                    done.wait(60)
                else:
                    connection.sendall(answer)

        serving = threading.Thread(target=serve)
        serving.start()
        with pytest.raises(InputError, match="no Ray cluster answers there"):
            require_answer(f"127.0.0.1:{server.getsockname()[1]}")
        done.set()
        serving.join()


def test_without_ray_its_extra_is_named(
    write_study: WriteStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"archsearch\[ray\]"):
        ray_module.run_on_ray(None, 1, 1, lambda: None)  # type: ignore[arg-type]


GUARDED = """
import json, os, subprocess, sys
import ray
from archsearch.study import ray as ray_module
from archsearch.study.spec import EngineSpec

ray_module._connect(ray, EngineSpec(), 1, None, sys.argv[1])
connecting = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False)"
command = [sys.executable, "-c", connecting, ray.get_runtime_context().gcs_address]
codes = [
    subprocess.run(command, env=os.environ | told, capture_output=True).returncode
    for told in ({}, {"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "0" * 64})
]
ray.shutdown()
print(json.dumps([code == 0 for code in codes]))
"""


@pytest.mark.slow
def test_a_local_cluster_asks_for_a_token(tmp_path: Path) -> None:
    """So that no other user of the machine can run code in it. In a process of its own: Ray reads
    its variables once.
    """
    pytest.importorskip("ray")
    environment = os.environ | ray_module._QUIET | ray_module._GUARDED  # as run_on_ray sets them
    done = subprocess.run(
        [sys.executable, "-c", GUARDED, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [True, False, False], done.stderr


@pytest.mark.slow
def test_a_ray_that_knows_no_tokens_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "__version__", "2.51.9")
    with pytest.raises(InputError, match=r"ray 2\.51\.9 .*: 2\.52 is needed"):
        ray_module._connect(ray, EngineSpec(), 1, None, str(tmp_path))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A real cluster of two nodes, a core each, whose processes note the trainings they do."""
    utilities = pytest.importorskip("ray.cluster_utils")
    paths = [str(tmp_path / "home" / "hook"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("KILL_SWEEP_LOG", str(tmp_path / "home" / "sittings.jsonl"))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    node = {"num_cpus": 1, "object_store_memory": 100 * 1024**2}
    cluster = utilities.Cluster(
        initialize_head=True, head_node_args=node | {"include_dashboard": False}
    )
    cluster.second = cluster.add_node(**node)
    yield cluster
    cluster.shutdown()


@pytest.mark.slow
def test_a_ray_cluster_that_loses_a_node_finishes_every_trial_once(
    tmp_path: Path, cluster: Any
) -> None:
    run = Run(tmp_path / "home", proxy={"samples": 3200}, search={"trials": 4, "confirm_seeds": 1})
    options = ["--engine", "ray", "--address", cluster.address, "--workers", "2"]
    process = run.start(*options)
    while process.poll() is None and run.running() < 2:
        time.sleep(0.2)
    began = run.began()
    while process.poll() is None and run.began() < max(2, began):
        time.sleep(0.2)
    cluster.remove_node(cluster.second, allow_graceful=False)
    assert process.wait(timeout=600) == 0, run.printed.read_text()
    assert outcomes(Study.open(run.folder).results) == ["complete"] * 4
    assert run.began() == 5  # one of them twice: it went on on the node that is left
    assert run.repeated() == (0, 0)
    assert "its process died; Ray begins it again" in run.printed.read_text()
    assert not (run.folder / "ray").exists()


@pytest.mark.slow
def test_a_cluster_without_what_a_trial_takes_is_refused(tmp_path: Path, cluster: Any) -> None:
    run = Run(tmp_path / "home", engine={"kind": "ray", "gpus": 0.5})
    assert run.start("--address", cluster.address).wait(timeout=600) == 2
    assert "0.5 GPUs" in run.printed.read_text()
    assert run.records() == set()
