"""The published nnFormers: their options, and their weights renamed to ours."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from unpaired.errors import DataError

_ANISOTROPIC = ((1, 2, 2), (2, 2, 2), (2, 2, 2))

PUBLISHED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # 64 x 128 x 128, 1 channel, 14 classes: 150,054,210 parameters
        "synapse": {"deep_supervision": True, "cubic_windows": True, "legacy_index": True},
        # 14 x 160 x 160, 1 channel, 4 classes: 37,160,200 parameters
        "acdc": {
            "embed_dim": 96,
            "heads": (3, 6, 12, 24),
            "patch": (1, 4, 4),
            "window": ((3, 5, 5), (3, 5, 5), (7, 10, 10), (3, 5, 5)),
            "stride": _ANISOTROPIC,
            "down_padding": ((0, 1, 1), (1, 1, 1), (0, 1, 1)),
            "legacy_index": True,
            "mask_shift": False,
        },
        # 128 x 128 x 128, 4 channels, 4 classes: 37,606,726 parameters
        "tumour": {
            "embed_dim": 96,
            "heads": (3, 6, 12, 24),
            "decoder_heads": (6, 12, 24),
            "patch": 4,
            "cubic_windows": True,
            "legacy_index": True,
        },
        # 64 x 128 x 128, 1 channel, 14 classes: 158,876,034 parameters with the original's dead
        # ones (the last stage's convolution down, the coarsest head), 120,777,076 without
        "synapse_2021": {
            "window": 4,
            "overlap": False,
            "decoder": "add",
            "deep_supervision": True,
            "deep_outputs": 1,
            "cubic_windows": True,
            "legacy_index": True,
        },
    }
)
"""Options of `NNFormer` that give the published networks, their quirks included.

Commits d48aaeb (2022) and 4983a6f (2021) of the authors' code.
"""

_DROPPED = re.compile(r".*\.(attn_mask|relative_position_index)")
"""Buffers that follow from the sizes."""

_BLOCK = {
    "norm1": "norm1",
    "attn.qkv": "attention.qkv",
    "attn.kv": "attention.kv",
    "attn.proj": "attention.project",
    "norm2": "norm2",
    "mlp.fc1": "feed_forward.widen",
    "mlp.fc2": "feed_forward.project",
}

_EMBED = {
    "proj1.conv1": "convs.0",
    "proj1.norm1": "norms.0",
    "proj1.conv2": "convs.1",
    "proj1.norm2": "norms.1",
    "proj2.conv1": "convs.2",
    "proj2.norm1": "norms.2",
    "proj2.conv2": "convs.3",
    "norm": "norms.3",
}

_LAYER = re.compile(r"(model_down|encoder|decoder)\.layers\.(\d+)\.(.+)")
_IN_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


def nnformer_from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An original nnFormer's state dict under our names, for `NNFormer.load_state_dict`.

    Both versions are known: that of 2021, whose decoder is called `encoder`, and that of 2022.
    Dropped are the buffers `attn_mask` and `relative_position_index`, which follow from the sizes,
    and the parameters of 2021 that its forward pass never uses: the last encoder stage's
    convolution down and the head of the coarsest scale. Ours builds neither.

    Args:
        state: keys as in the original; the tensors are passed on, not copied.

    Raises:
        DataError: a key is not the original network's.
    """
    sides = [match for key in state if (match := _LAYER.fullmatch(key))]
    last = {side: max(int(m[2]) for m in sides if m[1] == side) for side in {m[1] for m in sides}}
    old = "encoder" in last
    ours, unknown = {}, []
    for key, tensor in state.items():
        if _DROPPED.fullmatch(key) or (old and _dead(key, last)):
            continue
        name = _rename(key, last)
        if name is None:
            unknown.append(key)
        else:
            ours[name] = tensor
    if unknown:
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise DataError(
            f"{len(unknown)} of {len(state)} keys are not an original nnFormer's: {shown}. "
            "Pass its state dict itself: unpack a checkpoint's 'state_dict' entry, and take a "
            "leading 'module.' off the keys."
        )
    return ours


def _dead(key: str, last: Mapping[str, int]) -> bool:
    """Whether the network of 2021 holds the parameter but never uses it."""
    bottom = f"model_down.layers.{last.get('model_down', 0)}.downsample."
    return key.startswith((bottom, f"final.{last['encoder']}."))


def _rename(key: str, last: Mapping[str, int]) -> str | None:
    if match := _LAYER.fullmatch(key):
        side, number, rest = match.groups()
        if side == "model_down":
            return _in_encoder(int(number), rest)
        return _in_decoder(last[side] - int(number), rest, side == "decoder")
    layer, _, kind = key.rpartition(".")
    if kind not in ("weight", "bias"):
        return None
    prefix, _, inner = layer.rpartition("patch_embed.")
    if prefix == "model_down." and inner in _EMBED:
        return f"encoder.embed.{_EMBED[inner]}.{kind}"
    if match := re.fullmatch(r"model_down\.norm(\d+)", layer):
        return f"encoder.norms.{match[1]}.{kind}"
    if match := re.fullmatch(r"final\.(\d+)\.up", layer):
        return f"decoder.heads.{match[1]}.{kind}"
    return None


def _in_encoder(stage: int, rest: str) -> str | None:
    layers = {"downsample.reduction": "conv", "downsample.norm": "norm"}
    layer, _, kind = rest.rpartition(".")
    if layer in layers and kind in ("weight", "bias"):
        return f"encoder.downs.{stage}.{layers[layer]}.{kind}"
    if match := _IN_BLOCK.fullmatch(rest):
        return _in_block(f"encoder.stages.{stage}.{match[1]}", match[2])
    return None


def _in_decoder(stage: int, rest: str, attends: bool) -> str | None:
    """The original counts decoder stages from the finest, and the block that joins as its first."""
    layers = {"Upsample.up": "conv", "Upsample.norm": "norm"}
    layer, _, kind = rest.rpartition(".")
    if layer in layers and kind in ("weight", "bias"):
        return f"decoder.ups.{stage}.{layers[layer]}.{kind}"
    if not (match := _IN_BLOCK.fullmatch(rest)):
        return None
    block = int(match[1]) - attends
    return _in_block(
        f"decoder.joins.{stage}" if block < 0 else f"decoder.stages.{stage}.{block}", match[2]
    )


def _in_block(block: str, rest: str) -> str | None:
    if rest == "attn.relative_position_bias_table":
        return f"{block}.attention.bias_table"
    layer, _, kind = rest.rpartition(".")
    if layer not in _BLOCK or kind not in ("weight", "bias"):
        return None
    return f"{block}.{_BLOCK[layer]}.{kind}"
