"""A training: what it learns, that it repeats, that it stops and goes on."""

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archsearch.data.prepare import Prepared
from archsearch.diffusion import trainer as module
from archsearch.diffusion.evaluate import held_out
from archsearch.diffusion.recipe import Draws, denoising_loss
from archsearch.diffusion.spec import Recipe
from archsearch.diffusion.trainer import (
    CHECKPOINT,
    DivergedError,
    Trainer,
    TrainingMemoryError,
)
from archsearch.errors import InputError
from archsearch.unet.config import UNetConfig
from archsearch.unet.model import UNet
from tests.diffusion.made import CPU, train


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return trainer.averaged().state_dict()


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_same_seed_gives_the_same_weights(
    config: UNetConfig, data: Prepared, recipe: Recipe
) -> None:
    first, again, other = (weights(train(config, data, recipe, seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_the_budget_is_samples_seen(config: UNetConfig, data: Prepared, recipe: Recipe) -> None:
    seen: list[int] = []
    trained = train(config, data, recipe, 0, lambda samples, loss: seen.append(samples))
    assert trained.samples == 64
    assert seen[0] == 8


def test_seconds_only_cap_it(config: UNetConfig, data: Prepared, recipe: Recipe) -> None:
    trainer = Trainer(config, data, recipe.model_copy(update={"max_seconds": 1e-9}), 0, CPU)
    assert not trainer.run(64)
    assert trainer.samples == 8


def test_training_lowers_the_held_out_loss(
    config: UNetConfig, data: Prepared, recipe: Recipe
) -> None:
    torch.manual_seed(0)
    fresh = held_out(UNet(config).eval(), data, recipe, CPU).loss
    trained = train(config, data, recipe.model_copy(update={"samples": 1600}))
    assert held_out(trained.averaged(), data, recipe, CPU).loss < 0.6 * fresh


def test_the_average_is_returned_not_the_last_weights(
    config: UNetConfig, data: Prepared, recipe: Recipe
) -> None:
    averaged = weights(train(config, data, recipe))
    last = weights(train(config, data, recipe.model_copy(update={"ema": 0.0})))
    assert not torch.equal(averaged["input.weight"], last["input.weight"])


def test_a_loss_that_is_no_number_ends_the_training_by_name(
    config: UNetConfig, data: Prepared, recipe: Recipe
) -> None:
    with pytest.raises(DivergedError, match="diverged at sample"):
        train(config, data, recipe.model_copy(update={"learning_rate": 1e30, "warmup": 0.0}))


def test_bf16_is_asked_for_and_kept(config: UNetConfig, data: Prepared, recipe: Recipe) -> None:
    short = recipe.model_copy(update={"samples": 16})
    trained = train(config, data, short.model_copy(update={"precision": "bf16"}))
    assert trained.averaged().input.weight.dtype == torch.float32  # master weights stay in fp32
    assert trained.losses != train(config, data, short).losses


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_stopped_and_taken_up_again_it_gives_the_same_to_the_last_digit(
    precision: str, config: UNetConfig, data: Prepared, recipe: Recipe, tmp_path: Path
) -> None:
    recipe = recipe.model_copy(update={"precision": precision})
    whole = Trainer(config, data, recipe, 3, CPU)
    whole.run(64)
    first = Trainer(config, data, recipe, 3, CPU, tmp_path)
    first.run(24)
    first.save()
    first.run(40)  # after the checkpoint: lost
    second = Trainer(config, data, recipe, 3, CPU, tmp_path)
    assert second.samples == 24
    second.run(64)
    assert equal(weights(second), weights(whole))
    assert second.losses == whole.losses


def test_a_longer_budget_passes_through_the_shorter_one(
    config: UNetConfig, data: Prepared, recipe: Recipe
) -> None:
    longer = Trainer(config, data, recipe, 0, CPU)
    longer.run(64)
    at_64 = weights(longer)
    longer.run(128)
    shorter = Trainer(config, data, recipe, 0, CPU)
    shorter.run(64)
    assert equal(at_64, weights(shorter))
    assert not equal(at_64, weights(longer))


def test_a_longer_budget_goes_on_from_the_checkpoint_of_a_shorter_one_in_another_folder(
    config: UNetConfig, data: Prepared, recipe: Recipe, tmp_path: Path
) -> None:
    whole = Trainer(config, data, recipe, 3, CPU)
    whole.run(128)
    shorter = Trainer(config, data, recipe, 3, CPU, tmp_path / "64")
    shorter.run(64)
    shorter.save()
    (tmp_path / "128").mkdir()
    shutil.copy(tmp_path / "64" / CHECKPOINT, tmp_path / "128" / CHECKPOINT)
    longer = Trainer(config, data, recipe, 3, CPU, tmp_path / "128")
    assert longer.samples == 64
    assert longer.run(128)
    assert equal(weights(longer), weights(whole))
    assert longer.losses == whole.losses
    assert rows(tmp_path / "128") == [88, 128]
    assert rows(tmp_path / "64") == [8, 64]


def halved(model: nn.Module, draws: Draws, scheduler: Any, recipe: Recipe) -> Tensor:
    return denoising_loss(model, draws, scheduler, recipe) / 2


def test_the_loss_is_an_argument(
    config: UNetConfig, data: Prepared, recipe: Recipe, tmp_path: Path
) -> None:
    plain = Trainer(config, data, recipe, 0, CPU)
    other = Trainer(config, data, recipe, 0, CPU, tmp_path, loss=halved)
    for trainer in (plain, other):
        trainer.run(8)
    assert other.losses[0] == pytest.approx(plain.losses[0] / 2)
    other.save()
    assert Trainer(config, data, recipe, 0, CPU, tmp_path, loss=halved).samples == 8
    with pytest.raises(InputError, match=r"these differ: loss \(halved there, None here\)"):
        Trainer(config, data, recipe, 0, CPU, tmp_path)


def test_a_batch_in_parts_is_the_same_batch(
    config: UNetConfig, data: Prepared, recipe: Recipe
) -> None:
    at_once, in_parts = (
        Trainer(config, data, recipe.model_copy(update={"accumulate": n}), 0, CPU) for n in (1, 3)
    )
    for trainer in (at_once, in_parts):
        trainer.run(32)
    for name, tensor in weights(at_once).items():
        torch.testing.assert_close(tensor, weights(in_parts)[name], atol=1e-4, rtol=1e-3)


def test_every_picture_is_seen_before_any_comes_again(
    config: UNetConfig, data: Prepared, recipe: Recipe
) -> None:
    trainer = Trainer(config, data, recipe.model_copy(update={"batch": 5}), 0, CPU)
    seen = torch.cat([trainer._next_batch() for _ in range(10)]).tolist()
    assert sorted(seen[:24]) == sorted(seen[24:48]) == data.train.tolist()


def test_what_is_trained_changes_with_the_recipe(
    config: UNetConfig, data: Prepared, recipe: Recipe
) -> None:
    plain = Trainer(config, data, recipe, 0, CPU)
    plain.run(16)
    for change in (
        {"prediction": "epsilon"},
        {"min_snr": 5.0},
        {"caption_dropout": 0.9},
        {"times": "independent"},
    ):
        other = Trainer(config, data, recipe.model_copy(update=change), 0, CPU)
        other.run(16)
        assert other.losses != plain.losses


@pytest.mark.parametrize("layout", [True, False])
def test_the_layout_in_memory_does_not_change_what_is_learned(
    layout: bool, config: UNetConfig, data: Prepared, recipe: Recipe
) -> None:
    chosen, auto = (
        Trainer(config, data, recipe.model_copy(update={"channels_last": c}), 0, CPU)
        for c in (layout, "auto")
    )
    for trainer in (chosen, auto):
        trainer.run(16)
    assert chosen.losses == pytest.approx(auto.losses, rel=1e-4)


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(
    config: UNetConfig, data: Prepared, recipe: Recipe
) -> None:
    plain, compiled = (
        Trainer(config, data, recipe.model_copy(update={"compile": c}), 0, CPU)
        for c in (False, True)
    )
    for trainer in (plain, compiled):
        trainer.run(32)
    assert compiled.losses == pytest.approx(plain.losses, rel=1e-3)
    assert set(weights(compiled)) == set(weights(plain))


def test_a_checkpoint_is_of_one_training(
    config: UNetConfig, data: Prepared, recipe: Recipe, tmp_path: Path
) -> None:
    trainer = Trainer(config, data, recipe, 0, CPU, tmp_path)
    trainer.run(16)
    trainer.save()
    wider = config.model_copy(update={"time_width": 128})
    with pytest.raises(
        InputError,
        match=rf"{CHECKPOINT}: is the checkpoint of another training; these differ: network",
    ):
        Trainer(wider, data, recipe, 0, CPU, tmp_path)
    with pytest.raises(
        InputError, match=r"recipe\.learning_rate \(0\.003 there, 0\.1 here\); seed"
    ):
        Trainer(config, data, recipe.model_copy(update={"learning_rate": 0.1}), 1, CPU, tmp_path)
    assert (
        Trainer(
            config, data, recipe.model_copy(update={"max_seconds": 9.0}), 0, CPU, tmp_path
        ).samples
        == 16
    )


def test_a_damaged_checkpoint_is_named(
    config: UNetConfig, data: Prepared, recipe: Recipe, tmp_path: Path
) -> None:
    trainer = Trainer(config, data, recipe, 0, CPU, tmp_path)
    trainer.run(8)
    trainer.save()
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=f"{CHECKPOINT}: cannot be read as a checkpoint"):
        Trainer(config, data, recipe, 0, CPU, tmp_path)


def test_a_diverged_training_says_where_its_last_good_state_is(
    config: UNetConfig, data: Prepared, recipe: Recipe, tmp_path: Path
) -> None:
    trainer = Trainer(config, data, recipe, 0, CPU, tmp_path)
    trainer.run(16)
    trainer.save()
    with torch.no_grad():
        trainer.model.input.weight.fill_(float("nan"))
    with pytest.raises(
        DivergedError, match=r"diverged at sample 24: loss nan; its last good state is .*checkpoint"
    ) as ended:
        trainer.run(64)
    assert ended.value.last_good == str(tmp_path / CHECKPOINT)
    assert Trainer(config, data, recipe, 0, CPU, tmp_path).run(64)  # and it is good


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 TB"),
    ],
)
def test_running_out_of_memory_has_a_name(
    error: Exception, config: UNetConfig, data: Prepared, recipe: Recipe
) -> None:
    def fail(*_: object) -> Tensor:
        raise error

    trainer = Trainer(config, data, recipe, 0, CPU)
    trainer.run(16)
    trainer.loss = fail
    with pytest.raises(TrainingMemoryError, match="memory ran out at sample 16") as ended:
        trainer.run(64)
    assert ended.value.outcome == "infeasible: memory"


def test_any_other_error_keeps_its_own(config: UNetConfig, data: Prepared, recipe: Recipe) -> None:
    def fail(*_: object) -> Tensor:
        raise RuntimeError("shapes do not agree")

    trainer = Trainer(config, data, recipe, 0, CPU, loss=fail)
    with pytest.raises(RuntimeError, match="shapes do not agree"):
        trainer.run(64)


def test_too_few_pictures_for_a_batch_are_refused_at_once(
    config: UNetConfig, data: Prepared, recipe: Recipe
) -> None:
    with pytest.raises(InputError, match=r"proxy\.batch: 25 is more than the 24 pictures"):
        Trainer(config, data, recipe.model_copy(update={"batch": 25}), 0, CPU)


def test_checkpoints_are_written_while_it_runs(
    config: UNetConfig,
    data: Prepared,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(module, "CHECKPOINT_SHARE", 1e9)
    Trainer(config, data, recipe, 0, CPU, tmp_path).run(96)
    assert Trainer(config, data, recipe, 0, CPU, tmp_path).samples == 96


def rows(folder: Path) -> list[int]:
    with (folder / "log.csv").open() as file:
        return [int(row["samples"]) for row in csv.DictReader(file)]


def test_the_log_grows_with_the_training_and_forgets_what_was_lost(
    config: UNetConfig, data: Prepared, recipe: Recipe, tmp_path: Path
) -> None:
    first = Trainer(config, data, recipe, 0, CPU, tmp_path)
    first.run(96)
    first.save()
    first.run(200)
    assert rows(tmp_path) == [8, 88, 96, 168, 200]
    with (tmp_path / "log.csv").open("a") as file:
        file.write("240,0.1")  # cut off
    second = Trainer(config, data, recipe, 0, CPU, tmp_path)
    assert rows(tmp_path) == [8, 88, 96]
    second.run(104)
    assert rows(tmp_path) == [8, 88, 96, 104]


def test_a_learning_rate_that_falls_is_nothing_at_the_end(
    config: UNetConfig, data: Prepared, recipe: Recipe, tmp_path: Path
) -> None:
    recipe = recipe.model_copy(update={"samples": 96, "warmup": 0.0})
    for decays in (False, True):
        trainer = Trainer(config, data, recipe, 0, CPU, tmp_path / str(decays), decays=decays)
        trainer.run(96)
        trainer.save()
    of_both = []
    for decays in (False, True):
        with (tmp_path / str(decays) / "log.csv").open() as file:
            of_both.append([float(row["learning_rate"]) for row in csv.DictReader(file)])
    rate = recipe.learning_rate
    assert of_both[0] == pytest.approx([rate] * 3)
    # twelve steps, of which the first, the eleventh and the last are logged
    assert of_both[1] == pytest.approx([rate, rate * 2 / 12, rate * 1 / 12])
    longer = recipe.model_copy(update={"samples": 192})  # over which it would have fallen otherwise
    with pytest.raises(InputError, match="until the learning rate is nothing"):
        Trainer(config, data, longer, 0, CPU, tmp_path / "True", decays=True)


def test_tensorboard_gets_the_same_numbers(
    config: UNetConfig, data: Prepared, recipe: Recipe, tmp_path: Path
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trainer = Trainer(config, data, recipe, 0, CPU, tmp_path, tensorboard=True)
    trainer.run(96)
    assert trainer.log
    trainer.log.close()
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("training/loss")] == rows(tmp_path)
