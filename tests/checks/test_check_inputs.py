"""Each of the 43 inputs ends in one finding with a number and a mend; the others go on."""

from pathlib import Path

import pytest

from bad_inputs import INPUTS, Bad
from said import look
from unpaired.files import printable


def snapshot(root: Path):
    return {
        p: (p.lstat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in root.rglob("*")
    }


@pytest.mark.parametrize("one", INPUTS, ids=[one.id for one in INPUTS])
def test_input(tmp_path, one: Bad):
    made = one.build(tmp_path)
    before = snapshot(tmp_path)
    done = look(made)
    assert snapshot(tmp_path) == before
    assert all(f.mend and f.kind and f.kind != "fault" for f in done.findings), done.findings
    if not one.severity:
        assert [f for f in done.findings if f.severity != "note"] == []
        return
    hits = [f for f in done.findings if f.kind == one.kind and one.words in f.what]
    assert hits, done.findings
    assert hits[0].severity == one.severity
    assert one.amount in hits[0].amount
    assert "\n" not in hits[0].mend
    assert printable(made.file or "").startswith(hits[0].file) or made.file is None
