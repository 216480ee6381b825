"""Which network's weights a file holds, told by its keys."""

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from torch import Tensor

from unpaired.backbones.nnformer_original import nnformer_from_original
from unpaired.backbones.pretrained import swin_unet_from_original
from unpaired.errors import DataError

KNOWN = {
    "swin": "a Swin classifier in the layout of its authors (Swin-T, -S, -B, -L; also as the "
    "backbone of their segmentation networks)",
    "swin_unet": "the original Swin-Unet",
    "nnformer": "the original nnFormer of 2021 or 2022",
    "own": "a model or checkpoint of this program with the same backbone",
}
"""Layouts, in words."""

_PREFIXES = ("module.", "swin_unet.")
_LAST_NORM = re.compile(r"norm(\d+)\.(weight|bias)")
_NOT_USED = re.compile(r"head\.(weight|bias)|norm\d+\.(weight|bias)|absolute_pos_embed")
"""Of a Swin classifier: its classes; norms of maps that only segmentation heads read; position."""


class Source(NamedTuple):
    """Weights under our names."""

    layout: str
    """A key of `KNOWN`."""
    shared: Mapping[str, Tensor]
    private: Mapping[str, Mapping[str, Tensor]]
    """Modality -> weights of its own encoder, in a file of variant V1."""

    def of(self, modality: str | None) -> Mapping[str, Tensor]:
        """What one modality's network is made of."""
        return {**self.shared, **self.private.get(modality or "", {})}


def recognise(state: Mapping[str, Tensor], own: Collection[str]) -> Source:
    """Tell the layout of a state dict by its keys, and rename them.

    Args:
        state: keys as in the file; leading `module.`, `swin_unet.` and `backbone.` are taken off.
        own: names of the backbone's own weights.

    Raises:
        DataError: no layout that is known.
    """
    plain = _without_prefixes(state)
    try:
        if any(key.startswith("model_down.") for key in plain):
            return Source("nnformer", nnformer_from_original(plain), {})
        if any(key.startswith("layers_up.") for key in plain):
            return Source("swin_unet", swin_unet_from_original(plain), {})
        if any(re.match(r"layers\.\d+\.blocks\.", key) for key in plain):
            return Source("swin", swin_unet_from_original(_classifier(plain)), {})
    except DataError as error:
        raise _unknown(state, str(error).split(". ")[0]) from error
    shared, private = _own(plain)
    if not shared.keys() & set(own):
        raise _unknown(state)
    return Source("own", shared, private)


def _unknown(state: Mapping[str, Tensor], why: str = "") -> DataError:
    keys = sorted(state)
    shown = ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "")
    return DataError(
        f"the layout of these weights is not known{': ' if why else ''}{why} (the file's keys: "
        f"{shown}). Known are {'; '.join(KNOWN.values())}."
    )


def _without_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = dict(state)
    for prefix in _PREFIXES:
        if found and all(key.startswith(prefix) for key in found):
            found = _below(found, prefix)
    inner = _below(found, "backbone.")
    is_swin = any(key.startswith(("layers.", "patch_embed.")) for key in inner)
    return inner if is_swin else found  # else the backbone of our own segmenter


def _classifier(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what is never used. A segmentation network's last norm is the classifier's."""
    found = {key: tensor for key, tensor in state.items() if not _NOT_USED.fullmatch(key)}
    norms = sorted((int(m[1]), m[2], key) for key in state if (m := _LAST_NORM.fullmatch(key)))
    if "norm.weight" not in found:
        found.update({f"norm.{kind}": state[key] for n, kind, key in norms if n == norms[-1][0]})
    return found


def _own(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """The backbone of a training's or an exported state; a folded one is a backbone already."""
    found = _below(state, "segmenter.") or dict(state)
    backbone = _below(found, "backbone.")
    private: dict[str, dict[str, Tensor]] = {}
    for key, tensor in _below(found, "encoders.").items():
        modality, _, name = key.partition(".")
        private.setdefault(modality, {})[f"encoder.{name}"] = tensor
    return backbone or found, private


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): tensor for k, tensor in state.items() if k.startswith(prefix)}
