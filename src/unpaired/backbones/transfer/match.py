"""A file's weights against a backbone: every weight has its place and fits, or all is refused."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from unpaired.backbones.base import Backbone
from unpaired.backbones.transfer.layouts import Source
from unpaired.backbones.transfer.sources import (
    HEADS,
    OTHER_CLASSES,
    Offer,
    has_legacy_index,
    offer,
    resize_table,
    window_of,
    windows_in,
)
from unpaired.errors import DataError, UsageError
from unpaired.nn.attention import Windows

FILLED, INTERPOLATED, AVERAGED, RANDOM = "filled", "interpolated", "averaged", "random"


class Entry(NamedTuple):
    """What becomes of one weight of the backbone."""

    name: str
    part: str
    """Row of the table it belongs to."""
    parameters: int
    """0 for what is not trained."""
    how: str
    """FILLED, INTERPOLATED (a bias table), AVERAGED (the input layer) or RANDOM."""
    why: str = ""


class Match(NamedTuple):
    """The weights to copy, and what becomes of each."""

    values: Mapping[str, Tensor]
    entries: tuple[Entry, ...]


def match(source: Source, backbone: Backbone, modality: str | None = None) -> Match:
    """Where every weight of the backbone comes from. Nothing is changed.

    The layer that reads the input takes the file's as it is where the channels K agree; else each
    of its channels gets the sum over the file's divided by K, so that the response to an image
    with equal channels stays (ours).

    Args:
        modality: whose network it is, where encoders are private.

    Raises:
        UsageError: weights are missing, left over or of another shape; the message names them.
        DataError: weights that are not finite numbers.
    """
    offered = offer(source, backbone, modality)
    own, trained = backbone.state_dict(), {name for name, _ in backbone.named_parameters()}
    windows, values, entries, wrong = windows_in(backbone), {}, [], []
    for name, here in own.items():
        there = offered.weights.get(name)
        value, how, why = _fit(name, there, here, backbone, windows)
        if value is None and (reason := _may_stay(name, there, here, offered, backbone)):
            how, why = RANDOM, reason
        elif value is None:
            wrong.append((name, there, here))
            continue
        else:
            values[name] = value
        count = here.numel() if name in trained else 0
        entries.append(Entry(name, part_of(name), count, how, why))
    left = [n for n in offered.weights if n not in own and not n.startswith(HEADS)]
    heads = _other_heads(source.of(modality), offered, windows)
    _check(wrong, left if offered.whole else [], heads, source, backbone)
    _check_finite(values)
    return Match(values, tuple(entries))


def part_of(name: str) -> str:
    """Row of the table."""
    if name.endswith(".bias_table"):
        return "bias tables"
    if name.startswith(HEADS):
        return "head"
    if name.startswith("encoder.embed."):
        return "input layer"
    if found := re.match(r"(encoder|decoder)\.stages\.(\d+)\.", name):
        return f"{found[1]} stage {int(found[2]) + 1}"
    return " ".join(name.split(".")[:2])


def _fit(
    name: str,
    there: Tensor | None,
    here: Tensor,
    backbone: Backbone,
    windows: Mapping[str, Windows],
) -> tuple[Tensor | None, str, str]:
    """The value for one weight, or None, with how and why."""
    if there is None:
        return None, "", ""
    _check_plain(name, there)
    if there.shape == here.shape:
        return there.to(here.dtype), FILLED, ""
    path, _, kind = name.rpartition(".")
    if kind == "bias_table" and path in windows:
        return _fit_table(there, here, windows[path])
    if kind == "weight" and path in backbone.input_layers and _same_but(there, here, 1):
        k = here.shape[1]
        mean = there.float().sum(1, keepdim=True).expand(here.shape) / k
        return mean.to(here.dtype), AVERAGED, f"{there.shape[1]} channels in the file, {k} here"
    return None, "", ""


def _fit_table(there: Tensor, here: Tensor, attention: Windows) -> tuple[Tensor | None, str, str]:
    if not _same_but(there, here, 0) or has_legacy_index(attention):
        return None, "", ""
    window = window_of(len(there), attention.window)
    if window is None:
        return None, "", ""
    value = resize_table(there.float(), window, attention.window)
    why = f"window {_times(window)} in the file, {_times(attention.window)} here"
    return value.to(here.dtype), INTERPOLATED, why


def _may_stay(
    name: str, there: Tensor | None, here: Tensor, offered: Offer, backbone: Backbone
) -> str:
    """Why this weight may stay as it was drawn; empty if it may not."""
    if there is None:
        return offered.may_stay.get(name, "")
    if there.ndim != here.ndim:
        return ""
    other = [axis for axis in range(here.ndim) if there.shape[axis] != here.shape[axis]]
    is_head = len(other) == 1 and here.shape[other[0]] == backbone.classes
    return OTHER_CLASSES if is_head and offered.whole else ""


def _same_but(there: Tensor, here: Tensor, axis: int) -> bool:
    """Whether only that axis differs."""
    return there.ndim == here.ndim and all(
        a == b for i, (a, b) in enumerate(zip(there.shape, here.shape, strict=True)) if i != axis
    )


def _check_plain(name: str, tensor: Tensor) -> None:
    odd = tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex()
    if odd or tensor.device.type != "cpu":
        raise DataError(
            f"{name} in the file is not an ordinary tensor (but sparse, quantised, complex or "
            "without content). Save the weights as dense float32."
        )


def _check_finite(values: Mapping[str, Tensor]) -> None:
    bad = [name for name, value in values.items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise DataError(
            f"the file holds weights that are not finite numbers: {_some(bad)}. It comes from a "
            "training that failed, or is damaged; take another."
        )


def _other_heads(
    weights: Mapping[str, Tensor], offered: Offer, windows: Mapping[str, Windows]
) -> list[str]:
    """Attentions whose number of heads differs where the table, which alone tells, is not used."""
    found = []
    for path, attention in windows.items():
        table = weights.get(name := f"{path}.bias_table")
        if table is None or name in offered.weights or table.shape[-1] == attention.heads:
            continue
        found.append(f"{path} ({table.shape[-1]} heads there, {attention.heads} here)")
    return found


def _check(
    wrong: list[tuple[str, Tensor | None, Tensor]],
    left: list[str],
    heads: list[str],
    source: Source,
    backbone: Backbone,
) -> None:
    missing = [name for name, there, _ in wrong if there is None]
    other = [
        f"{name} ({tuple(there.shape)} there, {tuple(here.shape)} here)"
        for name, there, here in wrong
        if there is not None
    ]
    other += heads
    parts = [f"missing in the file: {_some(missing)}"] if missing else []
    parts += [f"of another shape: {_some(other)}"] if other else []
    parts += [f"not in this network: {_some(left)}"] if left else []
    if parts:
        raise UsageError(
            f"the weights do not fit this network{_widths(source, backbone)}; {'; '.join(parts)}. "
            "Nothing was loaded. Choose model.options that fit the file, or another file."
        )


def _widths(source: Source, backbone: Backbone) -> str:
    """Both widths, where they differ: the usual reason."""
    here = backbone.levels[-1].channels
    for name in ("encoder.embed.norm.weight", "encoder.embed.norms.3.weight"):
        there = source.shared.get(name)
        if there is not None and len(there) != here:
            return f": the file's is {len(there)} wide, this one {here}"
    return ""


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _times(window: tuple[int, ...]) -> str:
    return " x ".join(map(str, window))
