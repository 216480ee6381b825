"""nnU-Net's side, run by the Python of its own environment: prepare, train, predict.

    PYTHON peer.py prepare SETTINGS.json
    PYTHON peer.py train SETTINGS.json
    PYTHON peer.py predict SETTINGS.json

`compare.py` writes the settings and reads what is written to the file that `report` names. This
file imports nothing of ours. Everything runs in one process and one thread, so that processor
seconds are what the work costs.
"""

import json
import os
import random
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path

SETTINGS = json.loads(Path(sys.argv[2]).read_text()) if len(sys.argv) == 3 else {}
# nnU-Net reads these when it is imported.
os.environ.update(SETTINGS.get("environment", {}))
# Training draws its batches in its own process; planning needs 1, it takes it for its threads.
DRAWING = "1" if sys.argv[1:2] == ["prepare"] else "0"
os.environ.update({"nnUNet_n_proc_DA": DRAWING, "nnUNet_def_n_proc": "1"})

import numpy as np  # noqa: E402
import torch  # noqa: E402
from nnunetv2.experiment_planning import plan_and_preprocess_api as planning  # noqa: E402
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # noqa: E402
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer  # noqa: E402
from nnunetv2.training.nnUNetTrainer.variants.optimizer.nnUNetTrainerAdam import (  # noqa: E402
    nnUNetTrainerAdam1en3,
)

PLANS = "nnUNetPlans"
LAST = "checkpoint_final.pth"
# Of nnU-Net's poly schedule.
EXPONENT = 0.9
CPU = torch.device("cpu")


def processor_seconds() -> float:
    """Of this process and of the workers that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + used.ru_utime + used.ru_stime


class Budgeted:
    """A trainer that stops at a budget of processor seconds.

    nnU-Net's learning rate falls by epochs of a length of its own; here by the share of the budget
    that is spent, to the same zero along the same curve. Its validation patches, which decide
    nothing about the last weights, are left out: all of the budget is training.
    """

    budget: float
    steps = 0
    seconds = 0.0

    def run_training(self) -> None:
        """As nnU-Net's, in one epoch of as many steps as fit."""
        self.on_train_start()
        self.network.train()
        began = processor_seconds()
        losses = []
        while (spent := processor_seconds() - began) < self.budget:
            for group in self.optimizer.param_groups:
                group["lr"] = self.initial_lr * (1 - spent / self.budget) ** EXPONENT
            losses.append(float(self.train_step(next(self.dataloader_train))["loss"]))
            self.steps += 1
            if self.steps % 50 == 0:
                mean = float(np.mean(losses[-50:]))
                self.print_to_log_file(f"step {self.steps}, {spent:.0f} s, loss {mean:.3f}")
        self.seconds = processor_seconds() - began
        self.save_checkpoint(str(Path(self.output_folder) / LAST))


class BudgetedSgd(Budgeted, nnUNetTrainer):
    """nnU-Net's default."""


class BudgetedAdamW(Budgeted, nnUNetTrainerAdam1en3):
    """nnU-Net's own variant with AdamW and a rate of 1e-3: it learns in fewer steps."""


TRAINERS = {"sgd": BudgetedSgd, "adamw": BudgetedAdamW}


def prepare() -> dict:
    """Fingerprint, plan, preprocessed cases; what is asked for in place of the plan's choice."""
    number, name = int(SETTINGS["dataset"][7:10]), SETTINGS["configuration"]
    planning.extract_fingerprints([number], num_processes=1, check_dataset_integrity=True)
    planning.plan_experiments([number])
    folder = _preprocessed()
    path = folder / f"{PLANS}.json"
    plans = json.loads(path.read_text())
    if name not in plans["configurations"]:
        known = ", ".join(plans["configurations"])
        sys.exit(f"nnU-Net plans no {name} for these data, only {known}.")
    plans["configurations"][name].update(SETTINGS["override"])
    path.write_text(json.dumps(plans, indent=2))
    planning.preprocess([number], PLANS, (name,), num_processes=(1,))
    raw = Path(SETTINGS["environment"]["nnUNet_raw"]) / SETTINGS["dataset"]
    (folder / "splits_final.json").write_text((raw / "splits_final.json").read_text())
    return {"plan": _plan_of(plans["configurations"][name])}


def train() -> dict:
    """The same seed for weights and draws, which nnU-Net leaves to chance."""
    seed = SETTINGS["seed"]
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    trainer = _trainer()
    trainer.budget = SETTINGS["budget_seconds"]
    trainer.run_training()
    count = sum(p.numel() for p in trainer.network.parameters())
    return {"steps": trainer.steps, "training_seconds": trainer.seconds, "parameters": count}


def predict() -> dict:
    """Every modality's test images, as `nnUNetv2_predict` does it: half overlap, mirrored."""
    trainer = _trainer()
    trainer.initialize()
    kept = torch.load(Path(trainer.output_folder) / LAST, map_location=CPU, weights_only=False)
    trainer.set_deep_supervision_enabled(False)
    predictor = nnUNetPredictor(
        use_mirroring=SETTINGS["mirror"],
        perform_everything_on_device=False,
        device=CPU,
        allow_tqdm=False,
    )
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [kept["network_weights"]],
        trainer.dataset_json,
        trainer.__class__.__name__,
        kept["inference_allowed_mirroring_axes"],
    )
    for images, out in SETTINGS["predict"]:
        Path(out).mkdir(parents=True, exist_ok=True)
        predictor.predict_from_files_sequential(images, out, overwrite=False)
    return {}


def _preprocessed() -> Path:
    return Path(SETTINGS["environment"]["nnUNet_preprocessed"]) / SETTINGS["dataset"]


def _trainer() -> nnUNetTrainer:
    folder = _preprocessed()
    plans = json.loads((folder / f"{PLANS}.json").read_text())
    about = json.loads((folder / "dataset.json").read_text())
    kind = TRAINERS[SETTINGS["optimizer"]]
    given = {**plans, "continue_training": False}  # nnU-Net takes this one out again
    return kind(given, SETTINGS["configuration"], 0, about, CPU)


def _plan_of(configuration: dict) -> dict:
    return {key: configuration[key] for key in ("patch_size", "batch_size", "spacing")}


def main() -> None:
    """Do one verb; report what it gave and what it cost."""
    torch.set_num_threads(1)
    found = {"prepare": prepare, "train": train, "predict": predict}[sys.argv[1]]()
    found["processor_seconds"] = processor_seconds()
    found["versions"] = {name: version(name) for name in ("nnunetv2", "torch", "numpy")}
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    Path(SETTINGS["report"]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
