"""Commands that are waited for, with what they cost."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unpaired.errors import DataError

# Kernels of both tools on one thread, so that processor seconds are comparable.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Cost:
    """Of a command and all that it started.

    Attributes:
        processor_seconds: of user and system.
        seconds: by the clock.
        peak_mib: of the largest of its processes.
    """

    processor_seconds: float
    seconds: float
    peak_mib: float


def run(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str] | None = None,
    through: Sequence[str] = (),
) -> Cost:
    """Run a command to its end; what it prints goes to `log`.

    Args:
        through: put before the command, such as ["nice", "-n", "5"].

    Raises:
        DataError: it failed; the last lines of the log are shown.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    own = {**os.environ, **ONE_THREAD, **(environment or {})}
    began = time.monotonic()
    with log.open("ab") as file:
        child = subprocess.Popen([*through, *command], stdout=file, stderr=file, env=own)
        try:
            _, status, used = os.wait4(child.pid, 0)
        except BaseException:
            child.terminate()
            raise
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise DataError(f"{' '.join(command)} ended with {child.returncode}; {log} says:\n{tail}")
    return Cost(
        processor_seconds=used.ru_utime + used.ru_stime,
        seconds=time.monotonic() - began,
        peak_mib=used.ru_maxrss / 1024,
    )
