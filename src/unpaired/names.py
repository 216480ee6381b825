"""Names as people write them: safe to print and to name files by, compared without regard to case,
and with a hint when mistyped."""

import difflib
import unicodedata
from collections.abc import Iterable, Sequence

# Beside these, a terminal or a viewer may obey: marks that turn the direction of what follows.
_CONTROL = {"Cc", "Cs", "Zl", "Zp"}
_TURNS = {chr(n) for n in (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
_LIST = "\n  "


def printable(text: object, lists: bool = False) -> str:
    """One printable line: newlines, control, direction and undecodable characters are escaped.

    Whatever a person, a file or a header named passes here on its way to a terminal or a page.

    Args:
        lists: keep the newlines before indented lines, as messages list things.
    """
    if lists:
        return _LIST.join(printable(line) for line in str(text).split(_LIST))
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def some(names: Sequence[str], limit: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(printable, names[:limit])) + more


def file_name(name: str) -> str:
    """The name as a file may have it: control, direction and undecodable characters become %XX.

    Whatever a file is named after, such as a case, passes here; ordinary names stay as they are.
    """
    return "".join(_percent(c) if _obeyed(c) else c for c in name)


def _obeyed(c: str) -> bool:
    return unicodedata.category(c) in _CONTROL or c in _TURNS


def _percent(c: str) -> str:
    return "".join(f"%{byte:02X}" for byte in c.encode("utf-8", "surrogateescape"))


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
