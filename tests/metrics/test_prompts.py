import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archsearch.data.pictures import load_source
from archsearch.data.prepare import Prepared
from archsearch.data.spec import DataSpec
from archsearch.errors import InputError
from archsearch.metrics.evaluate import COLOURS, prompts_for, recombinations

OBJECTS = ("apple", "large square", "man's hair", "ball, round one")
coloured = st.tuples(st.sampled_from(COLOURS[:6]), st.sampled_from(OBJECTS)).map(" ".join)
styled = st.tuples(st.sampled_from(OBJECTS), st.sampled_from(("pencil", "flat", "red ink"))).map(
    lambda p: f"{p[0]}, {p[1]} style"
)
captions = st.lists(
    st.one_of(coloured, styled, st.sampled_from(OBJECTS), st.sampled_from(COLOURS)), max_size=15
)


@given(captions, captions, st.integers(1, 40), st.integers(0, 3))
def test_recombinations_are_new_of_known_parts_and_repeat(
    train: list[str], others: list[str], count: int, seed: int
) -> None:
    known = [*train, *others]
    try:
        found = recombinations(train, known, count, seed)
    except InputError:  # which data allow none is tested below
        return
    assert 0 < len(found) <= count
    assert len(set(found)) == len(found)
    assert not set(found) & set(known)
    assert found == recombinations(list(reversed(train)), set(known), count, seed)
    words = {word for caption in train for word in caption.replace(",", " ").split()}
    assert all(set(caption.replace(",", " ").split()) <= words for caption in found)


def test_by_hand() -> None:
    train = ["red apple", "green apple", "blue heart", "cat", "white and black flag", "orange"]
    assert sorted(recombinations(train, train, 10, 0)) == ["blue apple", "green heart", "red heart"]
    assert sorted(recombinations(train, [*train, "blue apple"], 10, 0)) == [
        "green heart",
        "red heart",
    ]
    styles = ["cat, pencil style", "dog, flat style", "dog, pencil style"]
    assert recombinations(styles, styles, 10, 0) == ["cat, flat style"]


def test_two_spellings_are_one_colour() -> None:
    with pytest.raises(InputError, match="none can be made of these 2 captions"):
        recombinations(["grey cat", "gray dog"], [], 10, 0)


def test_objects_take_turns() -> None:
    train = [f"{colour} square" for colour in COLOURS[:8]] + ["red apple", "red ball", "red cat"]
    first = recombinations(train, train, 3, seed=1)
    assert {caption.split()[1] for caption in first} == {"apple", "ball", "cat"}
    assert first != recombinations(train, train, 3, seed=2)


@pytest.mark.parametrize(
    "train",
    [[], ["cat", "dog"], ["red apple", "red cat"], ["red", "blue"], ["a bored dog", "a tired cat"]],
)
def test_data_that_allow_none_are_refused(train: list[str]) -> None:
    with pytest.raises(InputError, match=f"none can be made of these {len(train)} captions"):
        recombinations(train, train, 4, 0)


def test_the_packaged_drawings_give_enough() -> None:
    known = load_source(DataSpec()).captions
    found = recombinations(known, known, 128, 0)
    assert len(found) == 128
    assert len({caption.lower() for caption in found} & set(known)) == 0


def test_seen_prompts_are_spread_over_the_train_pictures(data: Prepared) -> None:
    prompts = prompts_for(data, "seen", 5, seed=0)
    assert prompts.index is not None
    assert prompts.captions == tuple(data.captions[i] for i in prompts.index)
    assert set(prompts.index.tolist()) <= set(data.train.tolist())
    assert len(prompts_for(data, "seen", 1000, seed=0).captions) == len(data.train)


def test_recombined_prompts_combine_train_captions_only(data: Prepared) -> None:
    names = ["red apple", "blue heart", "green cat"] + [
        f"thing {i}" for i in range(len(data.images) - 3)
    ]
    coloured = dataclasses.replace(
        data, captions=tuple(names), train=torch.tensor([0, 1, 9]), held_out=torch.tensor([2])
    )
    prompts = prompts_for(coloured, "recombined", 9, seed=0)
    assert (sorted(prompts.captions), prompts.index) == (["blue apple", "red heart"], None)
