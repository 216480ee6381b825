"""Weights of the original networks, renamed to ours."""

import re
from collections.abc import Mapping

from torch import Tensor

from unpaired.errors import DataError

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
