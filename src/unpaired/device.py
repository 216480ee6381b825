"""Where and in which precision to compute."""

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import psutil
import torch

from unpaired.errors import ResourceError, UsageError

Precision = Literal["auto", "fp32", "bf16", "fp16"]


def find_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of that name: auto (a GPU where there is one), cpu, cuda or cuda:N.

    Raises:
        UsageError: another name.
        ResourceError: a GPU is asked for and there is none, or not so many.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", name):
        raise UsageError(f"there is no device {name!r}; choose auto, cpu, cuda or cuda:N.")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ResourceError(
            f"the device {name} is asked for, but torch sees no GPU here. Install a CUDA build of "
            "torch, or choose the device cpu."
        )
    kind, _, number = name.partition(":")
    if not number:
        return torch.device("cuda", local_rank) if kind == "cuda" else torch.device(kind)
    count = torch.cuda.device_count()
    if int(number) >= count:
        raise ResourceError(
            f"there is no {name}: torch sees {count} GPUs, counted from 0. Choose another."
        )
    return torch.device(kind, int(number))


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    """The autocast type, None for float32. `auto` is bf16 where the processor computes in it."""
    if precision == "auto":
        precision = "bf16" if _has_bf16(device) else "fp32"
    if precision == "fp16" and device.type == "cpu":
        precision = "bf16"  # half precision on a CPU is slow and needs loss scaling
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """The context to compute in."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def resident_bytes() -> int:
    """What this process holds in memory now: the interpreter, torch and what is loaded."""
    return int(psutil.Process().memory_info().rss)


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    able = cpu_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def cpu_capabilities() -> Mapping[str, Any]:
    """What torch knows of the processor: its instruction sets, and its name as "cpu_name"."""
    if hasattr(torch.cpu, "get_capabilities"):
        found: Mapping[str, Any] = torch.cpu.get_capabilities()
        return found
    # Older torch can be asked one thing at a time, under a name it does not promise to keep.
    ask = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return {"avx512_bf16": ask()}
