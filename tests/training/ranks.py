"""Trainings of several processes: `start(2, ...)` starts them, and as a script this is one of them.

python ranks.py OUT BITS NAME=FOLDER,... [setting=value ...]
"""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]


def start(
    world: int, out: Path, data: Mapping[str, Path], *settings: str, bits: int = 32
) -> list[subprocess.Popen[str]]:
    """One process a rank, as torchrun would start them; each says on stderr what it has to say."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    roots = ",".join(f"{m}={path}" for m, path in data.items())
    call = [sys.executable, __file__, str(out), str(bits), roots, *settings]
    common = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    path = os.pathsep.join([str(TESTS), *sys.path])
    return [
        subprocess.Popen(
            call, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank),
                 "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        )
        for rank in range(world)
    ]  # fmt: skip


def finish(processes: list[subprocess.Popen[str]], seconds: float = 120) -> list[tuple[int, str]]:
    """Exit code and last words of each; none is left behind."""
    try:
        said = [process.communicate(timeout=seconds)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def in_float64() -> None:
    """Networks and images in double precision, so that only mistakes are left to see."""
    from unpaired.methods.base import Method
    from unpaired.methods.consistency import Consistency
    from unpaired.training import trainer

    def double(kind: type[Method]) -> None:
        plain = kind.joint

        def joint(self: Any, *given: Any) -> Any:
            return plain(self, *given).double()

        kind.joint = joint  # type: ignore[method-assign]

    double(Method)
    double(Consistency)
    changed = trainer.augment

    def augment(*given: Any) -> Any:
        batch = changed(*given)
        return replace(batch, image=batch.image.double())

    trainer.augment = augment


def main(out: str, bits: str, roots: str, *settings: str) -> None:
    """One process."""
    import torch

    from toy import toy_config
    from unpaired.cli.app import code_of
    from unpaired.training import fit
    from unpaired.training import trainer as training

    torch.set_num_threads(1)
    if bits == "64":
        in_float64()
        fit.write_model = fit.save_semantics = lambda *_: None  # type: ignore[assignment]
        training.Trainer._validate = lambda self: None  # type: ignore[method-assign]
    data = dict(one.split("=", 1) for one in roots.split(","))
    try:
        fit.train(toy_config(*settings), data, Path(out))
    except BaseException as error:
        sys.exit(code_of(error))
    left = [name for task in Path("/proc/self/task").glob("*/comm")
            if "gloo" in (name := task.read_text())]  # fmt: skip
    assert not left, left  # they can abort the process at its exit


if __name__ == "__main__":
    main(*sys.argv[1:])
