"""`unpaired demo`: the whole way on synthetic scans, in minutes on a laptop."""

from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import typer

from unpaired.cli.options import Overrides
from unpaired.cli.output import say, say_lines
from unpaired.errors import DataError
from unpaired.progress import ProgressBar, duration

CASES = 20


def command(
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option("--out", help="Where everything goes.")] = Path("demo"),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the scans and the run.")] = 0,
    cases: Annotated[int, typer.Option("--cases", min=3, help="Scans per modality.")] = CASES,
    preset: Annotated[
        str, typer.Option("--preset", help="demo: 2D; abdomen-3d: volumes, at a demo's size.")
    ] = "demo",
) -> None:
    """Make synthetic CT and MR scans, train on both, and report. A second call goes on."""
    from unpaired.config import load_config

    layers = [f"train.seed={seed}", *(overrides or [])]
    config = load_config(preset, None, layers, of_minutes=True)

    from unpaired.cli.train import one_run

    roots = _stage("scans", lambda: _phantom(out / "data", cases, seed))
    _stage("check", lambda: _check(roots))
    run = out / "run"
    _stage("train", lambda: one_run(config, roots, run))
    summary = _stage("evaluate", lambda: _evaluate(run))
    _stage("fold", lambda: _fold(run))
    _stage("report", lambda: _report(run))
    means = " ".join(f"{m}={part['mean']['dice']['mean']:.2f}" for m, part in summary.items())
    say(f"mean foreground Dice {means}")


def _stage(name: str, work: Callable[[], Any]) -> Any:
    """Do the work and say how long it took."""
    began = monotonic()
    result = work()
    say(f"[{name}: {duration(monotonic() - began)}]")
    return result


def _phantom(folder: Path, cases: int, seed: int) -> dict[str, Path]:
    from unpaired.phantom import write_phantom

    counts = {"ct": cases, "mr": cases}
    with ProgressBar("scans") as bar:
        return write_phantom(folder, counts, seed=seed, progress=bar)


def _check(roots: Mapping[str, Path]) -> None:
    from unpaired.checks.check import check
    from unpaired.datasets.sources import open_dataset

    with ProgressBar("check") as bar:
        findings = check({m: open_dataset(m, root) for m, root in roots.items()}, bar)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        first = errors[0]
        raise DataError(f"{first.file}: {first.what}; {first.mend}. Or choose another --out.")
    say("The data are sound.")


def _evaluate(run: Path) -> dict[str, Any]:
    from unpaired.evaluation.evaluate import NATIVE, evaluate
    from unpaired.run.scores import markdown, summarise

    with ProgressBar("evaluate") as bar:
        evaluation = evaluate(run, progress=bar)[NATIVE]
    say_lines(markdown(evaluation))
    say(f"Position alone, without looking at the image, scores {_floor(run)}.")
    return summarise(evaluation.scores)


def _floor(run: Path) -> str:
    """Mean foreground Dice of the location prior."""
    from unpaired.files import read_json

    floor = read_json(run / "floor.json")
    values = {m: [v for v in classes.values() if v is not None] for m, classes in floor.items()}
    return " ".join(f"{m}={sum(v) / max(1, len(v)):.2f}" for m, v in values.items())


def _fold(run: Path) -> None:
    from unpaired.config import config_from_toml
    from unpaired.evaluation.evaluate import folded_differences
    from unpaired.files import read_json

    about = read_json(run / "model" / "model.json")["extra"]["parameters"]
    model = config_from_toml(run / "config.toml").model
    width = model.options.get("embed_dim", model.options.get("base_width", "default"))
    say(
        f"{model.network}, width {width}: "
        f"{about['training']:,} parameters in training, {about['test']:,} at test time."
    )
    for m, voxels in folded_differences(run).items():
        say(f"Folded into a plain network for {m}: {voxels} voxels differ.")
        if voxels:
            raise DataError(f"{run}: the folded network of {m} differs from the live one.")


def _report(run: Path) -> None:
    from unpaired.report import write_report

    say(f"Report: {write_report(run)}")
