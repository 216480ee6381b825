"""Names as people write them: compared without regard to case, and with a hint when mistyped."""

import difflib
from collections.abc import Iterable


def canonical_name(name: str) -> str:
    """The form in which class names are compared: case, `_` and `-` do not matter."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def ending_of(name: str, endings: Iterable[str]) -> str:
    """The first of `endings` (in lower case) that a file's name has in any case, as it is written
    there: "A.NII.GZ" has ".NII.GZ". Empty where it has none."""
    return next((name[-len(e) :] for e in endings if name[-len(e) :].lower() == e), "")


def plural(count: int, thing: str) -> str:
    """ "1 voxel", "12 voxels"."""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like `name`, if any is close."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)), None)


def did_you_mean(name: str, known: Iterable[str], most: int = 3) -> str:
    """`" Did you mean 'x' or 'y'?"` with at most `most` names, or nothing if none is close."""
    close = difflib.get_close_matches(name, list(known), n=most, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(n) for n in close)}?" if close else ""
