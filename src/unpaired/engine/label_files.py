"""What the numbers in a label file mean, for programs and for two viewers."""

import colorsys
import hashlib
from collections.abc import Sequence
from pathlib import Path

from unpaired.files import write_json, write_text


def write_label_files(folder: Path, classes: Sequence[str], prefix: str = "") -> None:
    """Write `labels.json` (name -> value), `labels.txt` (for ITK-SNAP: Segmentation > Import Label
    Descriptions) and `labels.ctbl` (for 3D Slicer: a color table), each name after `prefix`.

    Raises:
        ResourceError: the folder cannot be written.
    """
    values = {name: value for value, name in enumerate(classes)}
    write_json(folder / f"{prefix}labels.json", {"labels": values})
    write_text(folder / f"{prefix}labels.txt", itksnap_table(classes))
    write_text(folder / f"{prefix}labels.ctbl", slicer_table(classes))


def itksnap_table(classes: Sequence[str]) -> str:
    """ITK-SNAP's label descriptions: value, R G B, opacity, shown, shown in 3D, name."""
    lines = ["# value R G B opacity visible mesh label"]
    for value, name in enumerate(classes):
        r, g, b = colour(value)
        on = int(value > 0)
        lines.append(
            f'{value:5d} {r:5d} {g:4d} {b:4d} {on:8d} {on:2d} {on:2d}    "{_quoted(name)}"'
        )
    return "\n".join(lines) + "\n"


def slicer_table(classes: Sequence[str]) -> str:
    """3D Slicer's color table: value, name, R G B, opacity; a name holds no blank there."""
    lines = ["# value name R G B opacity"]
    for value, name in enumerate(classes):
        r, g, b = colour(value)
        lines.append(f"{value} {'_'.join(name.split())} {r} {g} {b} {255 if value else 0}")
    return "\n".join(lines) + "\n"


def colour(value: int) -> tuple[int, int, int]:
    """A colour per class, the same in every file; neighbours differ by the golden angle."""
    if value == 0:
        return 0, 0, 0
    hue = (value * 0.618033988749895) % 1.0
    r, g, b = colorsys.hsv_to_rgb(hue, (0.75, 0.5, 0.95)[value % 3], (0.95, 0.85, 0.7)[value % 3])
    return round(255 * r), round(255 * g), round(255 * b)


def colours(count: int) -> list[tuple[int, int, int]]:
    """The colours of so many classes, background first."""
    return [colour(value) for value in range(count)]


def recipe_mark(*parts: str) -> str:
    """A short fingerprint of what a prediction depends on besides its image."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _quoted(name: str) -> str:
    return name.replace('"', "'")
