import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archsearch.data.latent import LatentSpace, latent_space
from archsearch.errors import InputError

EXACT = ["pixels", "unshuffle"]


@pytest.mark.parametrize("name", EXACT)
@given(seed=st.integers(0, 99), size=st.sampled_from([8, 16]))
def test_what_is_encoded_comes_back(name: str, seed: int, size: int) -> None:
    space: LatentSpace = latent_space(name)
    images = torch.randint(
        0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    samples = space.encode(images)
    assert samples.shape == (2, space.channels, size // space.factor, size // space.factor)
    assert samples.dtype == torch.float32
    assert samples.abs().max() <= 1
    assert torch.equal(space.decode(samples), images)


def test_what_lies_outside_is_cut_off() -> None:
    samples = torch.tensor([-3.0, 3.0]).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    assert latent_space("pixels").decode(samples)[0, 0, 0].tolist() == [0, 255]


def test_unknown_name() -> None:
    with pytest.raises(
        InputError, match=r"proxy\.latent: 'pixel' is not known\. Did you mean 'pixels'"
    ):
        latent_space("pixel")
