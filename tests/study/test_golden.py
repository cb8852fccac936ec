"""Old studies must still read the same, and old scores must still be found under their keys."""

import json
from pathlib import Path

from archsearch import documents
from archsearch.study.spec import StudySpec
from archsearch.study.store import Store

GOLDEN = Path(__file__).parents[1] / "golden" / "studies"


def test_every_key_of_a_study_reads_as_it_always_did() -> None:
    spec = documents.validate(documents.read(GOLDEN / "every-key.yaml"), StudySpec)
    assert spec.to_dict() == json.loads((GOLDEN / "every-key.json").read_text())


def test_a_study_from_before_a_key_reads_as_it_did() -> None:
    """Keys that have come since are there at their defaults, and nothing else has changed."""
    spec = documents.validate(documents.read(GOLDEN / "one-device.yaml"), StudySpec)
    then = json.loads((GOLDEN / "one-device.json").read_text())

    def kept(now: object, then: object) -> object:
        return (
            {key: kept(now[key], then[key]) for key in then}
            if isinstance(now, dict) and isinstance(then, dict)
            else now
        )

    assert kept(spec.to_dict(), then) == then
    assert spec.deployment.on_missing == "error"
    assert spec.deployment.pipeline is not None
    assert spec.deployment.pipeline.passes_a_step == 1


def test_no_key_is_missing_from_the_golden_study() -> None:
    given = documents.read(GOLDEN / "every-key.yaml").data
    read = StudySpec.model_validate(given).to_dict()

    def keys(value: object, at: str = "") -> set[str]:
        if not isinstance(value, dict):
            return {at}
        return {key for name, item in value.items() for key in keys(item, f"{at}.{name}")}

    assert keys(read) - keys(given) <= {
        ".search.sampler.population_size"
    }  # belongs to the other sampler


def test_a_training_keeps_its_key(store: Store) -> None:
    proxy = store.setting.proxy(store.setting.space.base)
    assert proxy.digest == "cbd1c52aefea495d"
    assert store.key(proxy) == "735cb4ba86b300cf"
    assert store.key(proxy, seed=1) == "10510d6744afe221"
