"""Weights to start from: a file's (`model.pretrained`) or a run's (`train.init_from`)."""

import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from unpaired.backbones.transfer import Entry, Match, match, recognise
from unpaired.backbones.transfer.layouts import KNOWN
from unpaired.backbones.transfer.match import AVERAGED, FILLED, INTERPOLATED, RANDOM
from unpaired.config import Config
from unpaired.data.plan import Plan
from unpaired.errors import DataError, UsageError
from unpaired.files import printable, write_json
from unpaired.methods import method_of
from unpaired.models import Joint, Segmenter
from unpaired.run import RunFolder
from unpaired.training.checkpoint import check_weights, load_checkpoint, reason_of

# Weights from a file of somebody else's: safetensors, or a torch file that needs no code.


_INSIDE = ("model", "state_dict", "model_state_dict", "network_weights")
"""Entries of a checkpoint that hold the weights."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Names and tensors, on the CPU. No code of the file is ever run.

    Raises:
        UsageError: there is no such file.
        DataError: damaged, no weights in it, or it would have to run code to be read.
    """
    check_there(path)
    try:
        with path.open("rb") as file:
            head = file.read(9)
        loaded = load_file(path) if head[8:] == b"{" else _torch_file(path, head)
    except DataError:
        raise
    except Exception as error:  # any failure of a parser of untrusted bytes is the file's fault
        reason = reason_of(error)
        kind = "safetensors" if isinstance(error, SafetensorError) else "torch or safetensors"
        raise DataError(
            f"{printable(path)} is not a whole {kind} file ({reason}). Copy or fetch it again."
        ) from error
    state = _unpack(loaded)
    if not state:
        raise DataError(
            f"{printable(path)} holds no weights by name. Give a state dict, or a checkpoint with "
            f"one under {', '.join(map(repr, _INSIDE))}."
        )
    return state


def check_there(path: Path) -> None:
    """Raise UsageError where there is no such file of weights."""
    if not path.is_file():
        hint = " It is a folder; name the file in it." if path.is_dir() else ""
        raise UsageError(
            f"there is no file {printable(path)} (model.pretrained).{hint} Weights are never "
            "downloaded: fetch the file yourself (docs/pretrained.md)."
        )


def _torch_file(path: Path, head: bytes) -> Any:
    if head[:2] == b"PK":
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"damaged part {damaged}")
    elif head[:1] != b"\x80" or head[1:2] not in (b"\2", b"\3", b"\4", b"\5"):  # pickle, protocol
        raise ValueError(f"it begins with {head!r}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # on pickles of other protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "nsupported" not in str(error) and "global" not in str(error).casefold():
            raise
        raise DataError(
            f"{printable(path)} can only be read by running code that it names, which was not "
            "done. Where you trust it, save its state dict alone as safetensors, and give that "
            "file."
        ) from error


def _unpack(loaded: Any) -> dict[str, Tensor]:
    """The innermost table of tensors."""
    if not isinstance(loaded, Mapping):
        return {}
    for name in _INSIDE:
        if isinstance(loaded.get(name), Mapping) and (found := _unpack(loaded[name])):
            return found
    return {k: v for k, v in loaded.items() if isinstance(k, str) and isinstance(v, Tensor)}


HEAD = ("part", "parameters", "filled", "interpolated", "averaged", "random", "%", "note")


@dataclass(frozen=True)
class Filling:
    """What a file filled of a network's encoder and decoder."""

    file: str
    layout: str
    """What the file holds, in words."""
    entries: tuple[Entry, ...]

    @property
    def parameters(self) -> int:
        """Of encoder(s) and decoder; stems, modules and gains are not among them."""
        return sum(entry.parameters for entry in self.entries)

    @property
    def filled(self) -> int:
        """Those that do not start at random."""
        return sum(entry.parameters for entry in self.entries if entry.how != RANDOM)

    @property
    def percent(self) -> float:
        """Share that was filled."""
        return 100 * self.filled / max(1, self.parameters)

    def rows(self) -> list[list[str]]:
        """The table under `HEAD`: a row a part of the network, and the sum."""
        parts = list(dict.fromkeys(entry.part for entry in self.entries))
        rows = [_row(part, [e for e in self.entries if e.part == part]) for part in parts]
        return [*rows, _row("all", list(self.entries), note=False)]

    def record(self) -> dict[str, Any]:
        """For pretrained.json."""
        return {
            "file": self.file,
            "layout": self.layout,
            "parameters": self.parameters,
            "filled": self.filled,
            "percent": self.percent,
            "parts": [dict(zip(HEAD, row, strict=True)) for row in self.rows()],
            "random": [entry.name for entry in self.entries if entry.how == RANDOM],
        }


def read_pretrained(config: Config) -> dict[str, Tensor] | None:
    """The weights that `model.pretrained` names, if any.

    Raises:
        UsageError: there is no such file, or train.init_from is given as well.
        DataError: the file is at fault.
    """
    if config.model.pretrained is None:
        return None
    if config.train.init_from is not None:
        raise UsageError(
            "model.pretrained and train.init_from both say where the weights come from; give one "
            "of them."
        )
    return read_weights(Path(config.model.pretrained))


def fill(segmenter: Segmenter, state: dict[str, Tensor], file: str) -> Filling:
    """Start encoder(s) and decoder from a file's weights: all that fit, or nothing.

    Stems, External Attention Modules and gains stay as they are.

    Raises:
        UsageError: the networks do not match; the message names the layers.
        DataError: the layout is not known, or weights are not finite.
    """
    try:
        layout, found = _matches(segmenter, state)
    except (UsageError, DataError) as error:
        raise type(error)(f"{printable(file)}: {error}") from error
    with torch.no_grad():
        for target, plan in found:
            for name, value in plan.values.items():
                target[name].copy_(value)
    for norms in segmenter.norms.values():
        norms.start_from(segmenter.backbone)  # type: ignore[operator]
    return Filling(
        printable(file), KNOWN[layout], tuple(e for _, plan in found for e in plan.entries)
    )


def preview(config: Config, plan: Plan, state: dict[str, Tensor]) -> Filling:
    """What `fill` will do in the training, on a network that is dropped again."""
    with torch.random.fork_rng(devices=[]):
        segmenter = method_of(config).segmenter(config, plan)
    return fill(segmenter, state, config.model.pretrained or "")


def _matches(
    segmenter: Segmenter, state: dict[str, Tensor]
) -> tuple[str, list[tuple[dict[str, Tensor], Match]]]:
    """Layout, and per network its tensors with what to copy; what is shared comes first, once."""
    found, seen = [], set[int]()
    layout = ""
    for modality, own in _networks(segmenter):
        source = recognise(state, own)
        layout = source.layout
        if source.private and modality not in source.private:
            raise UsageError(
                f"the file holds an encoder for each of {', '.join(source.private)}; this "
                f"network needs {'one for ' + modality if modality else 'a shared one'}. Choose "
                "model.variant=V1 with the same modalities, or another file."
            )
        matched = match(source, segmenter.backbone, modality)
        new = {name: t for name, t in own.items() if t.data_ptr() not in seen}
        seen |= {tensor.data_ptr() for tensor in new.values()}
        values = {name: v for name, v in matched.values.items() if name in new}
        entries = tuple(entry for entry in matched.entries if entry.name in new)
        found.append((new, Match(values, entries)))
    return layout, found


def _networks(segmenter: Segmenter) -> Iterator[tuple[str | None, dict[str, Tensor]]]:
    """The backbone as a whole, once per private encoder; the encoder is in it meanwhile."""
    backbone = segmenter.backbone
    if not segmenter.encoders:
        yield None, backbone.state_dict()
        return
    for modality, encoder in segmenter.encoders.items():
        backbone.put_private(encoder)
        try:
            yield modality, backbone.state_dict()
        finally:
            backbone.take_private()


def _row(part: str, entries: list[Entry], note: bool = True) -> list[str]:
    total = sum(entry.parameters for entry in entries)
    counts = [
        sum(entry.parameters for entry in entries if entry.how == how)
        for how in (FILLED, INTERPOLATED, AVERAGED, RANDOM)
    ]
    percent = 100 * (total - counts[-1]) / max(1, total)
    why = dict.fromkeys(entry.why for entry in entries if entry.why and note)
    return [part, f"{total:,}", *(f"{n:,}" for n in counts), f"{percent:.1f}", "; ".join(why)]


# Weights from another run of ours.


PER_MODALITY = ("segmenter.stems.", "segmenter.encoders.", "segmenter.norms.", "semantics.",
                "bank.of.")  # fmt: skip
"""Where a modality's own parameters lie; a modality that is added starts with fresh ones."""


def start_from_files(joint: Joint, config: Config, run: RunFolder, leads: bool) -> None:
    """Fill a new run's network as `model.pretrained` or `train.init_from` says.

    What `model.pretrained` filled is written to the run's pretrained.json, by the process that
    leads.

    Raises:
        UsageError: the networks do not match; the message names the layers.
        DataError: the file is at fault.
    """
    state = read_pretrained(config)
    if state is not None and config.model.pretrained is not None:
        filling = fill(joint.segmenter, state, config.model.pretrained)
        if leads:
            write_json(run.files.pretrained, filling.record())
    elif config.train.init_from is not None:
        fill_from_run(joint, config.train.init_from)


def fill_from_run(joint: Joint, run: str) -> None:
    """Start from another run's weights.

    Raises:
        UsageError: the networks do not match; the message names the layers.
    """
    path = RunFolder(run).files.kept
    state = load_checkpoint(path)["model"]
    own = joint.state_dict()
    known = {m for m in joint.segmenter.modalities if f"segmenter.stems.{m}.0.weight" in state}
    fresh = tuple(
        f"{prefix}{m}." for prefix in PER_MODALITY for m in joint.segmenter.modalities
        if m not in known
    )  # fmt: skip
    wanted = {name: value for name, value in own.items() if not name.startswith(fresh or ("\0",))}
    dropped = [name for name in wanted if name.startswith(("semantics.", "bank."))]
    for name in [name for name in dropped if name not in state]:
        del wanted[name]  # a run on one modality, or without a loss, built fewer modules
    check_weights(wanted, state, path, UsageError)
    joint.load_state_dict({**own, **{name: state[name] for name in wanted}})
