"""Networks of volumes on the demo's phantom: Dice at the demo's budget, minutes until 0.8.

    python benchmarks/phantom_volumes.py --out runs/volumes

Every row is a call of `unpaired demo --preset NAME`; what is there is not run again. Writes its
section of docs/backbones.md from the run records alone.
"""

import argparse
import contextlib
import io
import re
from pathlib import Path

from _report import record
from unpaired.cli.app import run as unpaired
from unpaired.files import read_json
from unpaired.run.log import read_log

PAGE = Path(__file__).resolve().parents[1] / "docs" / "backbones.md"
ENOUGH = 0.8
ROWS: dict[str, tuple[str, list[str]]] = {
    "ResEnc U-Net (the preset)": ("abdomen-3d", []),
    "nnFormer of width 48": ("paper-abdomen-3d", []),
}


def run_one(name: str, preset: str, overrides: list[str], out: Path) -> Path:
    """Train and score one row."""
    folder = out / re.sub(r"\W+", "_", name).strip("_")
    if not (folder / "run" / "evaluation" / "evaluation.json").exists():
        with contextlib.redirect_stdout(io.StringIO()):
            code = unpaired(["demo", "--preset", preset, "--out", str(folder), *overrides])
        if code:
            raise SystemExit(f"{name}: exit code {code}")
    return folder / "run"


def validations(run: Path) -> list[dict]:
    """The validation records."""
    return [line for line in read_log(run / "log.jsonl") if line["kind"] == "validation"]


def reached(run: Path) -> str:
    """Minutes and steps until both modalities had ENOUGH on validation."""
    for point in validations(run):
        if min(point["mean"].values()) >= ENOUGH:
            return f"{point['seconds'] / 60:.1f} min ({point['step']} steps)"
    return "not reached"


def row(name: str, run: Path) -> dict[str, object]:
    """One line of the table."""
    model = read_json(run / "model" / "model.json")["extra"]
    summary = read_json(run / "evaluation" / "evaluation.json")["summary"]
    last = validations(run)[-1]
    found: dict[str, object] = {
        "network": name,
        "parameters at test, millions": f"{model['parameters']['test'] / 1e6:.1f}",
        "steps": last["step"],
        "minutes of training": f"{last['seconds'] / 60:.1f}",
        f"until {ENOUGH} on both (validation)": reached(run),
    }
    for m, part in summary.items():
        found[f"{m.upper()} test Dice"] = f"{part['mean']['dice']['mean']:.2f}"
    print(found, flush=True)
    return found


def main() -> None:
    """Run what is missing, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    rows = [row(name, run_one(name, *how, out)) for name, how in ROWS.items()]
    record("volumes", rows, ("torch",), PAGE)


if __name__ == "__main__":
    main()
