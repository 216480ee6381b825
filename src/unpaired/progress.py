"""How far long work is: one way to say it, everywhere."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Called after every step of long work; the bar of the command line is one."""

    def __call__(self, done: int, total: int, what: str, /) -> None:
        """`done` of `total` steps are done, the last of them `what`."""
