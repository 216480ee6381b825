"""Finding a layout inside a folder, which archives wrap or do not; plain names of organs."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from unpaired.errors import DataError
from unpaired.files import printable
from unpaired.names import canonical_name, ending_of

DEPTH = 4
LIMIT = 20_000  # folders looked into; official archives have far fewer above the layout's root
_ENDINGS = (".nii.gz", ".nii")
# As the archives spell them -> as everybody else does.
_SAME = {
    "arota": "aorta",
    "bladder": "urinary bladder",
    "gall bladder": "gallbladder",
    "oesophagus": "esophagus",
    "postcava": "inferior vena cava",
}
_SIDES = ("left", "right")


def folders(root: Path, depth: int = DEPTH) -> Iterator[Path]:
    """`root` and the folders in it, nearest first; hidden ones and macOS leftovers left out."""
    level, seen = [root], 0
    for _ in range(depth + 1):
        below: list[Path] = []
        for folder in level:
            seen += 1
            if seen > LIMIT:
                return
            yield folder
            below += [child for child in listed(folder) if child.is_dir()]
        level = below


def listed(folder: Path) -> list[Path]:
    """The children of a folder by name, hidden ones and macOS leftovers left out.

    Raises:
        DataError: the folder cannot be listed.
    """
    try:
        children = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"cannot list {printable(folder)}: {error.strerror or error}.") from error
    return [c for c in children if not c.name.startswith(".") and c.name != "__MACOSX"]


def first(root: Path, test: Callable[[Path], bool], depth: int = DEPTH) -> Path | None:
    """The nearest folder that passes the test."""
    return next((folder for folder in folders(root, depth) if test(folder)), None)


def need(root: Path, test: Callable[[Path], bool], wanted: str) -> Path:
    """The nearest folder that passes the test.

    Raises:
        DataError: there is none; the message says what was looked for and what is there.
    """
    folder = first(root, test)
    if folder is None:
        raise DataError(f"{printable(root)} does not hold {wanted}; there is {holds(root)}.")
    return folder


def holds(root: Path) -> str:
    """What lies in a folder, for messages."""
    names = [c.name + ("/" if c.is_dir() else "") for c in listed(root)]
    if not names:
        return "nothing in it"
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(map(printable, names[:6])) + more


def matching(folder: Path, pattern: str) -> dict[str, Path]:
    """First group of the pattern -> file, for the NIfTI files whose name without ending fits.

    Raises:
        DataError: two files give the same group.
    """
    files: dict[str, Path] = {}
    if not folder.is_dir():
        return files
    for child in listed(folder):
        stem = without_ending(child)
        match = re.fullmatch(pattern, stem) if stem is not None else None
        if match is None:
            continue
        if match[1] in files:
            raise DataError(
                f"{printable(files[match[1]])} lies beside {printable(child)}; remove one."
            )
        files[match[1]] = child
    return files


def without_ending(path: Path) -> str | None:
    """The name without .nii or .nii.gz (in any case); None for other files."""
    ending = ending_of(path.name, _ENDINGS)
    return path.name.removesuffix(ending) if ending and not path.is_dir() else None


def natural(path: Path) -> list[tuple[int, int, str]]:
    """A key that sorts 2 before 10, as viewers and MATLAB's natsort do."""
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]


def plain_name(name: str) -> str:
    """ "kidney_left" -> "left kidney", "gall bladder" -> "gallbladder", "liver" -> "liver"."""
    words = canonical_name(name).split()
    if len(words) > 1 and words[-1] in _SIDES:
        words = [words[-1], *words[:-1]]
    text = " ".join(words)
    return _SAME.get(text, text)
