"""A class looks the same wherever it is drawn; no two look alike, to colour-blind readers too."""

import itertools
import random
import re

import numpy as np
import pytest

from unpaired.colours import BESIDE, DASHES, SAFE, class_colours, class_looks, class_rgb, rgb
from unpaired.inference.label_files import itksnap_table, slicer_table
from unpaired.report.check_page import all_classes
from unpaired.report.html import environment

ORGANS = ["background", "spleen", "right kidney", "left kidney", "liver"]
HEART = ["background", "myocardium", "left atrium", "left ventricle", "ascending aorta"]
# Machado, Oliveira and Fernandes 2009, severity 1, on linear light.
SIGHT = {
    "usual": np.eye(3),
    "no red": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                        [-0.003882, -0.048116, 1.051998]]),
    "no green": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                          [-0.011820, 0.042940, 0.968881]]),
    "no blue": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                         [0.004733, 0.691367, 0.303900]]),
}  # fmt: skip


def seen(colour: str, sight: str) -> np.ndarray:
    """Oklab coordinates (Ottosson 2020) of a colour as this sight has it."""
    c = np.array(rgb(colour)) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    lms = np.array([[0.4122214708, 0.5363325363, 0.0514459929],
                    [0.2119034982, 0.6806995451, 0.1073969566],
                    [0.0883024619, 0.2817188376, 0.6299787005]])  # fmt: skip
    lab = np.array([[0.2104542553, 0.7936177850, -0.0040720468],
                    [1.9779984951, -2.4285922050, 0.4505937099],
                    [0.0259040371, 0.7827717662, -0.8086757660]])  # fmt: skip
    return 100 * lab @ np.cbrt(lms @ np.clip(SIGHT[sight] @ linear, 0, 1))


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("classes", [ORGANS, HEART])
def test_the_papers_organs_are_told_apart(classes: list[str], sight: str) -> None:
    colours = [seen(colour, sight) for colour in class_colours(classes).values()]
    apart = min(np.linalg.norm(a - b) for a, b in itertools.combinations(colours, 2))
    assert apart > 11


@pytest.mark.parametrize("classes", [ORGANS, HEART])
def test_outlines_differ_without_colour(classes: list[str]) -> None:
    assert {look.dashes for look in class_looks(classes).values()} == set(DASHES)
    assert len({look.marker for look in class_looks(classes).values()}) == 4


def test_the_order_of_the_classes_does_not_matter() -> None:
    names = [*ORGANS, *HEART[1:], *(f"part {n}" for n in range(12))]
    looks = class_looks(names)
    shuffled = names[1:]
    random.Random(0).shuffle(shuffled)
    assert class_looks(["background", *shuffled]) == looks
    as_written = [name.upper().replace(" ", "_") for name in names]
    assert list(class_looks(as_written).values()) == list(looks.values())


def test_further_classes_change_few() -> None:
    """A run on some of the classes that `check` saw has mostly the same colours."""
    few = class_colours([*ORGANS, "aorta", "pancreas"])
    more = class_colours([*ORGANS, "aorta", "pancreas", "stomach"])
    assert {n: more[n] for n in few} == few
    assert {n: class_colours(ORGANS)[n] for n in ORGANS[1:]} == {n: few[n] for n in ORGANS[1:]}


def test_the_first_of_two_organs_keeps_the_papers_colour() -> None:
    both = class_colours(["background", "liver", "myocardium", "spleen", "AA"])
    assert both["liver"] == class_colours(ORGANS)["liver"]
    assert both["AA"] == class_colours(HEART)["ascending aorta"]
    assert len(set(both.values())) == 4
    assert set(class_colours(["background", "a", "b"]).values()) < set(SAFE)
    assert class_colours([*ORGANS, "b"])["b"] in BESIDE


def test_many_classes_have_as_many_colours() -> None:
    colours = class_colours([str(n) for n in range(119)])
    assert len(set(colours.values())) == 118
    assert all(re.fullmatch("#[0-9a-f]{6}", colour.lower()) for colour in colours.values())
    assert class_rgb(["background"]) == [(0, 0, 0)]


def test_a_class_has_one_colour_in_every_file_and_page() -> None:
    """Report, check page, and the tables for 3D Slicer and ITK-SNAP."""
    classes = ["background", "left_kidney", "Tumour", "liver"]
    known = {name: rgb(colour) for name, colour in class_colours(classes).items()}
    for line in slicer_table(classes).splitlines()[2:]:
        _, name, *numbers = line.split()
        assert tuple(map(int, numbers[:3])) == known[name]
    for line in itksnap_table(classes).splitlines()[2:]:
        _, *numbers, name = line.split(None, 7)
        assert tuple(map(int, numbers[:3])) == known[name.strip('"')]
    legend = environment().get_template("parts.html").module.legend  # type: ignore[attr-defined]
    text = str(legend(class_colours(classes)))
    assert all(colour in text for colour in class_colours(classes).values())
    page = class_colours(["background", "liver", "tumour", "left kidney", "unknown value"])
    assert [page[n] for n in ("left kidney", "tumour", "liver")] == [
        class_colours(classes)[n] for n in classes[1:]
    ]
    assert all_classes({}) == ["background", "unknown value"]  # as the check page names them
