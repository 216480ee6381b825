"""Names of devices: those there are, and those that are refused."""

import pytest
import torch

from unpaired.device import find_device
from unpaired.errors import ResourceError, UsageError


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine that says it has two GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    return monkeypatch


def test_names_with_gpus(gpus: pytest.MonkeyPatch) -> None:
    assert find_device("cpu", 1) == torch.device("cpu")
    assert find_device("auto", 1) == find_device("cuda", 1) == torch.device("cuda", 1)
    assert find_device("cuda:0", 1) == torch.device("cuda", 0)
    with pytest.raises(ResourceError, match="no cuda:2: torch sees 2 GPUs"):
        find_device("cuda:2")


@pytest.mark.parametrize(
    "name", ["gpu", "", "mps", "meta", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "cuda:0\n"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="choose auto, cpu, cuda or cuda:N") as caught:
        find_device(name)
    assert repr(name) in str(caught.value)


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == torch.device("cpu")
    for name in ("cuda", "cuda:0"):
        with pytest.raises(ResourceError, match=f"{name} is asked for") as caught:
            find_device(name)
        assert "train." not in str(caught.value)
