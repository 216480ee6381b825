"""benchmarks/consistency.py and consistency_draws.py: tables of a run and of draws; the page is
written from what is stored."""

import math
import sys
from pathlib import Path

import pytest
import torch

from tiny_model import tiny_plan
from toy import toy_config, train_toy, write_toy
from unpaired.errors import UsageError
from unpaired.files import read_json
from unpaired.losses import Objective
from unpaired.run import RunFolder

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import _consistency as measures  # noqa: E402
import _findings as findings  # noqa: E402
import consistency as benchmark  # noqa: E402
import consistency_draws as draws  # noqa: E402

sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("toy")
    return {
        "a": write_toy(root, "a", 4, True, (1, 2)),
        "b": write_toy(root, "b", 4, False, (7, 3)),
    }


def test_the_tables_of_a_run(
    data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "AT", (0, 3))
    changes = ("train.steps=2", "loss.mask_absent=false", "model.options.drop_path=0.0")
    train_toy(toy_config(*changes), data, tmp_path)
    scales, shares, alone = benchmark.describe_run(tmp_path)
    assert len(scales.rows) == 2 and scales.head[-2:] == ["between", "ratio"]
    assert [row[0] for row in shares.rows] == ["seg", "aux", "mcr", "icr"]
    assert dict(zip(shares.head, shares.rows[2], strict=True))["on the segmenter"] == "0"
    before, after = (float(row[1]) for row in alone.rows)
    assert before == pytest.approx(sum(float(row[-2]) for row in scales.rows), rel=0.02)
    assert after < before
    run = RunFolder(tmp_path)
    joint = measures.load_joint(run, benchmark.method_of(run.config))
    images, labels = measures.slices(run, run.config, run.plan, 4)
    logits, correlation = measures.flipped_head(joint, images)
    assert logits < 1e-5 < correlation
    assert measures.absorbed(joint) < 1e-5
    _, apart, aligned = measures.gains_apart(joint)
    assert apart > 0 and aligned != apart
    # The norm of a term's gradient, by a plain backward pass.
    objective = Objective(alpha=0.0, beta=0.0, gamma=0.2, tau=4.0, mask_absent=False)
    kept, dropped, _ = measures.pulls(joint, objective, images, labels)["icr"]
    objective(joint(images), labels).weighted["icr"].backward()
    for part, norm in ((joint.segmenter, kept), (joint.semantics, dropped)):
        own = [p.grad.flatten() for p in part.parameters() if p.grad is not None]
        assert float(torch.cat(own).norm()) == pytest.approx(norm, rel=1e-4)


def test_a_run_without_correlations_is_told_so(data: dict[str, Path], tmp_path: Path) -> None:
    train_toy(toy_config("train.steps=2", "loss.gamma=0"), data, tmp_path)
    with pytest.raises(UsageError, match="trained without correlations"):
        benchmark.describe_run(tmp_path)


def test_the_page_is_what_is_stored() -> None:
    lines = findings.section(read_json(benchmark.STORED))
    section = "\n".join(["<!-- begin findings -->", *lines, "<!-- end findings -->"])
    assert section in benchmark.PAGE.read_text(encoding="utf-8")
    assert sum(line.startswith("| ") for line in lines) == 2 + 8


@pytest.mark.parametrize("row", draws.ROWS, ids=lambda row: row.name)
def test_every_row_of_the_draws_is_a_training_that_can_begin(row: draws.Row) -> None:
    config = draws.Job("phantom", row, 1, 3, 5).config()
    plan = tiny_plan(modalities=("mr",) if row.alone else ("ct", "mr"))
    method = benchmark.method_of(config)
    with torch.device("meta"):
        joint = method.joint(config, plan.model_copy(update={"patch": (96, 96)}))
    method.objective(config, plan)
    assert config.train.seed == config.data.few_shot_seed == 3 and config.train.steps == 5
    assert ("views" in row.name) == (config.augment.second_view != "none")
    assert bool(joint.segmenter.norms) == ("private norms" in row.name)


def record(row: str, draw: int, mr: float, ct: float | None = None) -> dict[str, object]:
    val = {"mr": mr} if ct is None else {"ct": ct, "mr": mr}
    return {"key": ["phantom", row, 1, draw, 5, []], "modalities": ["ct", "mr"], "seconds": 7.0,
            "val": val}  # fmt: skip


def test_the_table_of_draws_has_paired_differences_and_their_interval() -> None:
    gains = (0.02, 0.05, 0.02)
    found = [record("alone", d, 0.5 + 0.1 * d) for d in range(3)]
    found += [record("V2", d, 0.5 + 0.1 * d + g, 0.9) for d, g in enumerate(gains)]
    found += [record("4. prototypes", 1, 0.7, 0.88)]
    lines = draws.table(found)
    assert "**phantom: all ct, 1 mr, 5 steps**" in lines
    alone, both, bank = lines[-3:]
    half = 4.302652729911275 * math.sqrt(3) / math.sqrt(3)  # t at 2 degrees, deviation sqrt 3
    low, high = 3 - half, 3 + half
    turned = f"-3.0 ({-high:+.1f} to {-low:+.1f})"
    assert alone == f"| alone | 60.0 | - | {turned} | - | - | - | 3 | 7 |"
    assert both == f"| V2 | 63.0 | +3.0 ({low:+.1f} to {high:+.1f}) | - | - | 90.0 | - | 3 | 7 |"
    assert bank == "| 4. prototypes | 70.0 | +10.0 | +5.0 | - | 88.0 | -2.0 | 1 | 7 |"
    assert draws.table([]) == ["No draw has been run yet."]
