"""The store: one way to score a network.

A *record* is one training: a proxy, with a seed, after a budget of pictures seen; with it its
held-out losses and how it went. *Metrics* are further scores, taken of the trained weights when
they are asked for, each kept with what it was computed under. A *claim* says who is at work on
what, with a heartbeat, so that no two workers do one thing and nothing stays claimed by the dead.
All three are rows of the database that holds the Optuna study; *artifacts* (weights, checkpoints,
logs) are files named by key, in the run's folder or where all machines of a study reach them.
"""

import json
import math
import socket
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import sqlalchemy as sql

from archsearch import versions
from archsearch.cost.price import price
from archsearch.diffusion.spec import DIVERGED
from archsearch.errors import ArchsearchError, InputError
from archsearch.study.claims import HEARTBEAT_SECONDS, ClaimLostError, Claims
from archsearch.study.clock import Clock
from archsearch.study.derived import Derived, DerivedNetworks
from archsearch.study.measuring import conditions_of, measure, networks_of
from archsearch.study.parents import find_parent
from archsearch.study.rundir import RunDir
from archsearch.study.setting import Setting, located
from archsearch.study.spec import MEASURED
from archsearch.study.storage import TABLES, key_of
from archsearch.study.training_files import TrainingFiles
from archsearch.unet.config import UNetConfig
from archsearch.unet.plan import plan

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from archsearch.data.prepare import Prepared
    from archsearch.diffusion.trained import Trained
    from archsearch.metrics.networks import Networks
    from archsearch.study.parent import Parent
    from archsearch.unet.model import UNet

SHARE_SECONDS = 120.0
"""How often the checkpoint of a training under way is copied to where other machines can go on from
it, should this one be lost."""

Progress = Callable[[int, float], None]


_RECORDS = sql.Table(
    "archsearch_records",
    TABLES,
    sql.Column("study", sql.String(255), primary_key=True),
    sql.Column("key", sql.String(16), primary_key=True),
    sql.Column("budget", sql.BigInteger, primary_key=True),
    sql.Column("network", sql.String(16), nullable=False),
    sql.Column("proxy", sql.String(16), nullable=False, index=True),
    sql.Column("config", sql.JSON, nullable=False),
    sql.Column("seed", sql.Integer, nullable=False),
    sql.Column("conditions", sql.JSON, nullable=False),
    sql.Column("outcome", sql.String(64), nullable=False),
    sql.Column("scores", sql.JSON, nullable=False),
    sql.Column("details", sql.JSON, nullable=False),
    sql.Column("machine", sql.String(255), nullable=False),
)
_METRICS = sql.Table(
    "archsearch_metrics",
    TABLES,
    sql.Column("study", sql.String(255), primary_key=True),
    sql.Column("key", sql.String(16), primary_key=True),
    sql.Column("budget", sql.BigInteger, primary_key=True),
    sql.Column("name", sql.String(255), primary_key=True),
    sql.Column("steps", sql.Integer, primary_key=True),  # 0 where the study does not search them
    sql.Column("under", sql.JSON, nullable=False),
    sql.Column("networks", sql.JSON, nullable=False),
    sql.Column("scores", sql.JSON, nullable=False),
)


@dataclass(frozen=True)
class Record:
    """What is known of one training."""

    key: str
    """Names the training whatever its budget: network, data, recipe, seed, device, versions."""
    budget: int
    """Pictures it was to see."""
    network: str
    """Digest of the network it was asked for, at deployment scale."""
    proxy: str
    """Digest of what was trained."""
    config: dict[str, Any]
    """What was trained."""
    seed: int
    """Counts the repetitions of one network from 0."""
    conditions: dict[str, Any]
    """The key, spelled out."""
    outcome: str
    """``complete`` or ``diverged``."""
    scores: dict[str, float]
    """Held-out losses, by name."""
    details: dict[str, Any]
    """Pictures seen, seconds of training and scoring, training loss, whether it was capped, and why
    it ended early."""
    machine: str
    from_store: bool = field(default=True, compare=False)
    """Whether it was there already when it was asked for."""

    @property
    def name(self) -> str:
        """Under which its artifacts lie."""
        return f"{self.key}-{self.budget}"

    @property
    def counts(self) -> bool:
        """Whether it has scores of the whole budget: it did not diverge, nor meet a cap on time."""
        return self.outcome == "complete" and not self.details.get("capped")


class Store:
    """Every score of a study's networks: trained when asked for, else answered from what is there.

    Args:
        run: Where artifacts and database lie.
        setting: The study.
        data: What it learns from. None prepares it when something is trained or measured first: a
            run can be looked at without its data and models.
        device: Where to train; by default the accelerator there is.

    Raises:
        InputError: The run's scores are of other data than these.
    """

    def __init__(
        self,
        run: RunDir,
        setting: Setting,
        data: "Prepared | None" = None,
        device: "torch.device | None" = None,
    ) -> None:
        self.run = run
        self.setting = setting
        self._data: Prepared | None = None
        self._device = device
        if data is not None:
            self.use(data)
        self.files = TrainingFiles(run)
        self.engine = run.storage.create_tables()
        self.claims = Claims(self.engine, setting.name)
        self.derived = DerivedNetworks(self.engine, setting.name)
        self.clock = Clock(self.engine, setting.name, setting.spec.search.minutes)

    @property
    def is_ready(self) -> bool:
        """Whether what the study learns from is prepared, so that keys can be told at once."""
        return self._data is not None

    @property
    def data(self) -> "Prepared":
        """What the study learns from.

        Raises:
            InputError: It is not there, or other than when the run began.
        """
        if self._data is None:
            from archsearch.data.prepare import prepare

            self.use(prepare(self.setting.spec.data, self.setting.spec.proxy.latent))
        assert self._data is not None
        return self._data

    def use(self, data: "Prepared") -> None:
        """Learn from these data.

        Raises:
            InputError: Too few pictures are held out, or the run's scores are of other data.
        """
        from archsearch.data.prepare import check_held_out

        with located(self.setting.document):
            check_held_out(data, self.setting.spec.data)
        self.run.keep_data(data.fingerprint)
        self._data = data

    @cached_property
    def device(self) -> "torch.device":
        """Where networks are trained."""
        from archsearch.diffusion.recipe import pick_device

        return self._device or pick_device()

    @cached_property
    def networks(self) -> "Networks":
        """Those of the study's metrics, each loaded when it is first needed, and once."""
        from archsearch.metrics.networks import Networks

        return Networks(self.setting.spec.metrics)

    @cached_property
    def parent(self) -> "Parent | None":
        """What trainings start from; None where that is random weights.

        Raises:
            InputError: The study's parent is not there, or damaged.
        """
        from archsearch.study.parent import load_parent

        name = self.setting.spec.proxy.parent
        return None if name is None else load_parent(find_parent(name))

    # Keys

    def conditions(self, proxy: UNetConfig, seed: int = 0) -> dict[str, Any]:
        """Everything that a training's scores depend on beside its budget."""
        recipe = self.setting.spec.proxy.recipe.of_key()
        if self.parent is not None:
            recipe["parent"] = self.parent.digest
        if self.data.latent.fixed:
            recipe["latent"] = self.data.latent.key  # what it is matters, not where it lies
        return {
            "proxy": proxy.digest,
            "data": self.data.fingerprint,
            "recipe": recipe,
            "seed": [self.setting.spec.search.seed, seed],
            "device": self.device.type,
            "training": versions.TRAINING,
            "evaluation": versions.EVALUATION,
        }

    def key(self, proxy: UNetConfig, seed: int = 0) -> str:
        """The conditions in 16 hex digits: they name the training and seed its random numbers."""
        return key_of(self.conditions(proxy, seed))

    def key_with_seed(self, key: str, seed: int) -> str | None:
        """The key of the training called ``key`` with another seed; None where the store has no
        record of it. Needs no data.
        """
        for record in self._select(_RECORDS.c.key == key):
            seeds = [self.setting.spec.search.seed, seed]
            return key_of(record.conditions | {"seed": seeds})
        return None

    # Scores

    def score(
        self,
        network: UNetConfig,
        budget: int | None = None,
        seed: int = 0,
        init: str | None = None,
        progress: Progress | None = None,
    ) -> Record:
        """Train the proxy of ``network`` and take its held-out loss, or answer from the store.

        A training that was cut off goes on from its checkpoint; a longer budget goes on from the
        longest shorter one whose checkpoint is there, and gives the same as in one go. Of two
        workers with one key the second waits and reads.

        Args:
            network: The candidate, at deployment scale.
            budget: Pictures to see; by default as many as the study says.
            seed: Counts the repetitions of the network from 0.
            init: What to start from: what the study says, which is the default.
            progress: Called with pictures seen and the loss, once in a while.

        Raises:
            InputError: Latent space or resolution do not suit the network, or ``init`` is unknown.
            TrainingMemoryError: Memory ran out. Nothing is kept but the checkpoint: with more
                memory it may go on.
        """
        spec = self.setting.spec
        if init not in (None, spec.proxy.init):
            raise InputError(
                f"init: '{init}' is not what the study starts trainings from. Allowed is "
                f"{spec.proxy.init}; proxy.init says it."
            )
        blank = self._blank(network, spec.proxy.samples if budget is None else budget, seed)
        if found := self.find(blank.key, blank.budget):
            return found
        while True:
            with self.claims.held(_claim_of(blank)), suppress(ClaimLostError):
                return self.find(blank.key, blank.budget) or self._train(blank, progress)

    def _blank(self, network: UNetConfig, budget: int, seed: int) -> Record:
        """The record of a training that is still to be done."""
        proxy = self.setting.proxy(network)
        return Record(
            key=self.key(proxy, seed),
            budget=budget,
            network=network.digest,
            proxy=proxy.digest,
            config=proxy.to_dict(),
            seed=seed,
            conditions=self.conditions(proxy, seed),
            outcome="complete",
            scores={},
            details=self._described(network),
            machine=socket.gethostname(),
            from_store=False,
        )

    def _described(self, network: UNetConfig) -> dict[str, Any]:
        """What a model of the scores has to know of a network."""
        counted, point = price(plan(network)), self.setting.space.locate(network)
        return {
            "point": None if point is None else self.setting.space.labels(point),
            "params": counted.params,
            "macs": counted.macs,
        }

    def find(self, key: str, budget: int) -> Record | None:
        """The record of a training after a budget; of one that diverged before, that record."""
        at = (_RECORDS.c.key == key) & (
            (_RECORDS.c.budget == budget)
            | ((_RECORDS.c.outcome == DIVERGED) & (_RECORDS.c.budget < budget))
        )
        return next(iter(self._select(at)), None)

    def _is_finished(self, key: str, budget: int) -> bool:
        return self.find(key, budget) is not None

    def _select(self, where: Any = True) -> list[Record]:
        columns = [column for column in _RECORDS.columns if column.name != "study"]
        query = sql.select(*columns).where(_RECORDS.c.study == self.setting.name, where)
        with self.run.storage.told(), self.engine.connect() as connection:
            return [Record(**row._mapping) for row in connection.execute(query)]

    def all(self) -> list[Record]:
        """Every record."""
        return self._select()

    def alike(self, keys: Collection[str]) -> list[Record]:
        """Every complete record of the whole of its budget under the conditions that the records
        named by ``keys`` have: the same in all but network, seed and budget.
        """
        found = [record for record in self._select() if record.counts]
        wanted = [_but_seed(record, budget=False) for record in found if record.key in keys]
        return [record for record in found if _but_seed(record, budget=False) in wanted[:1]]

    def state(self) -> tuple[int, int]:
        """Two numbers that change when a record or a metric comes in."""
        with self.engine.connect() as connection:
            counts = [
                connection.execute(
                    sql.select(sql.func.count()).where(table.c.study == self.setting.name)
                ).scalar_one()
                for table in (_RECORDS, _METRICS)
            ]
        return counts[0], counts[1]

    def seconds_here(self) -> list[tuple[int, dict[str, Any]]]:
        """Budget and details of every complete record of this machine."""
        here = (_RECORDS.c.machine == socket.gethostname()) & (_RECORDS.c.outcome == "complete")
        return [(record.budget, record.details) for record in self._select(here)]

    def rows(self) -> list[dict[str, Any]]:
        """Every record as a row, with what metrics there are of it that still hold."""
        taken = self.taken()
        return [
            {
                "key": record.key,
                "budget": record.budget,
                "network": record.network,
                "proxy": record.proxy,
                "seed": record.seed,
                "init": record.conditions["recipe"]["init"],
                "precision": record.conditions["recipe"]["precision"],
                "data": record.conditions["data"],
                "conditions": json.dumps(_but_seed(record), sort_keys=True),
                "outcome": record.outcome,
                "counts": record.counts,
                "machine": record.machine,
                **record.details,
                **record.scores,
                **taken.get((record.key, record.budget, 0), {}),
            }
            for record in self.all()
        ]

    def records(self, **where: Any) -> "pd.DataFrame":
        """``rows`` as a table.

        Args:
            where: Values that columns must have, such as ``outcome="complete"``, ``seed=0``.

        Raises:
            InputError: There is no such column.
        """
        import pandas as pd

        table = pd.DataFrame(self.rows())
        for name, value in where.items():
            if name not in table and len(table):
                known = ", ".join(table.columns)
                raise InputError(f"records: there is no column '{name}'. There are: {known}.")
            table = table[table[name] == value] if len(table) else table
        return table

    def _train(self, record: Record, progress: Progress | None = None) -> Record:
        """Do the training that ``record`` names; returns it with what came of it."""
        from archsearch.diffusion import evaluate
        from archsearch.diffusion.recipe import Loss, denoising_loss
        from archsearch.diffusion.trainer import DivergedError, Trainer
        from archsearch.study.parent import Distillation
        from archsearch.unet.weights import save_weights

        spec, folder = self.setting.spec, self.run.training(record.name)
        recipe = spec.proxy.recipe
        self.files.begin_from_furthest(record.key, record.name, recipe.steps_for(record.budget))
        shared = looked = time.monotonic()

        def watch(samples: int, loss: float) -> None:
            nonlocal shared, looked
            if progress:
                progress(samples, loss)
            now = time.monotonic()
            if now - looked > HEARTBEAT_SECONDS:
                if self.claims.is_lost(_claim_of(record)):
                    raise ClaimLostError(f"training {record.name} was given to another worker.")
                looked = now
            if now - shared > SHARE_SECONDS:
                self.files.share_checkpoint(record.name)
                shared = now

        config, parent = UNetConfig.model_validate(record.config), self.parent
        named, initial = record.key, None
        loss: Loss = denoising_loss
        if parent is not None:
            # All candidates meet the same pictures, times and noise: they compare in pairs.
            named = key_of({k: v for k, v in record.conditions.items() if k != "proxy"})
            initial = parent.state_for(config)
            if recipe.distill:
                loss = Distillation(parent, recipe.distill, self.device)
        try:
            trainer = Trainer(
                config,
                self.data,
                recipe,
                int(named[:15], 16),
                self.device,
                folder,
                spec.engine.tensorboard,
                loss,
                initial,
            )
            capped = not trainer.run(record.budget, watch)
            model = trainer.averaged()
            started = time.monotonic()
            scores = evaluate.held_out(model, self.data, recipe, self.device).scores()
            if not math.isfinite(scores["val_loss"]):
                raise DivergedError(f"the held-out loss is {scores['val_loss']}")
        except DivergedError as error:
            ended = {"reason": str(error), "last_good": error.last_good}
            record = replace(record, outcome=error.outcome, details=record.details | ended)
        else:
            tail = trainer.losses[-max(1, len(trainer.losses) // 10) :] or [scores["val_loss"]]
            details = {
                "samples": trainer.samples,
                "train_seconds": round(trainer.seconds, 3),
                "scoring_seconds": round(time.monotonic() - started, 3),
                "train_loss": sum(tail) / len(tail),
                "capped": capped,
            }
            record = replace(record, scores=scores, details=record.details | details)
            if trainer.log:
                trainer.log.scalar("val_loss", scores["val_loss"], trainer.samples)
                trainer.log.close()
            save_weights(model.state_dict(), self.files.weights(record.name))
            trainer.save()
            self.files.share(record.name)
            self.files.keep_quota(record.name, self._is_finished)
        self._write(record)  # last: whoever reads it finds the weights
        return record

    def _write(self, record: Record) -> None:
        place = {"study": self.setting.name, "key": record.key, "budget": record.budget}
        rest = [column.name for column in _RECORDS.columns if column.name not in place]
        values = place | {name: getattr(record, name) for name in rest}
        at = sql.and_(*(_RECORDS.c[column] == value for column, value in place.items()))
        with self.engine.begin() as connection:
            connection.execute(_RECORDS.delete().where(at))
            connection.execute(_RECORDS.insert().values(**values))

    # Weights

    def load(self, record: Record) -> "UNet":
        """Rebuild a trained proxy; where its weights are gone, train it again: the same key, the
        same weights.

        Raises:
            ArchsearchError: The weights are of another network, or gone and not to be made again.
        """
        import torch

        from archsearch.unet.model import UNet
        from archsearch.unet.weights import load_weights

        config, path = UNetConfig.model_validate(record.config), self.files.weights(record.name)
        if config.digest != record.proxy:
            raise ArchsearchError(
                f"{self.run.storage}: record {record.name}: its network is {config.digest}, but it "
                f"says {record.proxy}: the database is damaged."
            )
        while self.files.fetch_weights(record.name) is None:
            if self.key(config, record.seed) != record.key:
                raise ArchsearchError(
                    f"{path}: is gone and cannot be made again: data, code or device have changed "
                    "since."
                )
            with self.claims.held(_claim_of(record)), suppress(ClaimLostError):
                self._train(record)
                self._write(record)  # as it was: what it took the first time
        model = UNet(config)
        model.load_state_dict(load_weights(config, path))
        return model.eval().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    # Metrics

    def metric(self, record: Record, name: str) -> float:
        """One score of a trained proxy, taken if it is not there yet; see :meth:`metrics`."""
        return self.metrics(record, (name,))[name]

    def metrics(
        self, record: Record, names: Sequence[str], steps: int | None = None
    ) -> dict[str, float]:
        """Scores of a trained proxy that are taken when they are asked for: of the pictures it
        draws, and in int8. Each with its companions; each taken again where what it was computed
        under has changed.

        Args:
            record: A training.
            names: Scores out of ``MEASURED``.
            steps: Steps that the trial chose, where the study searches them; or any other number
                of steps than the study's own.

        Raises:
            InputError: A metric lacks its file, or the captions allow no recombinations.
        """
        from archsearch.diffusion.sample import sample

        spec, sampling = self.setting.spec, self.setting.spec.sampling.at(steps)

        def take(missing: Sequence[str]) -> dict[str, dict[str, float]]:
            model, data = self.load(record), self.data

            def draw(context: "torch.Tensor") -> "torch.Tensor":
                return sample(
                    model,
                    context,
                    data.null_context,
                    sampling,
                    spec.search.seed,
                    self.device,
                    data.latent,
                    spec.proxy.prediction,
                )

            return measure(model, missing, draw, spec, self.data, self.networks, self.device)

        return self._metrics(record, names, steps, take)

    def metrics_of_derived(
        self, derived: Derived, names: Sequence[str], steps: int, load: "Callable[[], Trained]"
    ) -> dict[str, float]:
        """Scores of the pictures that a distilled network draws, as :meth:`metrics` takes those of
        the network that it came from: the same captions and noise, and the study's guidance, or
        the weight nearest to it that the distilled network gives.

        Args:
            derived: What was made from a training.
            names: Scores out of ``SAMPLED``.
            steps: Steps that it was distilled to.
            load: Reads the distilled network, where a score is not there yet.

        Raises:
            InputError: A metric lacks its file, or the captions allow no recombinations.
        """
        import torch

        from archsearch.diffusion.sample import sample_under, sampling_for

        spec = self.setting.spec

        def take(missing: Sequence[str]) -> dict[str, dict[str, float]]:
            model, conditions = load()
            low, high = conditions.guidance or (1.0, spec.sampling.guidance)
            guidance = min(max(spec.sampling.guidance, low), high)
            sampling, empty = sampling_for(conditions, steps, guidance), self.data.null_context

            def draw(context: torch.Tensor) -> torch.Tensor:
                both = torch.cat([context, empty[None].to(context)])
                seed = spec.search.seed
                return sample_under(model, conditions, both, sampling, seed, self.device)

            return measure(model, missing, draw, spec, self.data, self.networks, self.device)

        return self._metrics(derived, names, steps, take)

    def _metrics(
        self,
        of: "Record | Derived",
        names: Sequence[str],
        steps: int | None,
        take: Callable[[Sequence[str]], dict[str, dict[str, float]]],
    ) -> dict[str, float]:
        """What is there of some metrics, and what ``take`` gives of the others."""
        with self.claims.held(f"metrics {of.name}", poll_seconds=0.2):
            known = self.known_metrics(of, names, steps, self.networks)
            if missing := tuple(name for name in names if name not in known):
                found = take(missing)
                for name, scores in found.items():
                    self.keep_metric(of, name, scores, steps)
                known |= found
        return {label: value for name in names for label, value in known[name].items()}

    def known_metrics(
        self,
        record: "Record | Derived",
        names: Collection[str] = MEASURED,
        steps: int | None = None,
        networks: "Networks | None" = None,
    ) -> dict[str, dict[str, float]]:
        """Those of a record's metrics that are what the study would compute now, each with its
        companions. Where the metrics' ``networks`` are given, they must be of these too.

        Raises:
            InputError: A network that a metric needs cannot be used.
        """
        at = (_METRICS.c.key == record.key) & (_METRICS.c.budget == record.budget)
        return {
            row.name: row.scores
            for row in self._metric_rows(at & (_METRICS.c.steps == (steps or 0)))
            if row.name in names
            and row.name in MEASURED
            and self._holds(row)
            and (networks is None or row.networks == networks_of(row.name, networks))
        }

    def taken(self) -> dict[tuple[str, int, int], dict[str, float]]:
        """Every metric in the store that is what the study would compute now, with its companions,
        by key, budget and steps (0 where these are not searched).
        """
        found: dict[tuple[str, int, int], dict[str, float]] = {}
        for row in self._metric_rows():
            if row.name in MEASURED and self._holds(row):
                found.setdefault((row.key, row.budget, row.steps), {}).update(row.scores)
        return found

    def keep_metric(
        self,
        record: "Record | Derived",
        name: str,
        scores: dict[str, float],
        steps: int | None = None,
    ) -> None:
        """Put a metric of a record into the store, with what it was computed under."""
        place = {
            "study": self.setting.name,
            "key": record.key,
            "budget": record.budget,
            "name": name,
            "steps": steps or 0,
        }
        values = {
            "under": conditions_of(self.setting.spec, name, steps),
            "networks": networks_of(name, self.networks),
            "scores": scores,
        }
        at = sql.and_(*(_METRICS.c[column] == value for column, value in place.items()))
        with self.engine.begin() as connection:
            connection.execute(_METRICS.delete().where(at))
            connection.execute(_METRICS.insert().values(**place, **values))

    def _metric_rows(self, where: Any = True) -> Sequence[Any]:
        query = _METRICS.select().where(_METRICS.c.study == self.setting.name, where)
        with self.run.storage.told(), self.engine.connect() as connection:
            return connection.execute(query).fetchall()

    def _holds(self, row: Any) -> bool:
        """Whether versions and settings of a metric's row are today's."""
        return bool(row.under == conditions_of(self.setting.spec, row.name, row.steps or None))


def _but_seed(record: Record, budget: bool = True) -> dict[str, Any]:
    """Conditions that trainings share whose scores differ by network and seed alone."""
    kept = {k: v for k, v in record.conditions.items() if k not in ("proxy", "seed")}
    return kept | ({"budget": record.budget} if budget else {})


def _claim_of(record: Record) -> str:
    return f"training {record.key}"
