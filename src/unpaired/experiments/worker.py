"""One run in a process of its own: `python -m unpaired.experiments.worker RUN/job.json`.

The caller holds the other end of the standard input: when it dies, however, the run saves itself
and ends too, so that the same command can go on at once.
"""

import os
import signal
import sys
import threading
from pathlib import Path

from unpaired.errors import UnpairedError
from unpaired.files import write_text

FAILURE = "failure.txt"


def main(path: Path) -> int:
    """The exit code; a sentence goes into RUN/failure.txt where it is not 0."""
    threading.Thread(target=_leave_with_the_caller, daemon=True).start()
    try:
        from unpaired.experiments.execute import execute, read_job

        execute(*read_job(path))
    except UnpairedError as error:
        write_text(path.with_name(FAILURE), str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return 5
    except Exception as error:  # the other runs go on; this one says what it was
        write_text(path.with_name(FAILURE), f"{type(error).__name__}: {error}")
        raise
    path.with_name(FAILURE).unlink(missing_ok=True)
    return 0


def _leave_with_the_caller() -> None:
    """Read until the end, then ask this process to save and stop."""
    while os.read(0, 1):  # a buffered read would hold a lock at the interpreter's end
        pass
    if sys.platform == "win32":  # os.kill would end the process there and then
        signal.raise_signal(signal.SIGTERM)
    else:
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
