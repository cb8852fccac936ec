"""What was made from a run's networks: kept under what was done, so that nothing is made twice."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql
from sqlalchemy.exc import OperationalError

from archsearch import versions
from archsearch.errors import ArchsearchError
from archsearch.study.derived import DerivedNetworks
from archsearch.study.rundir import RunDir
from archsearch.study.setting import Setting
from archsearch.study.storage import TABLES
from archsearch.study.store import Store

RECORD = "0123456789abcdef"
SETTINGS: dict[str, Any] = {
    "method": "progressive",
    "to": 4,
    "samples": 32,
    "learning_rate": 3e-4,
    "seed": 0,
}
ROWS = [{"steps": 8, "error": 0.2}, {"steps": 4, "error": 0.3}]


@pytest.fixture
def derived(run: RunDir, setting: Setting) -> DerivedNetworks:
    return Store(run, setting).derived


def test_what_was_kept_is_found_again_by_what_was_done(
    derived: DerivedNetworks, run: RunDir, setting: Setting
) -> None:
    made = derived.keep(RECORD, 32, "distill", SETTINGS, ROWS)
    again = Store(run, setting).derived
    assert again.find(again.key(RECORD, 32, "distill", dict(reversed(SETTINGS.items())))) == made
    assert again.all() == [made]
    assert (made.rows, made.settings, made.budget) == (ROWS, SETTINGS, 32)


@pytest.mark.parametrize(
    "other",
    [
        {"record": "fedcba9876543210"},
        {"budget": 64},
        {"what": "adapt"},
        *({"settings": SETTINGS | {name: 2}} for name in SETTINGS),
    ],
    ids=str,
)
def test_whatever_else_was_done_is_something_else(
    derived: DerivedNetworks, other: dict[str, Any]
) -> None:
    asked = {"record": RECORD, "budget": 32, "what": "distill", "settings": SETTINGS}
    derived.keep(**asked, rows=ROWS)
    assert derived.find(derived.key(**asked)) is not None
    assert derived.find(derived.key(**asked | other)) is None


def test_what_would_be_made_otherwise_today_is_not_shown(
    derived: DerivedNetworks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new version of one distillation leaves others, and adapters, as they are."""
    derived.keep(RECORD, 32, "distill", SETTINGS, ROWS)
    adapter = derived.keep(RECORD, 32, "adapt", {"method": "lora"}, [{"val_loss": 0.2}])
    other = derived.keep(RECORD, 32, "distill", SETTINGS | {"method": "dmd"}, ROWS)
    monkeypatch.setitem(versions.DISTILLING, SETTINGS["method"], 99)
    assert sorted(each.key for each in derived.all()) == sorted([adapter.key, other.key])
    assert derived.find(derived.key(RECORD, 32, "distill", SETTINGS)) is None


def test_made_again_it_is_there_once(derived: DerivedNetworks) -> None:
    for error in (0.2, 0.1):
        last = derived.keep(RECORD, 32, "distill", SETTINGS, [{"steps": 4, "error": error}])
    assert derived.all() == [last]


def test_what_an_earlier_version_wrote_and_may_only_be_read_can_be_looked_at(
    derived: DerivedNetworks, run: RunDir, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OperationalError("CREATE", {}, Exception("attempt to write a readonly database"))

    engine = Store(run, setting).engine
    with engine.begin() as connection:
        connection.execute(sql.text("DROP TABLE archsearch_derived"))
    monkeypatch.setattr(TABLES, "create_all", refuse)
    assert Store(run, setting).derived.all() == []
    with engine.begin() as connection:
        TABLES.drop_all(connection)
    with pytest.raises(ArchsearchError, match=r"cannot be written: .*readonly"):
        Store(run, setting)


def test_studies_of_one_database_do_not_see_each_others(
    derived: DerivedNetworks, run: RunDir, setting: Setting, tmp_path: Path
) -> None:
    derived.keep(RECORD, 32, "distill", SETTINGS, ROWS)
    assert Store(run, replace(setting, name="another")).derived.all() == []
