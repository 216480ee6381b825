"""Left and right against the anatomy, on every orientation of the file."""

import itertools

import numpy as np
import pytest

from datasets.abdomen import MIDDLE, grid, image, organs
from unpaired.datasets.sides import wrong_sides
from unpaired.io.volume import Volume

VALUES = {"liver": 1, "spleen": 2, "right kidney": 3, "left kidney": 4}
NAMES = {"background": 0, **VALUES}
AXES = [
    "".join(letters)
    for order in itertools.permutations(("LR", "AP", "SI"))
    for letters in itertools.product(*order)
]


def volumes(axes="LPS", values=VALUES, mirrored=False):
    """Label and image; mirrored: the file's geometry turned left for right."""
    matrix = grid(0, axes)
    told = matrix
    if mirrored:
        flip = np.diag([-1.0, 1, 1, 1])
        flip[0, 3] = 2 * MIDDLE[0]
        told = flip @ matrix
    return Volume(organs(matrix, values), told), Volume(image(matrix), told)


@pytest.mark.parametrize("axes", AXES)
def test_all_orientations(axes):
    label, scan = volumes(axes)
    assert wrong_sides(label, NAMES, scan) is None
    swapped = {**NAMES, "right kidney": 4, "left kidney": 3}
    text = wrong_sides(label, swapped, scan).sentence
    assert "the left kidney lies 8" in text
    assert "mm to the right of the right kidney" in text
    assert "though the spleen lies left of the liver" in text
    assert text.endswith("the labels of left and right are swapped")


def test_48_orientations_are_meant():
    assert len(set(AXES)) == 48


def test_a_mirrored_scan():
    label, scan = volumes(mirrored=True)
    text = wrong_sides(label, NAMES, scan).sentence
    assert "the spleen lies 1" in text
    assert "the left kidney lies 8" in text
    assert "mirrored" in text
    assert "though" not in text


@pytest.mark.parametrize(
    ("organ", "side"),
    [("liver", "left"), ("spleen", "right"), ("left kidney", "right"), ("right kidney", "left")],
)
def test_one_organ_is_held_against_the_middle(organ, side):
    values = {organ: 7}
    label, scan = volumes(values=values)
    assert wrong_sides(label, values, scan) is None
    label, scan = volumes(values=values, mirrored=True)
    text = wrong_sides(label, values, scan).sentence
    assert f"mm {side} of the body's middle" in text
    assert wrong_sides(label, values) is None  # without the image nothing can be said


def test_names_and_missing_organs():
    label, scan = volumes(values={"right kidney": 9, "left kidney": 4})
    assert wrong_sides(label, {"Kidney": 9, "other": 4}, scan) is None
    names = {"Left_Kidney": 9, "right-kidney": 4, "liver": 1, "spleen": 2}
    assert wrong_sides(label, names, scan)
    assert wrong_sides(Volume(np.zeros((4, 4, 4), np.uint8), np.eye(4)), NAMES, None) is None


def test_the_heart_is_not_held_to_sides():
    label, scan = volumes(values={"right kidney": 1, "left kidney": 2})
    names = {"left atrium": 1, "right atrium": 2, "left ventricle": 1, "right ventricle": 2}
    assert wrong_sides(label, names, scan) is None
    assert wrong_sides(label, {"left lung": 1, "right lung": 2}, scan)


def test_organs_that_nearly_meet_are_not_judged():
    """A horseshoe kidney, or a slab that cuts both near the spine."""
    label = np.zeros((20, 4, 4), np.uint8)
    label[9:10], label[11:12] = 1, 2  # x grows to the right: the left one 4 mm right of it
    spaced = Volume(label, np.diag([2.0, 2, 2, 1]))
    assert wrong_sides(spaced, {"right kidney": 1, "left kidney": 2}) is None
    label[:] = 0
    label[5:6], label[15:16] = 1, 2
    assert wrong_sides(Volume(label, spaced.affine), {"right kidney": 1, "left kidney": 2})
