"""Whether two sides may be compared: how their settings, cases and grids differ."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from unpaired.config import Config
from unpaired.report.compare_sides import Pair, part_of
from unpaired.run.contents import RunContents

SILENT = {
    "data.splits", "data.split", "data.split_seed", "data.fold", "data.few_shot_seed",
    "data.workers", "train.threads", "train.prefetch", "train.log_every", "train.device",
    "train.heartbeat_seconds",
}  # fmt: skip
"""Settings whose effect is seen elsewhere (the cases themselves), or that have none."""
BUDGET = {
    "train.steps": "the number of steps",
    "train.batch_size": "the images in a step",
    "train.max_minutes": "the time limit",
    "train.early_stop": "early stopping",
    "train.init_from": "the run to start from",
    "model.pretrained": "the weights to start from",
}
GRID = ("spacing_mm", "slice_axis", "patch", "context", "order")


def unit_of(pairs: Sequence[Pair], modalities: Sequence[str]) -> str:
    """ "draw" where the pairs of runs have different cases to learn from or to test on."""
    parts = {
        (m, part, part_of(pair.a[0], part, m))
        for pair in pairs
        for m in modalities
        for part in ("train", "test")
    }
    return "draw" if len(parts) > 2 * len(modalities) else "seed"


def differing(pairs: Sequence[Pair]) -> dict[str, tuple[str, str]]:
    """Setting -> values of side a and of side b, where they are not the same set."""
    sides: list[dict[str, set[str]]] = [{}, {}]
    for values, runs in zip(sides, _by_side(pairs), strict=True):
        for run in runs:
            for key, value in _settings(run).items():
                values.setdefault(key, set()).add(_word(value))
    a, b = sides
    keys = sorted((a.keys() | b.keys()) - SILENT)
    both = {key: (_words(a.get(key)), _words(b.get(key))) for key in keys}
    return {key: values for key, values in both.items() if values[0] != values[1]}


def warnings_of(pairs: Sequence[Pair], modalities: Sequence[str]) -> Iterator[str]:
    """What makes the comparison unfair, one sentence each, no sentence twice."""
    seen: set[str] = set()
    for pair in pairs:
        for a in pair.a:
            for b in pair.b:
                unfair = [*_cases(a, b, modalities), *_budget(a, b), *_recipe(a, b, modalities)]
                for sentence in unfair:
                    if sentence not in seen:
                        seen.add(sentence)
                        yield sentence


def _cases(a: RunContents, b: RunContents, modalities: Sequence[str]) -> Iterator[str]:
    names = {"train": "training", "val": "validation"}
    for m in modalities:
        for part, word in names.items():
            left, right = (part_of(run, part, m) for run in (a, b))
            if not (a.split and b.split) or left == right:
                continue
            yield (
                f"The {word} cases of {m} differ: {len(left)} in {a.root.name}, {len(right)} in "
                f"{b.root.name}, {len(left & right)} of them the same. Train both with one split "
                "(data.splits)."
            )
        roots = [run.data.get("modalities", {}).get(m, {}).get("root") for run in (a, b)]
        if all(roots) and roots[0] != roots[1]:
            yield f"The scans of {m} come from two folders: {roots[0]} and {roots[1]}."


def _budget(a: RunContents, b: RunContents) -> Iterator[str]:
    left, right = _settings(a), _settings(b)
    for key, what in BUDGET.items():
        if a.config and b.config and left.get(key) != right.get(key):
            values = f"{_word(left.get(key))} and {_word(right.get(key))}"
            yield f"{what.capitalize()} differ ({key} is {values})."
    steps = [_last_step(run) for run in (a, b)]
    if all(steps) and steps[0] != steps[1] and left.get("train.steps") == right.get("train.steps"):
        yield f"They did not train equally long: {steps[0]} and {steps[1]} steps."


def _recipe(a: RunContents, b: RunContents, modalities: Sequence[str]) -> Iterator[str]:
    """Grid and intensities, and how scores were taken."""
    if a.plan and b.plan:
        for name in GRID:
            if name in a.plan and name in b.plan and a.plan[name] != b.plan[name]:
                values = f"{_word(a.plan.get(name))} and {_word(b.plan.get(name))}"
                yield (
                    f"The networks see other grids: {name} is {values}. Fix it for both "
                    f"(data.{name})."
                )
        for m in modalities:
            parts = [plan.get("modalities", {}).get(m, {}) for plan in (a.plan, b.plan)]
            # a part that only one plan has comes from another version
            if any(parts[0][key] != parts[1][key] for key in parts[0].keys() & parts[1].keys()):
                yield f"The intensities of {m} are treated differently (plan.json, modalities.{m})."
    left, right = _settings(a), _settings(b)
    for key in sorted(left.keys() | right.keys()):
        if key.split(".")[0] in {"predict", "evaluate", "augment"} and a.config and b.config:
            before, after = left.get(key), right.get(key)
            if before != after and key not in {"predict.batch_size"}:
                yield f"{key} is {_word(before)} and {_word(after)}."


def _last_step(run: RunContents) -> int:
    """Last step in the log, or 0."""
    return max((int(record["step"]) for record in (*run.steps, *run.validations)), default=0)


def _by_side(pairs: Sequence[Pair]) -> tuple[list[RunContents], list[RunContents]]:
    return [run for p in pairs for run in p.a], [run for p in pairs for run in p.b]


def _settings(run: RunContents) -> dict[str, Any]:
    """Every setting by its full name, defaults for those that an older version did not have."""
    if not run.config:
        return {}
    settings = {
        "modalities": " + ".join(run.modalities),
        **_flat(Config().model_dump()),
        **_flat(run.config),
    }
    versions = run.environment.get("versions") or {}
    if isinstance(versions, Mapping) and versions.get("unpaired"):
        settings["version of unpaired"] = versions["unpaired"]
    return settings


def _flat(table: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{before}{key}."))
        else:
            flat[f"{before}{key}"] = _plain(value)
    return flat


def _plain(value: Any) -> Any:
    """TOML and the schema write empty fields, tuples and whole numbers differently."""
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return tuple(_plain(item) for item in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " x ".join(map(_word, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float | int):
        return f"{value:g}"
    return "not known" if value is None else str(value)


def _words(values: set[str] | None) -> str:
    return ", ".join(sorted(values)) if values else "-"
