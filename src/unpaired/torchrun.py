"""`python -m unpaired.torchrun --nproc_per_node=2 train ...`: torchrun that ends as its training.

The options are torchrun's; what follows them is a call of the program. torchrun itself ends with 1
and a traceback whatever its processes do; this ends with their exit code, 5 after a signal, and
names the process that was lost. It passes on the signals of batch systems, too, and gives the
processes ten minutes to finish the step and save, where torchrun kills them after 30 seconds.
"""

import sys
from collections.abc import Sequence
from typing import Any

from unpaired.cli.output import note
from unpaired.errors import Interrupted, ResourceError
from unpaired.signals import stopping_signals

SAVING_SECONDS = 600


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the processes; the exit code."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import get_args_parser, run

    given = get_args_parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    verb = given.training_script
    given.module, given.training_script = True, "unpaired"
    given.training_script_args = [verb, *given.training_script_args]
    if hasattr(given, "signals_to_handle"):
        given.signals_to_handle = ",".join(number.name for number in stopping_signals())
    if getattr(given, "shutdown_timeout", SAVING_SECONDS) is None:
        given.shutdown_timeout = SAVING_SECONDS
    try:
        run(given)
    except SignalException:
        note("unpaired: interrupted. The same command goes on.")
        return Interrupted.exit_code
    except ChildFailedError as error:
        return _failed(error.failures)
    return 0


def _failed(failures: dict[int, Any]) -> int:
    """The exit code of the first process that failed; torchrun ended the others. One that was
    killed has none: it is named."""
    rank = min(failures, key=lambda r: failures[r].timestamp)
    first = failures[rank]
    if first.exitcode > 0:
        return int(first.exitcode)
    note(
        f"unpaired: process {rank} of the training (number {first.pid}) was killed by signal "
        f"{-first.exitcode}. The same command goes on from what was saved last."
    )
    return ResourceError.exit_code


if __name__ == "__main__":
    sys.exit(main())
