"""Signals that ask a program to stop: those there are on this system, and catching them."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# The terminal is lost (HUP); batch systems announce the end of a job (USR1, USR2, XCPU), as
# Slurm's --signal=USR1@60 does; BREAK is Windows' Ctrl-Break.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGBREAK")
Handler = Callable[[int, FrameType | None], object]


def stopping_signals() -> list[signal.Signals]:
    """Those of this system; a hang-up that is ignored, as under nohup, stays so."""
    there = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    return [n for n in there if n.name != "SIGHUP" or signal.getsignal(n) != signal.SIG_IGN]


@contextmanager
def caught(handler: Handler, but: tuple[int, ...] = ()) -> Iterator[None]:
    """`handler` is called by all of them, except those of `but`.

    Outside the main thread nothing can be caught.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: signal.signal(n, handler) for n in stopping_signals() if n not in but}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)
