"""Which network's weights a file holds, told by its keys."""

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from torch import Tensor

from unpaired.backbones.nnformer_original import nnformer_from_original
from unpaired.errors import DataError

# Weights of the original networks, renamed to ours.


_DROPPED = re.compile(r".*\.(attn_mask|relative_position_index)")
"""Buffers that follow from the sizes."""

_BLOCK = {
    "norm1": "norm1",
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.project",
    "attn.relative_position_bias_table": "attention.bias_table",
    "norm2": "norm2",
    "mlp.fc1": "feed_forward.widen",
    "mlp.fc2": "feed_forward.project",
}

_SINGLE = {
    "patch_embed.proj": "encoder.embed.conv",
    "patch_embed.norm": "encoder.embed.norm",
    "norm": "encoder.norm",
    "layers_up.0.expand": "decoder.expands.0.expand",
    "layers_up.0.norm": "decoder.expands.0.norm",
    "norm_up": "decoder.norm",
    "up.expand": "decoder.expand.expand",
    "up.norm": "decoder.expand.norm",
    "output": "decoder.classify",
}

_PATTERNS = (
    (re.compile(r"layers\.(\d+)\.downsample\.reduction"), "encoder.merges.{0}.reduce", 0),
    (re.compile(r"layers\.(\d+)\.downsample\.norm"), "encoder.merges.{0}.norm", 0),
    (re.compile(r"layers_up\.(\d+)\.upsample\.expand"), "decoder.expands.{0}.expand", 0),
    (re.compile(r"layers_up\.(\d+)\.upsample\.norm"), "decoder.expands.{0}.norm", 0),
    (re.compile(r"concat_back_dim\.(\d+)"), "decoder.joins.{0}", -1),
)
"""What the original numbers, our name, and how far our numbers lie from its."""

_IN_BLOCK = re.compile(r"(layers|layers_up)\.(\d+)\.blocks\.(\d+)\.(.+)")


def swin_unet_from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original Swin-Unet's state dict under our names, for `SwinUnet.load_state_dict`.

    The original is that of Cao et al. (2021), its commit f48f623. Its buffers `attn_mask` and
    `relative_position_index` are dropped: they follow from the sizes. The final 1x1 convolution
    becomes a linear layer.

    Args:
        state: keys as in the original; the tensors are passed on, not copied.

    Raises:
        DataError: a key is not the original network's.
    """
    found, unknown = {}, []
    for key, tensor in state.items():
        if _DROPPED.fullmatch(key):
            continue
        name = _rename(key)
        if name is None:
            unknown.append(key)
        else:
            found[name] = tensor.flatten(1) if key == "output.weight" else tensor
    if unknown:
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise DataError(
            f"{len(unknown)} of {len(state)} keys are not the original Swin-Unet's: {shown}. "
            "Pass its state dict itself: unpack a checkpoint's 'model' or 'state_dict' entry, and "
            "take a leading 'module.' or 'swin_unet.' off the keys."
        )
    return found


def _rename(key: str) -> str | None:
    if match := _IN_BLOCK.fullmatch(key):
        side, stage, block, rest = match.groups()
        return _in_block(side, int(stage), block, rest)
    layer, _, kind = key.rpartition(".")
    if kind not in ("weight", "bias"):
        return None
    if layer in _SINGLE:
        return f"{_SINGLE[layer]}.{kind}"
    for pattern, ours, step in _PATTERNS:
        if match := pattern.fullmatch(layer):
            return f"{ours.format(int(match[1]) + step)}.{kind}"
    return None


def _in_block(side: str, stage: int, block: str, rest: str) -> str | None:
    """The original's decoder entry 0 has no blocks, so its numbers are one ahead of ours."""
    stages = f"encoder.stages.{stage}" if side == "layers" else f"decoder.stages.{stage - 1}"
    if rest in _BLOCK:
        return f"{stages}.{block}.{_BLOCK[rest]}"
    layer, _, kind = rest.rpartition(".")
    if layer not in _BLOCK or kind not in ("weight", "bias"):
        return None
    return f"{stages}.{block}.{_BLOCK[layer]}.{kind}"


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
