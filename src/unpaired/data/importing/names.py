"""One name for one organ, so that sets of different origin share classes."""

from unpaired.data.dataset import canonical_name

# As the archives spell them -> as everybody else does.
_SAME = {
    "arota": "aorta",
    "bladder": "urinary bladder",
    "gall bladder": "gallbladder",
    "oesophagus": "esophagus",
    "postcava": "inferior vena cava",
}
_SIDES = ("left", "right")


def plain_name(name: str) -> str:
    """ "kidney_left" -> "left kidney", "gall bladder" -> "gallbladder", "liver" -> "liver"."""
    words = canonical_name(name).split()
    if len(words) > 1 and words[-1] in _SIDES:
        words = [words[-1], *words[:-1]]
    text = " ".join(words)
    return _SAME.get(text, text)
