"""The report: its numbers are the evaluation's, it needs nothing else, it survives gaps."""

import json
import re
import shutil
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_run import CLASSES, make_run

from unpaired.errors import DataError
from unpaired.files import read_json
from unpaired.report import hero, write_report

MINUS = "–"


class Cells(HTMLParser):
    """Text of the cells that carry a data-key, and every tag with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._key: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "td":
            self._key = dict(attrs).get("data-key")

    def handle_endtag(self, tag: str) -> None:
        if tag == "td":
            self._key = None

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self._key:
            self.found[self._key] = self.found.get(self._key, "") + data


def pixels(path: Path) -> tuple[int, int]:
    """Width and height, after checking that the PNG is whole."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and data[-8:-4] == b"IEND"
    assert zlib.crc32(data[12:29]) == struct.unpack(">I", data[29:33])[0]
    return struct.unpack(">II", data[16:24])


@pytest.fixture(scope="module")
def report(full_run: Path) -> Path:
    return write_report(full_run)


def test_numbers_are_those_of_evaluation_json(full_run, report):
    cells = Cells(report.read_text()).found
    summary = json.loads((full_run / "evaluation" / "evaluation.json").read_text())["summary"]
    factor = {"dice": (100, 1), "asd_mm": (1, 2), "hd95_mm": (1, 2), "nsd": (100, 1)}
    checked = 0
    for modality, found in summary.items():
        for cls, stats in found["classes"].items():
            for metric, (scale, decimals) in factor.items():
                mean, std = (stats[metric][part] * scale for part in ("mean", "std"))
                expected = f"{mean:.{decimals}f} ± {std:.{decimals}f}"
                assert cells[f"{modality}/{cls}/{metric}"] == expected
                checked += 1
        for metric, (scale, decimals) in factor.items():
            expected = f"{found['mean'][metric]['mean'] * scale:.{decimals}f}"
            assert cells[f"{modality}/mean/{metric}"] == expected
        assert cells[f"{modality}/spleen/floor"] == "50.0"
    assert checked == 2 * 4 * 4


def test_the_page_needs_nothing_else(report):
    html = report.read_text()
    page = Cells(html)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/png;base64,", "#")), (tag, value)
    assert "@import" not in html and "url(" not in html
    assert not re.search(r"https?://", html)
    assert "default-src 'none'" in html
    assert "not a medical device" in html and "What this report lacks" not in html


def test_every_picture_has_words_and_a_file(full_run, report):
    page = Cells(report.read_text())
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert all(len(image["alt"] or "") > 20 for image in images)
    files = sorted(report.parent.glob("*.png"))
    names = {file.stem for file in files}
    expected = {f"overlay_{m}_{kind}" for m in (1, 2) for kind in ("best", "median", "worst")}
    expected |= {"loss", "validation_1", "validation_2", "gain_distance", "mcr", "icr"}
    expected |= {f"correlation_{n}" for n in range(1, 7)} | {"embeddings"}
    assert names == expected and len(images) == len(expected)
    assert all(min(pixels(file)) > 200 for file in files)


def test_how_far_the_modalities_lie_apart_is_told(full_run, report):
    words = " ".join(" ".join(Cells(report.read_text()).text).split())
    head = "Scale Size of E, ct Size of E, mr Entropy, ct Entropy, mr Divergence, ct Divergence, mr"
    assert f"{head} Between Ratio 1 40 50 0.15 0.2 2 4 18 6 2 12.5 10" in words
    assert "0 0 4.4 – 3 3.25 2 1.1 1.2 0.07 0.03 1.25 25" in words


def test_what_was_decided_is_told(report):
    text = " ".join(Cells(report.read_text()).text)
    for words in (
        "Left-right mirroring is off",
        "6 × 2 × 2.5",
        "clipped to percentile 0.5 to 99.5",
        "31,204,512 trained; 27,171,110 kept at test time",
        "torch", "2.13.0", "swin_unet", "learning_rate", "V3",
    ):  # fmt: skip
        assert words in text


@pytest.mark.slow
def test_equal_runs_give_equal_bytes(full_run, report):
    before = report.read_bytes()
    assert write_report(full_run).read_bytes() == before


def copied(run: Path, folder: Path) -> Path:
    """A copy of a run without its report; images stay where they are."""
    return Path(shutil.copytree(run, folder / "run", ignore=shutil.ignore_patterns("report")))


PARTS = {
    "evaluation": ("not evaluated yet", "overlay_1_best"),
    "log.jsonl": ("no training log", "loss"),
    "semantics.npz": ("no class embeddings", "embeddings"),
    "plan.json": ("there is no plan", None),
    "data.json": ("the images cannot be found", "overlay_1_best"),
    "splits_final.json": ("the split is not known", None),
    "config.toml": ("the configuration is not known", None),
    "environment.json": ("versions are not known", None),
    "model": ("the model was not exported", None),
    "predictions": ("no picture of ct/ct_003", "overlay_1_best"),
}


@pytest.fixture
def blank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are laid out and not painted, where a test looks only at the page around them."""
    for module in ("curves", "overlays"):
        monkeypatch.setattr(f"unpaired.report.{module}.to_png", lambda figure: b"PNG")


@pytest.mark.usefixtures("blank")
@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_is_named_and_the_rest_is_there(full_run, tmp_path, part):
    run = copied(full_run, tmp_path)
    gone = run / part
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    path = write_report(run)
    sentence, picture = PARTS[part]
    assert sentence in path.read_text()
    if picture:
        assert not (path.parent / f"{picture}.png").exists()
    kept = "validation_1" if part != "log.jsonl" else "embeddings"
    assert (path.parent / f"{kept}.png").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plan.json", "{"),
        ("plan.json", '{"classes": 3, "modalities": {"ct": {"clip": [{}]}}, "reasons": []}'),
        ("data.json", '{"modalities": {"ct": []}}'),
        ("config.toml", "[train"),
        ("splits_final.json", "{}"),
        ("evaluation/evaluation.json", '{"version": 99}'),
        ("floor.json", '{"ct": {"spleen": null}, "mr": 3}'),
        ("semantics.npz", "not an archive"),
        ("log.jsonl", 'x\n{}\n{"kind": "step", "step": 1}\n{"kind": "validation", "step": 1}\n'),
        ("model/model.json", '{"extra": 3}'),
        ("environment.json", "[1]"),
    ],
)
@pytest.mark.usefixtures("blank")
def test_a_broken_part_does_not_break_the_report(full_run, tmp_path, name, content):
    run = copied(full_run, tmp_path)
    (run / name).write_text(content)
    assert "not a medical device" in write_report(run).read_text()


@pytest.mark.slow
def test_names_from_the_user_are_escaped(full_run, tmp_path):
    run = copied(full_run, tmp_path)
    evil = '<script>alert("1")</script>'
    files = [*run.glob("*.json"), run / "evaluation/evaluation.json", run / "log.jsonl"]
    for path in files:
        text = re.sub(r',\s*"checksum": "[^"]*"', "", path.read_text()).replace(
            "ct_000", evil.replace('"', '\\"')[:40]
        )
        path.write_text(text.replace("spleen", "<b onclick=1>$x_1$"))
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace("swin_unet", "<img src=x>"))
    page = Cells(write_report(run).read_text())
    tags = {tag for tag, _ in page.tags}
    assert "script" not in tags and "b" not in tags
    assert all(a.get("src", "").startswith("data:") for tag, a in page.tags if tag == "img")
    text = "".join(page.text)
    assert "<script>alert(" in text and "<b onclick=1>" in text and "<img src=x>" in text


def test_an_interrupted_run_has_a_report(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text("[train]\nsteps = 50\n")
    text = write_report(run).read_text()
    assert "not evaluated yet" in text and "no training log" in text


def test_not_a_run_is_refused(tmp_path):
    with pytest.raises(DataError, match="not a run folder"):
        write_report(tmp_path)
    with pytest.raises(DataError, match="not a folder"):
        write_report(tmp_path / "none")


@pytest.mark.slow
def test_one_case_and_unevaluated_hero(tmp_path):
    run = make_run(tmp_path, count=1, steps=3)
    text = write_report(run).read_text()
    assert "Only case" in text and "1 test case<" in text
    picture = hero(run, tmp_path / "hero.png")
    width, height = pixels(picture)
    assert width > 2.5 * height
    shutil.rmtree(run / "evaluation")
    with pytest.raises(DataError, match="unpaired evaluate"):
        hero(run, tmp_path / "other.png")


@pytest.mark.usefixtures("blank")
def test_undefined_values_and_absent_classes(full_run, tmp_path):
    run = copied(full_run, tmp_path)
    path = run / "evaluation" / "evaluation.json"
    content = read_json(path)
    for case in content["cases"]:
        if case["modality"] == "mr" and case["cls"] == "liver":
            case.update(asd_mm=None, hd95_mm=None, dice=0.0, nsd=0.0, prediction_voxels=0)
    path.write_text(json.dumps(content))
    cells = Cells(write_report(run).read_text()).found
    assert cells["mr/liver/asd_mm"] == MINUS
    assert cells["mr/liver/dice"] == "0.0 ± 0.0"
    assert np.isfinite(float(cells["mr/mean/asd_mm"]))
    assert set(CLASSES[1:]) == {key.split("/")[1] for key in cells} - {"mean"}
