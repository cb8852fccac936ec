"""What is wrong with a space file is said at loading, with file, line, key and what is allowed.

What a test adds to the fixture's base begins in line 9.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from archsearch.errors import InputError
from archsearch.search_space.space import load_space

Refusal = Callable[[str], str]
GOOD = "dimensions:\n  a: {path: attention.kv, choices: [separate, shared]}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "dimensons: {}\n" + GOOD,
            "space.yaml:9: dimensons: is not a known key. Did you mean 'dimensions'?",
        ),
        (
            "dimensions:\n  a: {path: attention.kv, chioces: [1]}\n",
            "space.yaml:10: dimensions.a.chioces: is not a known key. Did you mean 'choices'? "
            "Allowed are: choices,",
        ),
        (
            "dimensions:\n  a:\n    path: attention.kw\n    choices: [shared]\n",
            "space.yaml:11: dimensions.a.path: path 'attention.kw': 'kw' is not a part of it. "
            "Did you mean 'kv'?",
        ),
        (
            "dimensions:\n  a:\n    path: [attention.kv, 'stages[7].channels']\n    choices: "
            "[shared]\n",
            "space.yaml:11: dimensions.a.path: [7] lies outside a list of 2.",
        ),
        (
            "dimensions:\n  a: {path: [], choices: [shared]}\n",
            "space.yaml:10: dimensions.a.path: names no place.",
        ),
        (
            "dimensions:\n  a: {path: attention.kv}\n",
            "space.yaml:10: dimensions.a: needs either choices or range.",
        ),
        (
            "dimensions:\n  a: {path: time_width, choices: [8], range: [8, 9]}\n",
            "space.yaml:10: dimensions.a: needs either choices or range.",
        ),
        (
            "dimensions:\n  a: {path: time_width, range: [9, 8]}\n",
            "space.yaml:10: dimensions.a: range must be [low, high] with low <= high, but got "
            "[9, 8].",
        ),
        (
            "dimensions:\n  a: {path: time_width, range: [8, 9], step: 0}\n",
            "space.yaml:10: dimensions.a.step: must be greater than or equal to 1, but got 0.",
        ),
        (
            "dimensions:\n  a: {path: attention.kv, choices: []}\n",
            "space.yaml:10: dimensions.a: choices must not be empty.",
        ),
        (
            "dimensions:\n  a: {path: attention.kv, choices: [shared, shared]}\n",
            "space.yaml:10: dimensions.a: choices must differ, but got ['shared', 'shared'].",
        ),
        (
            "dimensions:\n  a: {path: attention.kv, choices: [{b: 1}]}\n",
            "space.yaml:10: dimensions.a: a choice must be a number, a word, true, false or a "
            "list of layers, but got {'b': 1}.",
        ),
        (
            "dimensions:\n  a: {path: attention.kv, choices: 4}\n",
            "space.yaml:10: dimensions.a.choices: must be a list, such as [4], but got 4.",
        ),
        (
            GOOD + "rules: ['a == 3']\n",
            "space.yaml:11: rules[0]: 'a == 3' names the dimension 'a', but a rule is about the "
            "architecture: write its path, attention.kv.",
        ),
        (
            "dimensions:\n  a: {path: attention.kv, choices: [shared], when: 'middle'}\n",
            "space.yaml:10: dimensions.a.when: 'middle' names a part of the "
            "architecture, 'middle', but `when` is about other dimensions",
        ),
        (
            "dimensions:\n  a: {path: attention.kv, choices: [shared], when: b > 3}\n"
            "  b: {path: time_width, choices: [4]}\n",
            "space.yaml:10: dimensions.a.when: 'b > 3' names 'b', which stands below",
        ),
        ("dimensions: {}\n", "space.yaml:9: dimensions: Dictionary should have at least 1 item"),
        ("rules: []\n", "space.yaml: dimensions: Field required."),
        (GOOD + GOOD.replace("dimensions:\n", ""), "space.yaml:11: dimensions.a: is given twice."),
        (
            GOOD + "rules:\n  - time_width > 3\n  - stagse[1].channels > 3\n",
            "space.yaml:13: rules[1]: 'stagse[1].channels > 3' cannot be evaluated: 'stagse' is "
            "not defined for expression "
            "'stagse[1].channels > 3'. Did you mean 'stages'?",
        ),
        (
            GOOD + "rules: ['stages[1].chanels > 3']\n",
            "space.yaml:11: rules[0]: 'stages[1].chanels > 3' cannot be evaluated: Attribute "
            "'chanels' does not exist in "
            "expression 'stages[1].chanels > 3'. Did you mean 'channels'?",
        ),
        (
            GOOD + "rules: ['time_width >']\n",
            "space.yaml:11: rules[0]: 'time_width >' cannot be read: ",
        ),
        (
            GOOD + "rules: ['time_width = 3']\n",
            "space.yaml:11: rules[0]: 'time_width = 3' cannot be evaluated: it is not a condition",
        ),
        (
            GOOD + "  b: {path: time_width, choices: [8], when: \"aa == 'shared'\"}\n",
            "space.yaml:11: dimensions.b.when: 'aa == 'shared'' cannot be evaluated: 'aa' is "
            "not defined",
        ),
        (
            "dimensions:\n  b: {path: time_width, choices: [8], when: \"a == 'shared'\"}\n"
            + GOOD.replace("dimensions:\n", ""),
            "space.yaml:10: dimensions.b.when: 'a == 'shared'' names 'a', which stands below",
        ),
        (
            "dimensions:\n  a: {path: attention.kv, choices: [separate, sharred]}\n",
            "space.yaml:10: dimensions.a: 'sharred': Input should be 'separate', 'shared' or "
            "'shared_everywhere'.",
        ),
        (
            "dimensions:\n  w: {path: 'stages[0].channels', choices: [16, 20]}\n",
            "space.yaml:10: dimensions.w: 20: ",
        ),
        (
            "dimensions:\n  n: {path: 'stages[0].down.length', choices: [0, 1]}\n",
            "space.yaml:10: dimensions.n: 0: ",
        ),
        (
            "dimensions:\n  n: {path: 'stages[0].down.length', choices: [two]}\n",
            "space.yaml:10: dimensions.n: 'two': length must be a whole number from 0 to 16, "
            "but got 'two'.",
        ),
        (
            "dimensions:\n  n: {path: 'stages[1].*.layers', choices: [[ca], [xa]]}\n",
            "space.yaml:10: dimensions.n: 'xa': Input should be 'sa', 'ca', 'ff' or 'norm'.",
        ),
    ],
)
def test_a_wrong_space_is_refused_with_line_key_and_what_is_allowed(
    text: str, expected: str, refusal: Refusal
) -> None:
    assert refusal(text).startswith(expected)


def write(folder: Path, text: str) -> str:
    path = folder / "space.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("schema: 2\nbase: sd15\n", r"space\.yaml:1: schema: must be 1, but got 2\."),
        ("base: sd15\n", r"space\.yaml: schema: Field required"),
        (
            "schema: 1\nbase: sd51\n",
            r"space\.yaml:2: base: 'sd51' is neither a preset \(.*\) nor .* Did you mean 'sd15'\?",
        ),
        (
            "schema: 1\nbase: absent.json\n",
            r"space\.yaml:2: base: 'absent\.json' is neither a preset",
        ),
        ("schema: 1\n", r"space\.yaml: base: Field required"),
        (
            "schema: 1\nbase:\n  norm_groups: 8\n  stages:\n    - channels: 16\n      dwn: "
            "[{}]\n      down: [{}]\n",
            r"space\.yaml:6: stages\[0\]\.dwn: is not a known key\. Did you mean 'down'\?",
        ),
        (
            "schema: 1\nbase:\n  norm_groups: 32\n  stages: "
            "[{channels: 16, down: [{}], up: [{}]}]\n",
            r"space\.yaml:2: .*stages\[0\]\.channels 16 is not a multiple of norm_groups 32",
        ),
    ],
)
def test_a_wrong_base_is_refused(head: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=expected):
        load_space(write(tmp_path, head + GOOD))


def test_a_missing_space_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        InputError,
        match=r"space 'quikstart' is not known; there are: .* Did you mean 'quickstart'\?",
    ):
        load_space("quikstart")
    with pytest.raises(InputError, match=r"space 'absent\.yaml': there is no such file"):
        load_space("absent.yaml")


def test_values_that_another_dimension_can_mend_are_not_refused(tmp_path: Path) -> None:
    """A width of 24 needs 8 norm groups rather than 16: the space decides point by point."""
    text = (
        "schema: 1\nbase: "
        "{norm_groups: 16, sample_size: 8, stages: [{channels: 16, down: [{}], up: [{}]}]}\n"
        "dimensions:\n"
    )
    text += (
        '  w: {path: "stages[0].channels", choices: [16, 24]}\n  n: '
        "{path: norm_groups, choices: [8, 16]}\n"
    )
    loaded = load_space(write(tmp_path, text))
    assert loaded.build({"w": 24, "n": 8}).stages[0].channels == 24
