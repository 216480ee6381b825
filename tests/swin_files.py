"""State dicts in the layouts of other people's networks, made from what those networks are."""

import torch
from torch import Tensor

State = dict[str, Tensor]


def _draw(*shape: int) -> Tensor:
    return torch.randn(shape) * 0.1


def _layer(name: str, out: int, into: int, bias: bool = True) -> State:
    found = {f"{name}.weight": _draw(out, into)}
    return found | ({f"{name}.bias": _draw(out)} if bias else {})


def _norm(name: str, width: int) -> State:
    return {f"{name}.weight": 1 + _draw(width), f"{name}.bias": _draw(width)}


def _block(name: str, width: int, heads: int, rows: int, reads: str = "qkv") -> State:
    return {
        **_norm(f"{name}.norm1", width),
        f"{name}.attn.relative_position_bias_table": _draw(rows, heads),
        f"{name}.attn.relative_position_index": torch.zeros(2, 2, dtype=torch.long),
        **_layer(f"{name}.attn.{reads}", len(reads) * width, width),
        **_layer(f"{name}.attn.proj", width, width),
        **_norm(f"{name}.norm2", width),
        **_layer(f"{name}.mlp.fc1", 4 * width, width),
        **_layer(f"{name}.mlp.fc2", width, 4 * width),
    }


def swin_classifier(
    width: int = 96,
    depths: tuple[int, ...] = (2, 2, 6, 2),
    heads: tuple[int, ...] = (3, 6, 12, 24),
    window: int = 7,
    patch: int = 4,
    classes: int = 10,
) -> State:
    """Swin-T by default: patches, stages with merging between them, norm, classes."""
    torch.manual_seed(width + window)
    state = {
        "patch_embed.proj.weight": _draw(width, 3, patch, patch),
        "patch_embed.proj.bias": _draw(width),
        **_norm("patch_embed.norm", width),
    }
    for i, (depth, n) in enumerate(zip(depths, heads, strict=True)):
        c, rows = width * 2**i, (2 * window - 1) ** 2
        for j in range(depth):
            state |= _block(f"layers.{i}.blocks.{j}", c, n, rows)
            state[f"layers.{i}.blocks.{j}.attn_mask"] = torch.zeros(1)
        if i + 1 < len(depths):
            state |= _layer(f"layers.{i}.downsample.reduction", 2 * c, 4 * c, bias=False)
            state |= _norm(f"layers.{i}.downsample.norm", 4 * c)
    return state | _norm("norm", c) | _layer("head", classes, c)


def original_swin_unet(
    width: int,
    depths: tuple[int, ...],
    heads: tuple[int, ...],
    window: int,
    patch: int,
    classes: int,
) -> State:
    """The classifier's encoder, and the decoder of Cao et al."""
    state = swin_classifier(width, depths, heads, window, patch)
    state = {key: tensor for key, tensor in state.items() if not key.startswith("head.")}
    last, rows = len(depths) - 1, (2 * window - 1) ** 2
    state |= _layer("layers_up.0.expand", 2 * c, c, bias=False) if (c := width * 2**last) else {}
    state |= _norm("layers_up.0.norm", c // 2)
    for up in range(1, last + 1):
        i = last - up
        c = width * 2**i
        state |= _layer(f"concat_back_dim.{up}", c, 2 * c)
        for j in range(depths[i]):
            state |= _block(f"layers_up.{up}.blocks.{j}", c, heads[i], rows)
        if i:
            state |= _layer(f"layers_up.{up}.upsample.expand", 2 * c, c, bias=False)
            state |= _norm(f"layers_up.{up}.upsample.norm", c // 2)
    state |= _norm("norm_up", width) | _norm("up.norm", width)
    state |= _layer("up.expand", patch**2 * width, width, bias=False)
    return state | {"output.weight": _draw(classes, width, 1, 1)}


def original_nnformer(
    width: int, heads: tuple[int, int, int, int], window: int, classes: int, old: bool = False
) -> State:
    """nnFormer for Synapse with cubic windows, of 2022 or 2021; two blocks a stage."""
    torch.manual_seed(width)
    half, rows = width // 2, (2 * window - 1) ** 3
    state: State = {}
    for unit, (into, out) in enumerate([(1, half), (half, width)], start=1):
        for conv, channels in (("conv1", into), ("conv2", out)):
            name = f"model_down.patch_embed.proj{unit}.{conv}"
            state |= {f"{name}.weight": _draw(out, channels, 3, 3, 3), f"{name}.bias": _draw(out)}
        state |= _norm(f"model_down.patch_embed.proj{unit}.norm1", out)
    state |= _norm("model_down.patch_embed.proj1.norm2", half)
    state |= _norm("model_down.patch_embed.norm", width)
    kernel, side = (2, "encoder") if old else (3, "decoder")
    for i in range(4):
        c = width * 2**i
        state |= _norm(f"model_down.norm{i}", c)
        for j in range(2):
            state |= _block(f"model_down.layers.{i}.blocks.{j}", c, heads[i], rows)
        if i < 3 or old:
            name = f"model_down.layers.{i}.downsample"
            state |= {f"{name}.reduction.weight": _draw(2 * c, c, *[kernel] * 3)}
            state |= {f"{name}.reduction.bias": _draw(2 * c)} | _norm(f"{name}.norm", c)
        if i < 3:
            for j in range(2):
                reads = "kv" if j == 0 and not old else "qkv"
                state |= _block(f"{side}.layers.{i}.blocks.{j}", c, heads[i], rows, reads)
            name = f"{side}.layers.{i}.Upsample"
            state |= {f"{name}.up.weight": _draw(2 * c, c, 2, 2, 2), f"{name}.up.bias": _draw(c)}
            state |= _norm(f"{name}.norm", 2 * c)
            state |= {f"final.{i}.up.weight": _draw(c, classes, 2, 4, 4)}
            state |= {f"final.{i}.up.bias": _draw(classes)}
    return state
