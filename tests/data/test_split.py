import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from archsearch.data.pictures import split_by_family
from archsearch.errors import InputError

families = st.lists(st.text(min_size=1, max_size=6), max_size=80)
shares = st.floats(min_value=0.01, max_value=0.49)


@given(families, shares, st.integers(0, 5))
@settings(max_examples=60)
def test_partition_in_which_no_family_straddles(keys: list[str], share: float, seed: int) -> None:
    split = split_by_family(keys, share, seed)
    both = torch.cat([split.train, split.held_out])
    assert both.dtype == torch.int64
    assert sorted(both.tolist()) == list(range(len(keys)))
    assert not {keys[i] for i in split.train} & {keys[i] for i in split.held_out}


@given(families, families, shares)
@settings(max_examples=60)
def test_adding_pictures_moves_no_family(keys: list[str], more: list[str], share: float) -> None:
    before = split_by_family(keys, share)
    after = split_by_family(keys + more, share)
    assert [i for i in after.held_out.tolist() if i < len(keys)] == before.held_out.tolist()
    assert torch.equal(split_by_family(keys, share).train, before.train)


@given(st.lists(st.text(min_size=1, max_size=6), max_size=40), st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_order_does_not_matter(keys: list[str], random) -> None:  # type: ignore[no-untyped-def]
    shuffled = list(keys)
    random.shuffle(shuffled)
    held = {keys[i] for i in split_by_family(keys, 0.3).held_out}
    assert {shuffled[i] for i in split_by_family(shuffled, 0.3).held_out} == held


def test_golden_share_and_seed() -> None:
    keys = [f"family-{i}" for i in range(2000)]
    held = split_by_family(keys, 0.1).held_out
    assert held[:5].tolist() == [0, 5, 38, 40, 49]  # the same on every machine
    assert 160 <= len(held) <= 240
    assert split_by_family(keys, 0.1, seed=1).held_out.tolist() != held.tolist()


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_refuses_a_share_outside(share: float) -> None:
    with pytest.raises(InputError, match="held_out"):
        split_by_family(["a"], share)
