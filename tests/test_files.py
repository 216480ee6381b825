"""Text that reaches the disk whatever its characters."""

from pathlib import Path

from unpaired.files import write_text


def test_a_name_that_is_not_utf8_is_escaped(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "scan_\udce9 é\n")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "scan_\\udce9 é\n"
