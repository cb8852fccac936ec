"""Edit recipes: steps in order, each from the architecture before it; errors name file and step."""

from pathlib import Path

import pytest

from archsearch.cost.price import price
from archsearch.edit.recipe import Recipe, Step, apply_step, load_recipe
from archsearch.errors import InputError
from archsearch.unet.presets import preset

TEXT = """\
schema: 1
steps:
  - name: attention out of 64²
    set: {"stages[0].*.layers": []}
  - name: three stages
    set: {stages.length: 3}
  - name: thin inside
    set:
      stages[2].channels: 1024
      stages[2].conv: separable
  - name: three transformer blocks
    set:
      stages[2].up[2].transformers: 3
      stages[2].up.length: 4
"""
PATH = Path("recipe.yaml")


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_steps_are_applied_in_order(tmp_path: Path) -> None:
    path = write(tmp_path, TEXT)
    recipe = load_recipe(path)
    assert [step.name for step in recipe.steps] == [
        "attention out of 64²",
        "three stages",
        "thin inside",
        "three transformer blocks",
    ]
    configs = [preset("sd15")]
    for step in recipe.steps:
        configs.append(apply_step(configs[-1], step, path))
    assert not any(
        block.transformers for block in (*configs[1].stages[0].down, *configs[1].stages[0].up)
    )
    assert [stage.channels for stage in configs[2].stages] == [320, 640, 1280]
    assert (configs[3].stages[2].channels, configs[3].conv_of(2)) == (1024, "separable")
    assert [len(block.transformers) for block in configs[4].stages[2].up] == [1, 1, 3, 1], (
        "lengths first, in whatever order"
    )
    assert configs[0] == preset("sd15"), "what is edited stays as it was"


def test_every_step_changes_the_cost(tmp_path: Path) -> None:
    path = write(tmp_path, TEXT)
    config = preset("sd15")
    costs = [price(config)]
    for step in load_recipe(path).steps:
        config = apply_step(config, step, path)
        costs.append(price(config))
    params = [cost.params for cost in costs]
    assert params[0] > params[1] > params[2] > params[3] < params[4]
    assert costs[1].macs < costs[0].macs
    assert costs[3].macs < costs[2].macs


def test_a_later_step_may_undo_an_earlier_one() -> None:
    there, back = (Step(name=conv, set={"stages[1].conv": conv}) for conv in ("separable", "full"))
    config = preset("sd15")
    assert apply_step(apply_step(config, there, PATH), back, PATH) == config
    assert apply_step(config, there, PATH) != config


@pytest.mark.parametrize(
    ("where", "value", "expected"),
    [
        (
            "stages[1].chanels",
            640,
            "path 'stages[1].chanels': 'chanels' is not a part of it. Did you mean 'channels'?",
        ),
        ("stages[9].channels", 640, "stages[9].channels: [9] lies outside a list of 4."),
        ("stages[1].channels", 648, "stages[1].channels 648 is not a multiple of norm_groups 32."),
        (
            "stages[1].conv",
            "half",
            "stages[1].conv: must be 'full', 'separable', 'expanded' or 'inverted', but got "
            "'half'.",
        ),
        (
            "stages[1].down.length",
            "two",
            "stages[1].down.length: length must be a whole number from 0 to 16, but got 'two'.",
        ),
        (
            "attention.head_dim",
            48,
            "stages[0].channels 320 is not a multiple of its attention.head_dim 48.",
        ),
    ],
)
def test_an_impossible_step_is_refused_with_file_and_name(
    where: str, value: object, expected: str
) -> None:
    with pytest.raises(InputError) as caught:
        apply_step(preset("sd15"), Step(name="thin", set={where: value}), PATH)
    assert str(caught.value).startswith(f"recipe.yaml: step 'thin': {expected}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "schema: 2\nsteps: [{name: a, set: {conv: full}}]\n",
            r"recipe\.yaml:1: schema: must be 1, but got 2\.",
        ),
        ("steps: [{name: a, set: {conv: full}}]\n", r"recipe\.yaml: schema: Field required"),
        ("schema: 1\nsteps: []\n", r"recipe\.yaml:2: steps: .* at least 1 item"),
        (
            "schema: 1\nsteps:\n  - name: a\n    sett: {}\n    set: {a: 1}\n",
            r"yaml:4: .*\.sett: .* mean 'set'\?",
        ),
        (
            "schema: 1\nsteps:\n  - name: a\n    set: {}\n",
            r"yaml:4: steps\[0\]\.set: .* at least 1 item",
        ),
        (
            "schema: 1\nsteps:\n  - name: a\n    set: {conv: full, conv: full}\n",
            r"recipe\.yaml:4: .*conv: is given twice",
        ),
    ],
)
def test_wrong_recipes_are_refused_with_line_and_key(
    text: str, expected: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=expected):
        load_recipe(write(tmp_path, text))
    with pytest.raises(InputError, match=r"absent\.yaml: cannot be read"):
        load_recipe(tmp_path / "absent.yaml")


def test_a_recipe_is_plain_data() -> None:
    recipe = Recipe.model_validate(
        {"schema": 1, "steps": [{"name": "a", "set": {"conv": "separable"}}]}
    )
    assert recipe.steps == (Step(name="a", set={"conv": "separable"}),)


def test_a_step_without_a_name_is_one_problem_not_two(tmp_path: Path) -> None:
    path = write(tmp_path, "schema: 1\nsteps:\n  - set: {attention.kv: shared}\n")
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    assert len(str(caught.value).splitlines()) == 1
    assert "steps[0].name" in str(caught.value)
