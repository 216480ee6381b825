"""What `unpaired check` says of an input, as a sentence of docs/check.md."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from bad_inputs import Bad, Made
from unpaired.checks.check import Examined, examine_path, examine_roots
from unpaired.checks.finding import Finding
from unpaired.files import printable


@contextmanager
def denied(file: Path | None) -> Iterator[None]:
    """Act a file without permission, for root may read anything."""
    real = {name: getattr(Path, name) for name in ("read_bytes", "open")}

    def refusing(name):
        def call(self, *args, **more):
            if file is not None and self == file:
                raise PermissionError(13, "Permission denied")
            return real[name](self, *args, **more)

        return call

    with (
        patch.object(Path, "read_bytes", refusing("read_bytes")),
        patch.object(Path, "open", refusing("open")),
    ):
        yield


def look(made: Made) -> Examined:
    """The check on an input."""
    with denied(made.deny):
        if made.path is not None:
            return examine_path(made.path)
        return examine_roots(made.roots, splits=made.splits, folds=made.folds)


def finding_of(one: Bad, done: Examined) -> Finding | None:
    """The finding that the input is about."""
    return next((f for f in done.findings if f.kind == one.kind and one.words in f.what), None)


def sentence(one: Bad) -> str:
    """As it stands in the table: paths cut to their names."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve()
        found = finding_of(one, look(one.build(root)))
    if found is None:
        return "read; nothing to say"
    text = f"**{found.severity}**: {found.what}. *{found.mend}*"
    text = text.replace(f"{printable(root)}/", "").replace("|", "\\|").replace("<", "&lt;")
    return " ".join(text.split())


def rows(page: str) -> dict[str, str]:
    """Number and name -> what stands in the table's third column."""
    found = {}
    for line in page.splitlines():
        cells = [c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 6 and cells[0] not in ("", "---"):
            found[f"{cells[0]} {cells[1]}"] = cells[2]
    return found
