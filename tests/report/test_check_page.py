"""The page of a check: self-contained, escaped, and its pictures show what they claim."""

import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from bad_inputs import (
    GRID,
    cases,
    ct,
    image_of,
    label_of,
    moved,
    mr,
    organs,
    scan,
    split_file,
)
from nifti_files import save
from unpaired.checks.check import examine_roots
from unpaired.checks.finding import Finding
from unpaired.colours import class_colours
from unpaired.report.check_page import all_classes, open_scan, thumbnail, write_check_page


def page(tmp_path, roots):
    done = examine_roots(roots)
    file = tmp_path / "page.html"
    write_check_page(file, done, done.findings)
    return file.read_text(encoding="utf-8"), done


def test_self_contained_and_worst_first(tmp_path):
    base = ct(tmp_path)
    image_of(base, "c0").write_bytes(b"")
    save(label_of(base), organs(1), moved(7.5))
    save(label_of(base, "c2"), np.zeros_like(organs(2)), GRID)
    text, done = page(tmp_path, {"ct": base, "mr": mr(tmp_path)})
    assert "<script" not in text
    assert not re.findall(r'(?:src|href)="(?!data:image/png;base64,)', text)
    assert "default-src 'none'" in text
    assert text.index("Is empty.") < text.index("7.5 mm off") < text.index("The label is empty.")
    assert text.count("<tr>") >= len(done.findings)
    # c0's image cannot be read, so its label stands alone; the patients' note is about no case
    with_picture = [f for f in done.findings if f.case]
    assert text.count("data:image/png") == len(with_picture) == 3
    assert text.count("Label alone: axial slice") == 1
    assert "4 of 4" in text  # labels that hold the liver
    assert "not a medical device" in text


def test_what_a_user_names_is_escaped(tmp_path):
    base = ct(tmp_path, {"<b>x&y": cases(1)["c0"]})
    about = json.loads((base / "dataset.json").read_text())
    about["labels"] = {"background": 0, "<i>liver": 1}
    (base / "dataset.json").write_text(json.dumps(about))
    text, _ = page(tmp_path, {"ct": base})
    assert "<b>x" not in text
    assert "<i>liver" not in text
    assert "&lt;i&gt;liver" in text


def test_an_image_that_cannot_be_read_leaves_its_label(tmp_path):
    base = ct(tmp_path)
    done = examine_roots({"ct": base})
    case = done.datasets["ct"].cases[1]
    finding = Finding("ct", "c1", "error", "x", "y", "", at=(0, 0, 8))
    whole = open_scan(case, done.datasets["ct"], "", all_classes(done.datasets))
    image_of(base).write_bytes(b"")
    alone = open_scan(case, done.datasets["ct"], "", all_classes(done.datasets))
    for mine, theirs in zip(outlines(alone, finding), outlines(whole, finding), strict=True):
        assert mine.any()
        np.testing.assert_allclose(middle(mine), middle(theirs), atol=0.01)
    label_of(base).write_bytes(b"")
    assert open_scan(case, done.datasets["ct"], "", all_classes(done.datasets)) is None


def test_coverage_of_every_part(tmp_path):
    made = cases()
    made["c1"][1][made["c1"][1] == 2] = 0
    file = split_file(tmp_path, {"train": ["c0", "c2"], "val": ["c1"], "test": ["ct/c3"]},
                      {"train": ["c0", "c1"], "val": ["c2", "nobody"]})  # fmt: skip
    done = examine_roots({"ct": ct(tmp_path, made)}, splits=file)
    page = tmp_path / "page.html"
    write_check_page(page, done, done.findings)
    text = page.read_text(encoding="utf-8").partition('id="classes"')[2]
    heads = re.findall(r"<th[^>]*>([^<]*)</th>", text)
    assert heads[3:8] == ["Fold 0, train", "Fold 0, val", "Fold 0, test", "Fold 1, train",
                          "Fold 1, val"]  # fmt: skip
    cells = re.findall(r"\d of \d", text)
    assert cells[:6] == ["4 of 4", "2 of 2", "1 of 1", "1 of 1", "2 of 2", "1 of 1"]  # liver
    assert cells[6:12] == ["3 of 4", "2 of 2", "0 of 1", "1 of 1", "1 of 2", "1 of 1"]  # spleen


def test_nothing_found(tmp_path):
    text, _ = page(tmp_path, {"ct": ct(tmp_path)})
    assert "Nothing was found." in text


def outlines(scan_, finding):
    """Pixels [h w] of the liver's and of the spleen's outline, and of the ring."""
    png, _ = thumbnail(scan_, finding)
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    colours = class_colours(scan_.classes)

    def like(colour):
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        return np.abs(pixels - rgb).max(-1) < 40

    return like(colours["liver"]), like(colours["spleen"]), like("#ff4fd8")


def middle(mask):
    """Of the outline, as shares of height and width."""
    return (np.argwhere(mask).mean(0) + 0.5) / mask.shape


@pytest.mark.parametrize("kind", ["same grid", "other grid", "turned"])
def test_the_label_is_outlined_where_it_lies(tmp_path, kind):
    """Liver at index 5 to 9 of 24 along the patient's left: 0.31 of the width from the right."""
    base = ct(tmp_path)
    if kind == "other grid":  # twice as coarse, at the same place
        coarse = GRID.copy()
        coarse[:3, :3] *= 2
        save(label_of(base), organs(1)[::2, ::2, ::2], coarse)
    if kind == "turned":
        turned = GRID @ np.diag([-1.0, -1.0, 1.0, 1.0])
        turned[:2, 3] = -3.0 * (np.array(scan(1).shape[:2]) - 1)
        save(image_of(base), scan(1)[::-1, ::-1], turned)
        save(label_of(base), organs(1)[::-1, ::-1], turned)
    done = examine_roots({"ct": base})
    case = next(c for c in done.datasets["ct"].cases if c.id == "c1")
    opened = open_scan(case, done.datasets["ct"], "", all_classes(done.datasets))
    finding = Finding("ct", "c1", "note", "x", "y", "", at=(0, 0, 8))
    liver, spleen, ring = outlines(opened, finding)
    # The patient's right is at the left of the picture; the front (low P) at the top.
    np.testing.assert_allclose(middle(liver), (10.3 / 20, 7.5 / 24), atol=0.05)
    np.testing.assert_allclose(middle(spleen), (9.5 / 20, 17.0 / 24), atol=0.05)
    assert ring.any()


def test_the_ring_is_round_the_voxel(tmp_path):
    base = ct(tmp_path)
    done = examine_roots({"ct": base})
    dataset = done.datasets["ct"]
    opened = open_scan(dataset.cases[1], dataset, "", all_classes(done.datasets))
    for at in ((12, 4, 8), (3, 16, 5)):
        finding = Finding("ct", "c1", "note", "x", "y", "", kind="fragments", at=at)
        ring = outlines(opened, finding)[2]
        where = ((at[1] + 0.5) / 20, (at[0] + 0.5) / 24)
        np.testing.assert_allclose(middle(ring), where, atol=0.03)
    lost = Finding("ct", "c1", "note", "x", "y", "", kind="blank-slice", at=(12, 10, 8))
    assert not outlines(opened, lost)[2].any()  # a whole slice is meant
