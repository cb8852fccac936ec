"""One style: colours that everybody tells apart, formats, and whatever the user has set up."""

from itertools import combinations
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from archsearch.errors import InputError
from archsearch.report import style

# Machado, Oliveira and Fernandes (2009), the strongest form of each, in linear RGB.
SEEN_AS = {
    "everybody": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour: str, seen_as: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIELAB of a colour as it is seen."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    x, y, z = TO_XYZ @ np.clip(seen_as @ linear, 0, 1) / TO_XYZ.sum(1)
    fx, fy, fz = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z))
    return np.array([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)])


@pytest.mark.parametrize("eyes", SEEN_AS)
def test_colours_of_series_are_told_apart_with_any_eyes(eyes: str) -> None:
    """Six times the difference in CIELAB that can just be seen, 2.3."""
    for a, b in combinations({each["color"] for each in style.SERIES}, 2):
        assert np.linalg.norm(lab(a, SEEN_AS[eyes]) - lab(b, SEEN_AS[eyes])) > 14, (a, b)


def test_series_differ_without_colours_too() -> None:
    assert len({each["marker"] for each in style.SERIES}) == len(style.SERIES)


def test_the_style_is_ours_and_the_users_comes_back() -> None:
    with mpl.rc_context({"font.size": 31.0, "axes.facecolor": "red"}):
        with style.styled():
            assert mpl.rcParams["font.size"] == 8
            assert mpl.rcParams["axes.facecolor"] == "white"
        assert mpl.rcParams["font.size"] == 31.0


@pytest.mark.parametrize("name", ["x.gif", "x", "x.png.txt"])
def test_other_endings_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"--plot .*: must end in \.png, \.svg or \.pdf\."):
        style.format_of(Path(name), "--plot")
    assert style.format_of(Path("x.PDF")) == "pdf"


def test_every_format_holds_no_date_and_the_same_bytes_again(tmp_path: Path) -> None:
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    assert tuple(starts) == style.FORMATS
    for ending, start in starts.items():
        written = []
        for path in (tmp_path / f"{number}.{ending}" for number in range(2)):
            with style.styled():
                figure, (axes,) = style.new_figure(height=1.5)
                axes.plot([1, 2], [2, 1], clip_on=True)
                style.entitle(figure, "Seen", "said below")
            style.save(figure, path)
            written.append(path.read_bytes())
        assert written[0] == written[1]
        assert written[0].startswith(start)
        assert b"Date" not in written[0]
