"""How far a training is: history, best network so far, and the state to go on from."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from accelerate import Accelerator
from torch import Tensor, nn

from bipvl.common.errors import BipvlError
from bipvl.common.files import atomic_path, write_csv
from bipvl.engine.run import Run


@dataclass
class Progress:
    """Steps done, best validation Dice and one history row a step.

    On disk ``state/step-…/`` appears whole or not at all; while ``state/`` exists the training is not done.
    """

    run: Run
    step: int = 0
    best: float = -1.0
    rows: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def resume(cls, run: Run, accelerator: Accelerator) -> "Progress":
        """From the last saved state, which is loaded into what the accelerator has prepared; else from 0.

        Raises:
            BipvlError: the state is of another number of processes, which share the batch.
        """
        states = sorted(state_folder(run).glob("step-*"))
        if not states:
            state_folder(run).mkdir(parents=True, exist_ok=True)
            return cls(run)
        saved, now = len([*states[-1].glob("random_states_*")]), accelerator.num_processes
        if saved != now:
            raise BipvlError(
                f"{run.directory} was trained by {saved} process(es) so far and now there are {now}; "
                f"go on with {saved}, or delete it to train anew"
            )
        step = int(states[-1].name.removeprefix("step-"))
        accelerator.load_state(str(states[-1]))
        history = pd.read_csv(states[-1] / "history.csv")
        return cls(run, step, history["val_dice"].max(), history.to_dict("records"))

    def add(
        self, total: Tensor, losses: Mapping[str, Tensor], weights: Mapping[str, Tensor], lr: float
    ) -> None:
        """Count a step and note its losses, its learning rate and the learnt log variances."""
        values = {"total": total, **losses, **{f"log_variance_{k}": v for k, v in weights.items()}}
        self.rows.append({"step": self.step, "lr": lr} | {k: v.item() for k, v in values.items()})
        self.step += 1

    def validated(self, score: float, accelerator: Accelerator, network: nn.Module) -> None:
        """Keep the network if it is the best so far, then save the state."""
        self.rows[-1]["val_dice"] = score
        if accelerator.is_main_process and score > self.best:
            self.best = score
            with atomic_path(self.run.model_folder) as folder:
                network.save_pretrained(folder)
        partial = state_folder(self.run) / "partial"
        accelerator.save_state(str(partial))
        accelerator.wait_for_everyone()  # each process writes its own random state there
        if accelerator.is_main_process:
            write_csv(partial / "history.csv", pd.DataFrame(self.rows))
            older = [*state_folder(self.run).glob("step-*")]
            os.replace(partial, state_folder(self.run) / f"step-{self.step:08d}")
            for folder in older:
                shutil.rmtree(folder)
        accelerator.wait_for_everyone()

    def finish(self, accelerator: Accelerator) -> None:
        """Write the history and take the state away: the training is done."""
        if accelerator.is_main_process:
            write_csv(self.run.directory / "history.csv", pd.DataFrame(self.rows))
            done = state_folder(self.run).rename(self.run.directory / ".state-done")
            shutil.rmtree(done)
        accelerator.wait_for_everyone()


def state_folder(run: Run) -> Path:
    """Where a run keeps what it needs to go on."""
    return run.directory / "state"


def is_trained(run: Run) -> bool:
    """Whether a training ran to its end here."""
    return run.model_folder.is_dir() and not state_folder(run).is_dir()
