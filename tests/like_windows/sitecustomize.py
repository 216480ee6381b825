"""On PYTHONPATH this makes Linux as poor as Windows, in every process that Python starts.

Modules and names that Windows lacks are gone, our own files cannot read /proc, a file that is open
or mapped can be neither renamed nor removed, and only what is open for writing can be flushed.
"""

import builtins
import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog")
KEPT = {"SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM"}
NAMES = ("fork", "forkpty", "geteuid", "getuid", "getgid", "killpg", "setsid", "mkfifo")
OURS = "unpaired"

plain_open, list_folder, read_link, flush = builtins.open, os.listdir, os.readlink, os.fsync
plain_import = builtins.__import__


def caller_is_ours() -> bool:
    frame = sys._getframe(2)
    while frame is not None and "pathlib" in frame.f_code.co_filename:
        frame = frame.f_back  # Path.open opens in the name of who called it
    return frame is not None and frame.f_globals.get("__name__", "").split(".")[0] == OURS


def without_proc(call: Callable[..., Any]) -> Callable[..., Any]:
    def opened(file: Any, *args: Any, **kwargs: Any) -> Any:
        if str(file).startswith("/proc") and caller_is_ours():
            raise FileNotFoundError(2, "hidden by the test", str(file))
        return call(file, *args, **kwargs)

    return opened


def import_what_is_there(name: str, into: Any = None, *args: Any, **kwargs: Any) -> Any:
    if name in MODULES and (into or {}).get("__name__", "").split(".")[0] == OURS:
        raise ModuleNotFoundError(f"{name} is hidden by the test")
    return plain_import(name, into, *args, **kwargs)


def held(path: str) -> bool:
    """Whether this process has the file open or mapped."""
    for number in list_folder("/proc/self/fd"):
        try:
            if read_link(f"/proc/self/fd/{number}") == path:
                return True
        except OSError:
            continue
    with plain_open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        return any(line.rstrip("\n").endswith(f" {path}") for line in maps)


def audit(event: str, args: tuple[Any, ...]) -> None:
    if event in {"os.rename", "os.remove"}:
        for name in args[: 2 if event == "os.rename" else 1]:
            path = os.path.realpath(os.fsdecode(name))
            if Path(path).is_file() and held(path):
                raise PermissionError(13, "Windows: the file is open or mapped", path)


def flush_what_may_be_written(file: int) -> None:
    os.write(file, b"")  # fails, as on Windows, where the file is open for reading only
    flush(file)


for module in MODULES:
    if module != "resource":  # psutil takes it on Linux, so it is hidden from our files alone
        sys.modules[module] = None  # type: ignore[assignment]
for name in [n for n in dir(signal) if n.startswith("SIG") and n not in KEPT and n[3] != "_"]:
    if isinstance(getattr(signal, name), signal.Signals):
        delattr(signal, name)
for name in NAMES:
    delattr(os, name)
builtins.__import__ = import_what_is_there
builtins.open = io.open = without_proc(plain_open)
os.fsync = flush_what_may_be_written  # type: ignore[assignment]
sys.addaudithook(audit)
