"""What is kept of a large study beside its scores, so that looking at it takes no long time.

*Finished trials*: Optuna has a trial in a dozen rows and reads the distribution of every parameter
anew: 2,000 trials take it a second and a half. A finished trial never changes, so that each is kept
as one row here. What still runs or waits, and what has finished since, is asked of Optuna every
time.

*Values* that were computed of all trainings, such as what the model of the scores believes: kept
under a digest of all that they depend on, those of the latest digest only.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

import sqlalchemy as sql
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from archsearch.study.storage import TABLES

WORTH_KEEPING = 200
"""Fewer trials are read from Optuna as they are: that takes a moment."""
ONE_BY_ONE = 100
"""More trials that are not kept yet are read together."""

_FINISHED = sql.Table(
    "archsearch_finished",
    TABLES,
    sql.Column("study", sql.String(255), primary_key=True),
    sql.Column("number", sql.Integer, primary_key=True),
    sql.Column("space", sql.String(16), nullable=False),
    sql.Column("trial", sql.Text, nullable=False),
)
_VALUES = sql.Table(
    "archsearch_values",
    TABLES,
    sql.Column("study", sql.String(255), primary_key=True),
    sql.Column("digest", sql.String(64), nullable=False),
    sql.Column("found", sql.Text, nullable=False),
)


class FinishedTrials:
    """The trials of a study, of which finished ones are kept.

    Args:
        engine: Of the database, with our tables.
        storage: Optuna's storage in it.
        study: Name of the study.
        space: Distribution of each dimension. Trials of other distributions are not kept.
    """

    def __init__(
        self,
        engine: sql.Engine,
        storage: BaseStorage,
        study: str,
        space: Mapping[str, BaseDistribution],
    ) -> None:
        self._engine, self._storage, self._study, self._space = engine, storage, study, space
        self._optuna_id = storage.get_study_id_from_name(study)
        choices = {name: distribution_to_json(each) for name, each in space.items()}
        text = json.dumps(choices, sort_keys=True)
        self._space_digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._known: dict[int, FrozenTrial] | None = None

    def all(self) -> list[FrozenTrial]:
        """Every trial, by number; not to be changed."""
        if self._known is None:
            self._known = self._kept()
        unfinished = (TrialState.RUNNING, TrialState.WAITING)
        live = self._storage.get_all_trials(self._optuna_id, deepcopy=False, states=unfinished)
        found = self._known | {trial.number: trial for trial in live}
        if new := self._others(found):
            ended = {number: trial for number, trial in new.items() if trial.state.is_finished()}
            self._known |= ended
            found |= new
            if len(self._known) >= WORTH_KEEPING:
                self._keep(ended.values())
        return [found[number] for number in sorted(found)]

    def finished(self, number: int) -> FrozenTrial | None:
        """A trial that was finished when all were read last; it has not changed since."""
        return (self._known or {}).get(number)

    def _others(self, known: Mapping[int, FrozenTrial]) -> dict[int, FrozenTrial]:
        """Trials beside those that are known. Numbers have no gaps."""
        missing = [number for number in range(max(known, default=-1)) if number not in known]
        number = max(known, default=-1) + 1
        ids: dict[int, int] = {}
        with suppress(KeyError):
            while len(missing) + len(ids) <= ONE_BY_ONE:
                ids[number] = self._id(number)
                number += 1
        if len(missing) + len(ids) > ONE_BY_ONE:
            every = self._storage.get_all_trials(self._optuna_id, deepcopy=False)
            return {trial.number: trial for trial in every if trial.number not in known}
        ids |= {number: self._id(number) for number in missing}
        return {number: self._storage.get_trial(each) for number, each in ids.items()}

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._optuna_id, number)

    # Rows

    def _kept(self) -> dict[int, FrozenTrial]:
        """The trials that are kept; none where the study has become another under its name."""
        query = sql.select(_FINISHED.c.trial).where(
            _FINISHED.c.study == self._study, _FINISHED.c.space == self._space_digest
        )
        with self._engine.connect() as connection:
            rows = connection.scalars(query).all()
        found = {trial.number: trial for trial in map(self._from_text, rows)}
        if found:
            last = found[max(found)]
            with suppress(KeyError):
                if _to_text(self._storage.get_trial(self._id(last.number))) == _to_text(last):
                    return found
            self._forget()
        return {}

    def _forget(self) -> None:
        with suppress(SQLAlchemyError), self._engine.begin() as connection:
            connection.execute(_FINISHED.delete().where(_FINISHED.c.study == self._study))

    def _keep(self, trials: Iterable[FrozenTrial]) -> None:
        place = {"study": self._study, "space": self._space_digest}
        rows = [
            {**place, "number": trial.number, "trial": _to_text(trial)}
            for trial in trials
            if all(self._space.get(name) == each for name, each in trial.distributions.items())
            and not trial.intermediate_values
        ]
        # Somebody else may have kept them just now, or the database may only be read.
        with suppress(SQLAlchemyError), self._engine.begin() as connection:
            if rows:
                connection.execute(_FINISHED.insert(), rows)

    def _from_text(self, text: str) -> FrozenTrial:
        kept = json.loads(text)
        return FrozenTrial(
            number=kept["number"],
            trial_id=-1,  # as of trials that Optuna has not stored: nobody here asks for it
            state=TrialState[kept["state"]],
            value=None,
            values=kept["values"],
            datetime_start=kept["began"] and datetime.fromisoformat(kept["began"]),
            datetime_complete=kept["ended"] and datetime.fromisoformat(kept["ended"]),
            params=kept["params"],
            distributions={name: self._space[name] for name in kept["params"]},
            user_attrs=kept["user_attrs"],
            system_attrs=kept["system_attrs"],
            intermediate_values={},
        )


def _to_text(trial: FrozenTrial) -> str:
    began, ended = trial.datetime_start, trial.datetime_complete
    return json.dumps(
        {
            "number": trial.number,
            "state": trial.state.name,
            "values": trial.values,
            "began": began and began.isoformat(),
            "ended": ended and ended.isoformat(),
            "params": trial.params,
            "user_attrs": trial.user_attrs,
            "system_attrs": trial.system_attrs,
        }
    )


class KeptValues:
    """Values by name, as plain data, each computed once for all that look at the study.

    Args:
        engine: Of the database, with our tables.
        study: Name of the study.
        digest: Of all that the values depend on.
    """

    def __init__(self, engine: sql.Engine, study: str, digest: str) -> None:
        self._engine, self._place = engine, {"study": study, "digest": digest}
        query = sql.select(_VALUES.c.found).where(
            _VALUES.c.study == study, _VALUES.c.digest == digest
        )
        with engine.connect() as connection:
            self._found: dict[str, Any] = json.loads(connection.scalar(query) or "{}")

    def get(self, name: str, compute: Callable[[], Any]) -> Any:
        """The value called ``name``: what is kept, else what ``compute`` gives."""
        if name not in self._found:
            self._found[name] = compute()
            row = self._place | {"found": json.dumps(self._found)}
            with suppress(SQLAlchemyError), self._engine.begin() as connection:  # as above
                connection.execute(_VALUES.delete().where(_VALUES.c.study == row["study"]))
                connection.execute(_VALUES.insert().values(**row))
        return self._found[name]
