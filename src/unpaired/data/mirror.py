"""Which axes may be mirrored: never left-right where class names tell the sides apart."""

import re
from collections.abc import Iterable

from unpaired.data.plan import Plan

_WORDS = (("left", "right"), ("lt", "rt"), ("l", "r"), ("sinistra", "dextra"), ("sin", "dex"))


def mirror_axes(plan: Plan) -> tuple[tuple[bool, ...], str]:
    """Whether each axis of a patch may be mirrored, and why.

    Across left and right never, if a class name tells the sides apart.
    """
    sided = sided_names(plan.classes)
    names = {"S": "head-foot", "P": "front-back", "L": "left-right"}
    free = tuple(letter != "L" or not sided for letter in plan.patch_axes)
    allowed = [names[x] for x, ok in zip(plan.patch_axes, free, strict=True) if ok]
    reason = f"Training images are mirrored {' and '.join(allowed)}"
    if "L" not in plan.patch_axes:
        reason += "; left and right are not in the plane."
    elif sided:
        reason += f", never left-right, since {' and '.join(map(repr, sided))} would change sides."
    else:
        reason += ", since no class name tells left from right."
    return free, reason


def sided_names(classes: Iterable[str]) -> tuple[str, ...]:
    """The first pair of names that differ by side only, or a single name with a side; or ()."""
    known = list(classes)
    for name in known:
        twins = [other for other in known if other != name and other in _twins(name)]
        if twins:
            return name, twins[0]
    # "left kidney" alone: a mirrored right kidney must not be taught as a left one either.
    for name in known:
        if {"left", "right"} & set(re.split(r"[\W_]+", name.casefold())):
            return (name,)
    return ()


def _twins(name: str) -> set[str]:
    """The name with a side word replaced by its opposite, wherever one can be read."""
    found = set()
    for pair in (*_WORDS, *((b, a) for a, b in _WORDS)):
        side, other = pair
        for old, new in (
            (side, other),
            (side.upper(), other.upper()),
            (side.title(), other.title()),
        ):
            found.add(re.sub(rf"(?<![^\W_]){old}(?![^\W_])", new, name))
            if name.startswith(old):
                found.add(new + name.removeprefix(old))
            if name.endswith(old):
                found.add(name.removesuffix(old) + new)
    return found - {name}
