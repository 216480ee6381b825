"""One look a class, everywhere: colour, dashes of its outline, marker of its points.

Pages, pictures, colour tables of viewers and label files all ask here. The order of the classes
does not matter, and a class mostly keeps its colour where others join it.
"""

import colorsys
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from unpaired.names import canonical_name

# The paper's colours (its Fig. 4), in tones that differ in brightness where red and green look
# alike, and that read on white and on a grey image.
RED, GREEN, BLUE, YELLOW = "#d62839", "#3fbf7f", "#2f6fe4", "#ffc61a"
FIXED = {
    "spleen": RED,
    "right kidney": GREEN,
    "kidney right": GREEN,
    "left kidney": BLUE,
    "kidney left": BLUE,
    "liver": YELLOW,
    "ascending aorta": RED,
    "aa": RED,
    "left atrium": GREEN,
    "lac": GREEN,
    "left ventricle": BLUE,
    "lvc": BLUE,
    "myocardium": YELLOW,
    "lvm": YELLOW,
    "unknown value": "#b0b0b0",
}
# Okabe and Ito's set, told apart by all common forms of colour vision; and what differs from the
# paper's colours.
SAFE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#B8A800")
BESIDE = ("#9a5fd0", "#5fd6e0", "#f090c0", "#9c6b3f", "#f07d1a")
# Outlines differ without their colours, too: solid, dashed, dotted, both. Lengths of lines and gaps
# in widths of the line.
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2.2), (1.3, 1.7), (6, 1.8, 1.3, 1.8))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", ">")


class Look(NamedTuple):
    """How a class is drawn.

    Attributes:
        colour: "#rrggbb".
        dashes: of its outline, lines and gaps by turns in widths of the line; empty: solid.
        marker: of its points, by matplotlib's name.
    """

    colour: str
    dashes: tuple[float, ...]
    marker: str

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Red, green and blue from 0 to 255."""
        return rgb(self.colour)


def class_looks(classes: Sequence[str]) -> dict[str, Look]:
    """The look of each foreground class.

    Args:
        classes: names, background first.
    """
    names = list(classes)[1:]
    colours = _colours(sorted({canonical_name(name) for name in names}))
    looks = {
        name: Look(colour, DASHES[n % len(DASHES)], MARKERS[n % len(MARKERS)])
        for n, (name, colour) in enumerate(colours.items())
    }
    return {name: looks[canonical_name(name)] for name in names}


def class_colours(classes: Sequence[str]) -> dict[str, str]:
    """Foreground class -> "#rrggbb"; `classes` with the background first."""
    return {name: look.colour for name, look in class_looks(classes).items()}


def class_rgb(classes: Sequence[str]) -> list[tuple[int, int, int]]:
    """Red, green, blue from 0 to 255 of every class; the background, which is first, is black."""
    looks = class_looks(classes)
    return [(0, 0, 0), *(looks[name].rgb for name in list(classes)[1:])][: len(classes)]


def rgb(colour: str) -> tuple[int, int, int]:
    """ "#rrggbb" as numbers from 0 to 255."""
    r, g, b = bytes.fromhex(colour[1:])
    return r, g, b


def _colours(names: Sequence[str]) -> dict[str, str]:
    """Canonical names -> colours, no two alike.

    Of two organs that the paper gives one colour, of its heart and of its abdomen, the first keeps
    it.
    """
    known: dict[str, str] = {}
    for name in names:
        if name in FIXED and FIXED[name] not in known.values():
            known[name] = FIXED[name]
    few = SAFE if not known else BESIDE
    more = _further({*known.values(), *few})
    for name in names:
        if name not in known:
            free = (colour for colour in _by_name(name, few) if colour not in known.values())
            known[name] = next(free, None) or next(more)
    return {name: known[name] for name in names}


def _by_name(name: str, few: Sequence[str]) -> Sequence[str]:
    """The colours, from the one on that the name alone chooses: others seldom change it."""
    start = zlib.crc32(name.encode()) % len(few)
    return [*few[start:], *few[:start]]


def _further(used: set[str]) -> Iterator[str]:
    """Colours without end; neighbours differ by the golden angle, and in brightness."""
    value = 0
    while True:
        value += 1
        hue = (value * 0.618033988749895) % 1.0
        saturation, brightness = ((0.75, 0.95), (0.5, 0.85), (0.95, 0.7))[value % 3]
        parts = colorsys.hsv_to_rgb(hue, saturation, brightness)
        colour = "#" + bytes(round(255 * part) for part in parts).hex()
        if colour not in used:
            used.add(colour)
            yield colour
