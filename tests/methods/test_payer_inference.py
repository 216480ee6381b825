"""One crop cut out and pasted back: nothing moves, organs at the border included."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from inferers import inferer_of
from unpaired.data.plan import CoarseView
from unpaired.methods.payer.crops import corner_of
from unpaired.methods.payer.inference import Located, read_crop

CPU = torch.device("cpu")
VIEW = CoarseView(stride=(1, 2, 2), shape=(4, 4, 4), step=2)
CLASSES = 4


def image_of(*size: int) -> np.ndarray:
    return np.random.default_rng(sum(size)).integers(1, CLASSES, (1, *size)).astype(np.float32)


def says_its_input(crop: Tensor) -> Tensor:
    """Probability 1 of the class that the image's intensity names."""
    return torch.stack([crop[:, 0].round() == z for z in range(CLASSES)], 1).float()


def looking_at(*cell: int) -> Located:
    """A network whose heat map is highest in one cell of the view."""

    def heat(view: Tensor) -> Tensor:
        found = torch.zeros(1, 1, *view.shape[2:])
        found[(0, 0, *cell)] = 5
        return found

    return Located(says_its_input, heat, VIEW)


@given(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)),
    st.tuples(*[st.integers(1, 9)] * 3),
    st.tuples(st.integers(3, 4), st.integers(7, 8), st.integers(7, 8)),
)
@settings(max_examples=60, deadline=None)
def test_labels_return_to_where_they_were_read(
    cell: tuple[int, int, int], patch: tuple[int, int, int], size: tuple[int, int, int]
) -> None:
    image = image_of(*size)
    network = looking_at(*cell)
    found = inferer_of(network, patch).labels(image)
    corner = corner_of(network.centre(image, CPU), patch)
    wanted = np.zeros(size, np.uint8)
    for place in np.ndindex(*size):
        inside = all(0 <= x - c < n for x, c, n in zip(place, corner, patch, strict=True))
        wanted[place] = image[(0, *place)] if inside else 0
    assert np.array_equal(found, wanted)


def test_an_organ_at_the_border_is_whole_though_the_crop_reaches_outside() -> None:
    image = np.zeros((1, 4, 8, 8), np.float32)
    image[0, 2:, 5:, 6:] = 3
    network = looking_at(3, 3, 3)
    patch = (4, 6, 6)
    corner = corner_of(network.centre(image, CPU), patch)
    assert all(c + n > size for c, n, size in zip(corner, patch, (4, 8, 8), strict=True))
    found = inferer_of(network, patch).labels(image)
    assert np.array_equal(found, image[0])


def test_outside_the_crop_lie_probabilities_of_the_background() -> None:
    image = image_of(4, 8, 8)
    runs = list(inferer_of(looking_at(1, 1, 1), (2, 2, 2)).scores(image))
    assert [start for start, _ in runs] == [0, 1, 2, 3]
    scores = torch.cat([plane for _, plane in runs])
    assert torch.equal(scores.sum(1), torch.ones(4, 8, 8))
    assert float(scores[:, 1:].sum()) == 8  # the voxels of the crop, and no other


def test_a_crop_that_reaches_outside_is_filled_with_air() -> None:
    image = image_of(3, 4, 5)
    image[0, 2, 3, 4] = -7
    crop = read_crop(image, (-1, 2, 3), (3, 4, 4))
    padded = np.pad(image[0], [(1, 0), (0, 2), (0, 2)], constant_values=-7)
    assert np.array_equal(crop[0], padded[0:3, 2:6, 3:7])


def test_the_maximum_of_the_heat_map_is_the_centre() -> None:
    image = image_of(4, 8, 8)
    # Cells of 1 x 2 x 2 voxels; the view of 4 x 4 x 4 cells is the whole image.
    assert looking_at(2, 1, 3).centre(image, CPU).tolist() == [2.0, 2.5, 6.5]


def test_the_coarse_view_is_what_the_network_is_asked_about() -> None:
    image, seen = image_of(4, 8, 8), []

    def heat(view: Tensor) -> Tensor:
        seen.append(view)
        return view

    centre = Located(says_its_input, heat, VIEW).centre(image, CPU)
    cells = image[0].reshape(4, 4, 2, 4, 2).mean((2, 4))
    assert np.allclose(seen[0][0, 0].numpy(), cells)
    best = np.unravel_index(cells.argmax(), cells.shape)
    assert centre.tolist() == pytest.approx([best[0], 2 * best[1] + 0.5, 2 * best[2] + 0.5])
