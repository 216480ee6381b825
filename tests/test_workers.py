"""Work in other processes: one that dies or stands still is named, and one that is slow is not."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from small_sets import plan, write_set
from unpaired.data.prepare import prepare
from unpaired.datasets.sources import open_dataset
from unpaired.errors import ResourceError
from unpaired.workers import Work, Workers, share_out

pytestmark = [pytest.mark.slow, pytest.mark.unix]


def work(*signals: int) -> Work:
    """Jobs that send themselves a signal (0: none), and compute for a second and a half."""

    def job(number: int) -> int:
        if number:
            os.kill(os.getpid(), number)
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            pass
        return number

    return Work(
        job, [(n,) for n in signals], [f"ct/case{i}" for i in range(len(signals))], "trying"
    )


def test_what_computes_is_left_alone_and_comes_in_order() -> None:
    assert list(share_out(work(0, 0, 0), 2, limit=0.5, in_order=True)) == [0, 0, 0]


def test_what_is_stopped_is_ended_and_named() -> None:
    began = time.monotonic()
    with pytest.raises(ResourceError, match=r"stood still for 1 s while trying ct/case1 and was"):
        list(share_out(work(0, signal.SIGSTOP, 0), 2, limit=1.0))
    assert time.monotonic() - began < 15


def test_what_is_killed_is_named_at_once() -> None:
    began = time.monotonic()
    with pytest.raises(ResourceError, match=r"died while trying .*ct/case1.* fewer workers than 2"):
        list(share_out(work(0, signal.SIGKILL, 0), 2))
    assert time.monotonic() - began < 10


def test_a_worker_of_prepare_that_is_stopped_is_named_and_the_same_call_goes_on(
    tmp_path: Path,
) -> None:
    many = {"ct": open_dataset("ct", write_set(tmp_path / "many", [(12, 12, 6)] * 12))}

    def stop(done: int, total: int, name: str) -> None:
        for child in psutil.Process().children(recursive=True):
            if done == 1 and "LokyProcess" in " ".join(child.cmdline()):
                child.send_signal(signal.SIGSTOP)

    with pytest.raises(ResourceError, match=r"stood still for 1 s while preparing (ct/)?a.* kept"):
        prepare(many, plan(), tmp_path / "out", Workers(2, 1.0), stop)
    assert len(prepare(many, plan(), tmp_path / "out").cases["ct"]) == 12
    assert not list((tmp_path / "out/ct").glob(".*"))
