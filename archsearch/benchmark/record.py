"""How MobileDiffusion-Bench is recorded: which networks, and one shard for each training.

A *shard* is a small CSV file: the scores of one network with one seed after every budget, with
the machine and the seconds it took. Any shard can be recorded by itself, on any machine, and again:
then it must say the same. :mod:`archsearch.benchmark.table` is what the shards are joined into.
"""

import platform
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from archsearch import catalog, documents, files, versions
from archsearch.benchmark.table import (
    BUDGETS,
    COSTS,
    ESTIMATED,
    FILE,
    KNOB,
    LATENCY,
    LOSSES,
    METRICS,
    SCHEMA,
    SCORES,
    STUDY,
    Benchmark,
)
from archsearch.errors import InputError
from archsearch.latency.measure import processor
from archsearch.latency.predict import Predictor, load_table
from archsearch.latency.table import LatencyTable
from archsearch.search_space.space import label
from archsearch.study.setting import Candidate, InfeasibleError, Setting, read_study
from archsearch.study.spec import OF_PROXY, score_of
from archsearch.study.store import Store

LONGEST = 34_560
"""What the first :data:`DEEP` networks are trained for in the end."""
NETWORKS, REPEATED, DEEP = 96, 32, 12
SEEDS = 3
"""Of the first :data:`REPEATED` networks; the others have one."""
COLUMNS = (
    *("network", "digest", "seed", "budget", *LOSSES, "train_loss", *METRICS),
    *("seconds", "machine", "torch", "device", "training", "evaluation", "sampling"),
)
TOLERANCE = 1e-6
"""Relative difference up to which two recordings of one shard on one kind of machine agree."""
CANDIDATES = 16
DESIGN = "design.json"

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """One training to record."""

    network: int
    seed: int
    budgets: tuple[int, ...]

    @property
    def file(self) -> str:
        """Of its shard."""
        return f"{self.network:03d}-{self.seed}.csv"


def balanced_random(setting: Setting, count: int, seed: int = 0) -> list[Candidate]:
    """Random networks within a study's limits, the presets first, that have every choice of every
    knob about equally often; no two have one proxy.

    Each next one is, of a few drawn at random, the one whose choices were drawn least so far.

    Raises:
        InputError: The space does not hold so many.
    """
    rng, space = random.Random(seed), setting.space
    chosen: list[Candidate] = []
    proxies: set[str] = set()
    drawn: Counter[tuple[str, str]] = Counter()

    def choices(candidate: Candidate) -> list[tuple[str, str]]:
        return [(name, str(label(value))) for name, value in candidate.point.items()]

    def rarity(candidate: Candidate) -> float:
        # How often each choice was drawn, in units of an even share; mean over the knobs.
        own = choices(candidate)
        return sum(drawn[e] * len(space.dimensions[e[0]].values) for e in own) / len(own)

    def take(candidate: Candidate) -> None:
        proxies.add(setting.proxy(candidate.network).digest)
        drawn.update(choices(candidate))
        chosen.append(candidate)

    for point in setting.presets().values():
        take(setting.candidate(point))
    for _ in range(100 * count):
        if len(chosen) >= count:
            return chosen[:count]
        few: list[Candidate] = []
        for _ in range(20 * CANDIDATES):
            try:
                candidate = setting.candidate(space.draw_valid(rng)[0])
            except InfeasibleError:
                continue
            few.append(candidate)
            if len(few) == CANDIDATES:
                break
        few = [c for c in few if setting.proxy(c.network).digest not in proxies]
        if few:
            take(min(few, key=rarity))
    raise InputError(
        f"space '{space.name}': holds only {len(chosen)} networks with proxies of their own, but "
        f"{count} are asked for."
    )


def open_design(folder: Path, setting: Setting) -> list[Candidate]:
    """The networks of the benchmark whose shards lie in ``folder``; drawn where it is new.

    Raises:
        InputError: The design is of another space than the study's.
    """
    path = folder / DESIGN
    if not path.is_file():
        found = balanced_random(setting, NETWORKS)
        networks = [
            {"digest": each.network.digest, "point": setting.space.labels(each.point)}
            for each in found
        ]
        files.write_json(path, {"schema": 1, "space": setting.space.name, "networks": networks})
        return found
    document = documents.read(path)
    found = []
    for number, entry in enumerate(document.data.get("networks", [])):
        try:
            candidate = setting.candidate(setting.space.point(entry["point"]))
        except (InputError, InfeasibleError, KeyError, TypeError) as error:
            raise InputError(f"{document.where(('networks', number))}: {error}") from error
        if candidate.network.digest != entry["digest"]:
            raise InputError(
                f"{document.where(('networks', number))}: its point is network "
                f"{candidate.network.digest} of space '{setting.space.name}', but the file says "
                f"{entry['digest']}: the design is of another space."
            )
        found.append(candidate)
    return found


def tasks(count: int) -> Iterator[Task]:
    """Every training of a benchmark of ``count`` networks, in such an order that a stop leaves a
    table: all networks with one seed, then further seeds, which tell how far any ranking can be
    right, then the long trainings.
    """
    for number in range(count):
        yield Task(number, 0, BUDGETS)
    for seed in range(1, SEEDS):
        for number in range(min(count, REPEATED)):
            yield Task(number, seed, BUDGETS)
    for number in range(min(count, DEEP)):
        yield Task(number, 0, (*BUDGETS, LONGEST))


def is_recorded(folder: Path, task: Task) -> bool:
    """Whether a shard holds every budget of a task."""
    path = folder / task.file
    return path.is_file() and set(task.budgets) <= set(read_shard(path)["budget"])


def read_shard(path: Path) -> pd.DataFrame:
    """Read a shard.

    Raises:
        InputError: It cannot be read, or lacks columns.
    """
    try:
        found = pd.read_csv(StringIO(documents.read_text(path)))
    except (ValueError, pd.errors.ParserError) as error:
        raise InputError(f"{path}: cannot be read as a shard: {error}") from error
    if missing := [name for name in COLUMNS if name not in found.columns]:
        raise InputError(f"{path}: lacks the columns {', '.join(missing)}.")
    return found[list(COLUMNS)]


def record_shard(store: Store, candidate: Candidate, task: Task) -> pd.DataFrame:
    """Train a network through the budgets of a task, or answer from the store.

    Returns:
        The rows of its shard.

    Raises:
        InputError: The training diverged or was capped: a shard has scores of every budget.
    """
    rows = []
    for budget in task.budgets:
        record = store.score(candidate.network, budget, task.seed)
        if not record.counts:
            raise InputError(
                f"network {task.network}, seed {task.seed}: ended as {record.outcome} before "
                f"{budget:,} pictures; nothing is recorded of it."
            )
        is_last = budget in (BUDGETS[-1], LONGEST)
        metrics = store.metrics(record, METRICS) if is_last else {}
        conditions = record.conditions
        row: dict[str, Any] = {
            "network": task.network,
            "digest": candidate.network.digest,
            "seed": task.seed,
            "budget": budget,
            **{name: round(record.scores[name], 7) for name in LOSSES},
            "train_loss": round(record.details["train_loss"], 7),
            **{name: round(metrics[name], 6) for name in METRICS if name in metrics},
            "seconds": round(record.details["train_seconds"], 1),
            "machine": f"{processor()}, {platform.machine()}",
            "torch": torch.__version__.partition("+")[0],
            "device": conditions["device"],
            "training": conditions["training"],
            "evaluation": conditions["evaluation"],
            "sampling": versions.SAMPLING,
        }
        rows.append(row)
        store.files.drop(record.name, checkpoint=False)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def check_repeat(path: Path, again: pd.DataFrame) -> None:
    """Compare a shard with a second recording of it.

    Raises:
        InputError: They are of one kind of machine, but disagree.
    """
    kept = read_shard(path)
    both = kept.merge(again, on=["network", "digest", "seed", "budget"], suffixes=("", "_again"))
    for _, row in both.iterrows():
        alike = all(row[k] == row[f"{k}_again"] for k in ("machine", "torch", "device", "training"))
        for name in LOSSES:
            there, here = row[name], row[f"{name}_again"]
            if alike and abs(there - here) > TOLERANCE * abs(there):
                raise InputError(
                    f"{path}: {name} after {row['budget']:,} pictures is {there:.7f} there, but "
                    f"{here:.7f} when recorded again on the same kind of machine."
                )


def record(
    store: Store,
    folder: Path,
    networks: Sequence[int] | None = None,
    again: bool = False,
    is_over: Callable[[], bool] = lambda: False,
    tell: Tell = lambda _: None,
) -> int:
    """Record what is missing, task by task; several processes and machines can do so together, on
    one run or on runs of their own.

    Args:
        store: Of the study :data:`STUDY`; it keeps checkpoints, from which longer budgets go on.
        folder: Of the shards.
        networks: Numbers of networks; by default all.
        again: Record what is there already once more, and compare.
        is_over: Asked before each training: whether to end.
        tell: Is told, in a line, what was recorded.

    Returns:
        Number of trainings recorded.

    Raises:
        InputError: There is no such network, or a shard disagrees with its repetition.
    """
    design = open_design(folder, store.setting)
    for number in networks or ():
        if not 0 <= number < len(design):
            raise InputError(
                f"network {number}: there is none; the benchmark has those from 0 to "
                f"{len(design) - 1}."
            )
    wanted = None if networks is None else set(networks)
    done = 0
    for task in tasks(len(design)):
        if is_over():
            break
        path = folder / task.file
        if (wanted is not None and task.network not in wanted) or (
            not again and is_recorded(folder, task)
        ):
            continue
        candidate = design[task.network]
        with store.claims.held(f"shard {path.name}", wait=False) as mine:
            if not mine or (not again and is_recorded(folder, task)):
                continue
            rows = record_shard(store, candidate, task)
            if again and path.is_file():
                check_repeat(path, rows)
            else:
                files.write_text(path, rows.to_csv(index=False, lineterminator="\n"))
        done += 1
        last = rows.iloc[-1]
        tell(
            f"network {task.network}, seed {task.seed}: {last['val_loss']:.4f} after "
            f"{last['budget']:,} pictures, {last['seconds']:.0f} s"
        )
    return done


def join(shards: Path, setting: Setting, tables: Mapping[str, LatencyTable]) -> pd.DataFrame:
    """Join shards into the table's rows: knobs, costs, latencies and scores of every network.

    Args:
        shards: Their folder.
        setting: The study that they were recorded with.
        tables: Latency tables, by name.

    Raises:
        InputError: A shard is of another network than the design says, or there is none.
    """
    design = open_design(shards, setting)
    names = [name for name, each in setting.space.dimensions.items() if len(each.values) > 1]
    rows = []
    for path in sorted(shards.glob("[0-9]*.csv")):
        shard = read_shard(path)
        number = int(shard["network"].iloc[0])
        network = design[number].network if 0 <= number < len(design) else None
        if network is None or set(shard["digest"]) != {network.digest}:
            raise InputError(f"{path}: network {number} of the design is another than the shard's.")
        labels = setting.space.labels(design[number].point)
        costs = setting.priced(network).scores
        fixed: dict[str, Any] = {"schema": SCHEMA, "space": setting.space.name}
        fixed |= {f"{KNOB}{name}": labels.get(name, "") for name in names}
        fixed |= {name: int(costs[name]) for name in COSTS}
        for name, table in tables.items():
            found = Predictor(table).predict(network, "predict")
            fixed[f"{LATENCY}{name}"] = round(found.ms, 3)
            fixed[f"{ESTIMATED}{name}"] = len(found.estimated)
        rows.append(shard.assign(**fixed))
    if not rows:
        raise InputError(f"{shards}: holds no shards.")
    joined = pd.concat(rows, ignore_index=True)
    own = ["schema", "space", "network", "digest"]
    prefixes = (KNOB, LATENCY, ESTIMATED)
    costs_and_knobs = [n for n in joined.columns if n.startswith(prefixes) or n in COSTS]
    rest = [n for n in joined.columns if n not in (*own, *costs_and_knobs)]
    return joined[[*own, *costs_and_knobs, *rest]].sort_values(["network", "seed", "budget"])


def shipped_tables() -> dict[str, LatencyTable]:
    """Every latency table of the package that was measured unit by unit."""
    found = {}
    for path in sorted((catalog.packaged() / "latency_tables").glob("*.json")):
        if ".partial" not in path.name and isinstance(table := load_table(path), LatencyTable):
            found[path.stem] = table
    return found


def write(rows: pd.DataFrame, path: Path = FILE) -> None:
    """Write the table, so that the same rows give the same bytes."""
    files.write_text(path, rows.to_csv(index=False, lineterminator="\n"))


def check_study(table: Benchmark, setting: Setting) -> None:
    """Refuse a study that would not have trained what the table has recorded.

    Raises:
        InputError: Space, data or proxy are others, an objective is not recorded, or nothing is
            after so many pictures.
    """
    spec, own = setting.spec, read_study(catalog.find("study", STUDY))[1]
    table.check_space(setting.space)
    given, wanted = (
        {"data": each.data.model_dump(), "proxy": each.proxy.model_dump()} for each in (spec, own)
    )
    for section in given:
        for key, value in wanted[section].items():
            if key not in ("samples", "precision", "max_seconds") and (
                given[section][key] != value
            ):
                raise InputError(
                    f"{section}.{key}: {table.path.name} was recorded with {value}, but the "
                    f"study says {given[section][key]}. With evaluator: {spec.evaluator} they "
                    f"must be those of the study '{STUDY}'."
                )
    for name in spec.objectives:
        if score_of(name).source in OF_PROXY and name not in SCORES:
            raise InputError(
                f"objectives.{name}: is not recorded in {table.path.name}; there are "
                f"{', '.join(SCORES)}."
            )
    if spec.proxy.samples not in table.budgets:
        listed = ", ".join(f"{each:,}" for each in table.budgets)
        raise InputError(
            f"proxy.samples: {table.path.name} has recorded {listed} pictures, but the study "
            f"says {spec.proxy.samples:,}."
        )
