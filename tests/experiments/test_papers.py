"""The paper's data by where they were imported from; its protocol."""

from pathlib import Path

import pytest

from unpaired.errors import UsageError
from unpaired.experiments.paper import (
    check_papers,
    in_order,
    is_papers,
    printed_names,
    protocol_of,
)
from unpaired.experiments.rows import EXPERIMENTS
from unpaired.files import write_json


def imported(root: Path, **sources: str) -> dict[str, Path]:
    """Folders as `unpaired import` records them."""
    for name, source in sources.items():
        write_json(root / name / "provenance.json", {"settings": {"source": source}})
    return {name: root / name for name in sources}


@pytest.mark.parametrize(
    ("name", "sources", "found"),
    [
        ("table5", {"ct": "mmwhs", "mr": "mmwhs"}, True),
        ("table6", {"ct": "mmwhs", "mr": "mmwhs"}, False),
        ("table2", {"ct": "btcv", "mr": "chaos"}, True),
        ("table2", {"ct": "chaos", "mr": "btcv"}, False),
        ("table5", {"ct": "nnunet", "mr": "nnunet"}, False),
        ("draws", {"ct": "mmwhs", "mr": "mmwhs"}, False),
    ],
)
def test_only_the_papers_data_have_its_column(
    name: str, sources: dict[str, str], found: bool, tmp_path: Path
) -> None:
    assert is_papers(EXPERIMENTS[name], imported(tmp_path, **sources)) == found


@pytest.mark.parametrize(
    ("name", "sources", "said"),
    [
        ("draws", {"ct": "mmwhs", "mr": "mmwhs"}, "the paper does not have draws"),
        ("table2", {}, "those of the phantom are synthetic"),
        ("table2", {"ct": "mmwhs", "mr": "mmwhs"}, r"ct \(.*\) was imported from mmwhs; table2 is "
         "on btcv and chaos"),
        ("table5", {"mr": "chaos", "ct": "mmwhs"}, "mr .* imported from chaos; table5 is on mmwhs"),
    ],
)  # fmt: skip
def test_what_is_not_the_papers_is_refused(
    name: str, sources: dict[str, str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        check_papers(EXPERIMENTS[name], imported(tmp_path, **sources) or None)


def test_damaged_or_missing_provenance_is_no_paper(tmp_path: Path) -> None:
    data = imported(tmp_path, ct="mmwhs", mr="mmwhs")
    (data["mr"] / "provenance.json").write_text("{")
    assert not is_papers(EXPERIMENTS["table5"], data)
    check_papers(EXPERIMENTS["table5"], data)  # nothing speaks against it
    (data["mr"] / "provenance.json").unlink()
    assert not is_papers(EXPERIMENTS["table5"], data)


def test_the_abdomen_draws_nine_of_the_mr_scans() -> None:
    data = {"ct": Path("a"), "mr": Path("b")}
    assert protocol_of(EXPERIMENTS["table2"], data) == ("data.cases.mr=9",)
    assert protocol_of(EXPERIMENTS["table5"], data) == ()


def test_ct_is_first_whatever_the_order() -> None:
    a, b = Path("a"), Path("b")
    assert list(in_order({"mr": a, "ct": b})) == ["ct", "mr"]
    assert list(in_order({"t1": a, "ct": b})) == ["t1", "ct"]
    assert printed_names({"ct": a, "mr": b}) == {"ct": "CT", "mr": "MR"}
