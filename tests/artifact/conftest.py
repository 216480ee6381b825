"""Models to export: a mixed one made at once, and a trained run with its prepared cases."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
from small_export import MIXED, mixed_plan, small_config

from tiny_model import tiny_segmenter
from toy import toy_config, write_toy
from unpaired.artifact import graph
from unpaired.artifact.export import Exported, export
from unpaired.artifact.model import Model
from unpaired.evaluation.evaluate import evaluate
from unpaired.training.fit import train

Make = Callable[[str, str], Exported]


@pytest.fixture(scope="session", autouse=True)
def _tracing_unchecked() -> Iterator[None]:
    """The tests' checks of shapes compare sizes, which in a trace makes them constants."""
    traced = graph._trace

    def unchecked(*args: Any) -> Any:
        jaxtyping.config.update("jaxtyping_disable", True)
        try:
            return traced(*args)
        finally:
            jaxtyping.config.update("jaxtyping_disable", False)

    graph._trace = unchecked
    yield
    graph._trace = traced


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a model of two modalities of 1 and 2 channels, gains included."""
    root = tmp_path_factory.mktemp("mixed") / "run"
    config, plan = small_config(), mixed_plan()
    Model(tiny_segmenter(config, plan), plan, config).save(root / "model", {"step": 7})
    return root


@pytest.fixture(scope="session")
def made(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """`made(form, format)` exports the mixed model, once per session."""
    root, done = tmp_path_factory.mktemp("made"), {}

    def make(form: str, name: str) -> Exported:
        if (form, name) not in done:
            some = MIXED[1:] if form == "folded" and name in ("pt2", "onnx") else ()
            done[form, name] = export(mixed, root / f"{form}_{name}", form, [name], some)
        return done[form, name]

    return make


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps with prepared cases and an evaluation."""
    root = tmp_path_factory.mktemp("trained")
    data = {
        "aa": write_toy(root / "data", "aa", 4, True, (1, 2)),
        "bb": write_toy(root / "data", "bb", 4, False, (7, 3)),
    }
    base = toy_config("train.steps=2")
    model = base.model.model_copy(
        update={"backbone": "resenc_unet", "options": small_config().model.options}
    )
    train(base.model_copy(update={"model": model}), data, root / "run")
    evaluate(root / "run")
    return root / "run"
