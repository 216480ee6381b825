"""Signs of life between the processes of a training: who has died, who is stalled, in seconds.

A process that waits for another waits in the network library, where nothing interrupts it: so a
thread beside it exchanges signs of life through the store that torchrun keeps, and ends the process
with a sentence where another one is gone.
"""

import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic, sleep

import psutil

from unpaired.errors import ResourceError
from unpaired.names import printable
from unpaired.progress import write_line

LEFT, FAILED = "left", "failed"
"""Signs of a process that ended: asked to stop or done, or by an error of its own."""
TICK_SECONDS = 1.0
GRACE_SECONDS = 5.0
"""For the network library to say by itself that the other one is gone."""


@dataclass(frozen=True)
class Sign:
    """What a process says of itself.

    Attributes:
        beats: how often it has said so.
        meetings: how many exchanges with the others it has begun.
        step: of the training.
    """

    beats: int
    pid: int
    host: str
    meetings: int = 0
    step: int = 0

    def text(self) -> str:
        """As the store has it."""
        return f"{self.beats} {self.pid} {self.meetings} {self.step} {self.host}"

    @classmethod
    def read(cls, text: str) -> "Sign":
        """Of `text()`."""
        beats, pid, meetings, step, host = text.split(" ", 4)
        return cls(int(beats), int(pid), host, int(meetings), int(step))

    @property
    def dead(self) -> bool:
        """Whether its process has ended, as far as this machine can know."""
        if self.host != _here():
            return False
        try:
            return psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:
            return False


class Judge:
    """Finds from the signs of the others, as they come in, whom the training waits for in vain.

    Args:
        limit: seconds without a new sign after which a process counts as stalled.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._known: dict[int, tuple[str, float]] = {}
        self._ahead: tuple[object, float] = ((), 0.0)
        self._looked: float | None = None
        self._wait = limit

    def lost(self, signs: Mapping[int, str], now: float) -> str:
        """Who is gone, as a sentence; "" while all are well. `signs` are texts by rank."""
        if self._looked is not None and now - self._looked > max(self.limit / 2, 5 * TICK_SECONDS):
            self._known = {}  # this process itself stood still: give the others their time anew
        self._looked = now
        for rank, text in signs.items():
            if text in (LEFT, FAILED):
                return f"process {rank} of the training has {text}; see what it said"
            before, since = self._known.setdefault(rank, (text, now))
            if text != before or not text:
                self._known[rank] = (text, now)
                continue
            sign = Sign.read(text)
            who = f"process {rank} of the training (number {sign.pid} on {sign.host})"
            if sign.dead:
                return f"{who} was killed or has crashed at step {sign.step}"
            if now - since > self.limit:
                return (
                    f"{who} has given no sign of life for {now - since:.0f} s at step "
                    f"{sign.step}: it is stopped, or its machine hangs"
                )
        return ""

    def late(self, signs: Mapping[int, str], now: float) -> str:
        """Whom the others wait for, though it lives; said once, then after twice the time."""
        read = {r: Sign.read(t) for r, t in signs.items() if _is_sign(t)}
        met = {r: s.meetings for r, s in read.items()}
        if met != self._ahead[0] or len(set(met.values())) < 2:
            self._ahead, self._wait = (met, now), self.limit
            return ""
        waited = now - self._ahead[1]
        if waited <= self._wait:
            return ""
        self._wait *= 2
        last = min(met, key=lambda r: met[r])
        one = read[last]
        return (
            f"the others have waited {waited:.0f} s for process {last} of the training (number "
            f"{one.pid} on {one.host}) at step {one.step}: it is slow, or hangs"
        )


class Heartbeat:
    """The threads of one process that give its sign of life and watch the others'.

    There are two: the one that talks waits for ever where the store's own process is stopped.

    Args:
        publish: puts this process's sign where the others see it.
        look: the signs of the others that there are, by rank.
        limit: seconds, as of `Judge`.
    """

    def __init__(
        self,
        publish: Callable[[str], None],
        look: Callable[[], Mapping[int, str]],
        rank: int,
        limit: float,
    ) -> None:
        self._publish, self._look, self._rank, self._limit = publish, look, rank, limit
        self._judge, self._tick = Judge(limit), min(TICK_SECONDS, limit / 5)
        self._ended, self._how = threading.Event(), LEFT
        self._signs: Mapping[int, str] = {}
        self._heard, self._broken = monotonic(), ""
        self._parent, self._gone = os.getppid(), ""
        self.meetings = self.step = 0
        self.orphaned = False
        """Whether the launcher has ended without a word: the training is to save and stop."""
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._talk, self._watch)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def end(self, how: str = LEFT) -> None:
        """This process leaves, by itself or, `FAILED`, by an error: the others are told."""
        self._how = how
        self._ended.set()
        for thread in self._threads:
            thread.join(GRACE_SECONDS)

    def explain(self, error: RuntimeError) -> None:
        """Raise ResourceError naming the process whose end made an exchange fail, if one did."""
        until = monotonic() + GRACE_SECONDS
        while not self._gone and monotonic() < until:
            sleep(self._tick)
        if self._gone:
            raise ResourceError(_sentence(self._gone)) from error

    def _talk(self) -> None:
        beats = 0
        try:
            while not self._ended.wait(self._tick):
                beats += 1
                self._publish(self._own(beats))
                self._signs = self._look()
                self._heard = monotonic()
            self._publish(self._how)
        except RuntimeError as error:
            self._broken = (str(error).splitlines() or [type(error).__name__])[0][:200]

    def _own(self, beats: int) -> str:
        return Sign(beats, os.getpid(), _here(), self.meetings, self.step).text()

    def _watch(self) -> None:
        looked = monotonic()
        while not self._ended.wait(self._tick):
            now = monotonic()
            if now - looked > max(self._limit / 2, 5 * TICK_SECONDS):
                self._heard = now  # this process itself stood still
            looked = now
            if os.getppid() != self._parent:
                self.orphaned = True
                return
            gone = self._lost(now)
            if gone and not self._ended.is_set():
                self._gone = gone
                if not self._ended.wait(GRACE_SECONDS):
                    _leave(gone)

    def _lost(self, now: float) -> str:
        """Who is gone, as a sentence; "" for nobody."""
        gone = self._judge.lost(self._signs, now)
        if self._broken or now - self._heard > self._limit:
            # Signs that nobody could bring are no evidence against those that gave none.
            if any(_is_sign(text) and Sign.read(text).dead for text in self._signs.values()):
                return gone
            why = self._broken or f"for {now - self._heard:.0f} s"
            return f"the process that leads the training does not answer: {why}"
        if self._rank == 0:
            note = self._judge.late({0: self._own(0), **self._signs}, now)
            if note:
                write_line(sys.stderr, printable(f"warning: {note}"))
        return gone


def _here() -> str:
    """Where process numbers mean the same: containers of several nodes may share a host's name."""
    return f"{socket.gethostname()} node {os.environ.get('GROUP_RANK', '0')}"


def _is_sign(text: str) -> bool:
    return text not in ("", LEFT, FAILED)


def _sentence(gone: str) -> str:
    return f"{gone}. What was saved last is whole; the same command goes on from there."


def _leave(gone: str) -> None:
    """End this process at once: its main thread waits where nothing reaches it."""
    write_line(sys.stderr, printable(f"unpaired: {_sentence(gone)}"))
    os._exit(ResourceError.exit_code)
