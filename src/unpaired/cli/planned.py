"""The settings of a training: as they were given, or planned for the machine and the time."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unpaired.cli.output import note, say
from unpaired.errors import UsageError

if TYPE_CHECKING:
    from unpaired.config import Config

Choices = Mapping[str, str]
"""Name of a choice -> the reason, in a sentence."""


def seconds_of(budget: str | None, quick: bool) -> float | None:
    """What `--budget` and `--quick` ask for; None where neither is given."""
    from unpaired.training.budget import QUICK_SECONDS, parse_budget

    if budget is not None and quick:
        raise UsageError("--quick is a budget of 10 minutes; give it or --budget, not both.")
    if budget is not None:
        return parse_budget(budget)
    return QUICK_SECONDS if quick else None


def given_or_planned(
    roots: Mapping[str, Path],
    out: Path,
    overrides: Sequence[str],
    preset: str | None,
    file: Path | None,
    budget: float | None,
) -> "tuple[Config, Choices]":
    """The configuration, and the reasons of what was chosen.

    Args:
        out: the run's folder; of a run that was begun the settings are kept.
        budget: seconds; None: by the device.
    """
    from unpaired.config import load_config
    from unpaired.training.planner import is_planned

    own = preset is not None or file is not None or not is_planned(overrides)
    if own:
        if budget is not None:
            raise UsageError(
                "--budget and --quick plan the network and its training; with --preset, --config "
                "or a network of your own give train.steps, or train.max_minutes."
            )
        config = load_config(preset, file, overrides)
        if preset is None and not _names_network(file, overrides):
            note(
                f"no network is named, so it is the paper's {config.model.network} from random "
                "weights; --preset default, or no --config at all, gives a stronger one."
            )
        return config, {}

    from unpaired.files import read_json
    from unpaired.run import RunFolder

    run = RunFolder(out)
    if run.begun:
        if budget is not None:
            note(f"{out} goes on as it was planned; to train longer raise train.steps.")
        reasons = read_json(run.files.choices) if run.files.choices.is_file() else {}
        return load_config(None, run.files.config, overrides), reasons
    return _plan(roots, overrides, budget)


def _names_network(file: Path | None, overrides: Sequence[str]) -> bool:
    """Whether a file or an override says which network."""
    import tomllib

    from unpaired.config.load import parse_override

    tables = [parse_override(text) for text in overrides]
    if file is not None:
        tables.append(tomllib.loads(file.read_text(encoding="utf-8-sig")))
    return any({"name", "backbone"} & set(table.get("model", ())) for table in tables)


def _plan(
    roots: Mapping[str, Path], overrides: Sequence[str], budget: float | None
) -> "tuple[Config, Choices]":
    from unpaired.config import load_config
    from unpaired.device import find_device
    from unpaired.training.budget import ON_CPU_SECONDS, ON_GPU_SECONDS
    from unpaired.training.planner import PRESET, plan_training
    from unpaired.training.prepare import opened

    config = load_config(PRESET, None, overrides)  # a mistyped setting is said first
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "under torchrun every process must train alike, so nothing is planned there; name a "
            "--preset (`unpaired presets`) or a --config."
        )
    datasets = opened(roots)
    if budget is None:
        gpu = find_device(config.train.device).type == "cuda"
        budget = ON_GPU_SECONDS if gpu else ON_CPU_SECONDS
    say("Planning: networks take a step each on this machine ...")
    planned = plan_training(datasets, overrides, budget)
    return planned.config, planned.reasons
