"""Left and right against the anatomy, as findings."""

import re
from collections.abc import Iterator, Mapping

from unpaired.data.checks.finding import Remark
from unpaired.data.sides import wrong_sides
from unpaired.datasets.dataset import canonical_name
from unpaired.io.volume import Volume

_MEND = "compare with the scan in a viewer; swap the labels, or mirror what is mirrored"


def sides(image: Volume, label: Volume, labels: Mapping[str, int]) -> Iterator[Remark]:
    """Organs on the wrong side. A left organ right of its right twin is wrong in everybody; a liver
    on the left may be a rare patient."""
    found = wrong_sides(label, labels, image)
    if not found:
        return
    twins = {
        name: value
        for name, value in labels.items()
        if re.search(r"\b(left|right)\b", canonical_name(name))
    }
    certain = bool(twins) and bool(wrong_sides(label, twins))
    for what in found:
        match = re.search(r"(\d+) mm", what)
        amount = f"{match[1]} mm" if match else ""
        yield Remark("sides", "error" if certain else "warning", what, _MEND, amount)
