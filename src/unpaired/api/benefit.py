"""What training together gave, in Python."""

from collections.abc import Mapping
from pathlib import Path

from unpaired.api.run import Data, folder_of
from unpaired.config import Config, to_toml
from unpaired.errors import DataError
from unpaired.experiments.benefit import Asked, plan_benefit
from unpaired.experiments.benefit_answer import Benefit, answer
from unpaired.experiments.pool import Ended, run_jobs
from unpaired.files import write_text
from unpaired.training.budget import parse_budget


def benefit(
    data: Mapping[str, Data],
    *,
    out: str | Path,
    budget: str | None = None,
    config: Config | None = None,
    seeds: int = 1,
    jobs: int = 1,
) -> Benefit:
    """Train each modality alone and all together, and say what together gave.

    The same call goes on where it stopped. Trainings are processes of their own: a script calls
    this under `if __name__ == "__main__":`.

    Args:
        data: modality -> data set, or the folder of one; two or more.
        out: where runs, answers and page go.
        budget: for everything, such as "4h"; network and steps are planned for it.
        config: settings of your own instead; `train.steps` is then that of every training.
        seeds: of every training.
        jobs: trainings at a time.

    Returns:
        the answers; its `repr` is text with a table. What failed is in `open`.

    Raises:
        UsageError: one modality, a budget that no network fits, or the folder holds other runs.
        DataError: the data are at fault, or every training failed.
        Interrupted: a signal came; everything is saved.
    """
    root = Path(out).expanduser()
    folders = {m: folder_of(m, one, root) for m, one in data.items()}
    file = None
    if config is not None:
        file = root / "given.toml"
        write_text(file, to_toml(config))
    seconds = None if budget is None else parse_budget(budget)
    plan = plan_benefit(Asked(folders, root, seconds, (), None, file, seeds, jobs))
    failures: dict[str, str] = {}

    def note(ended: Ended) -> None:
        if ended.failure:
            failures[ended.job.identity] = ended.failure

    run_jobs(plan.jobs, root / "prepared", jobs, note)
    found = answer(plan, failures)
    if not found.comparisons:
        raise DataError("\n".join(found.open.values()))
    return found
