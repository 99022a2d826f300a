"""The progress of a training: history, best network so far, and the state to resume from."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from accelerate import Accelerator
from torch import Tensor, nn

from bipvl.common.errors import BipvlError
from bipvl.common.files import atomic_path, write_csv
from bipvl.engine.run import Run


@dataclass
class Progress:
    """Steps done, best validation Dice and one history row per step.

    ``state/step-…/`` is written atomically. While ``state/`` exists the training is not complete.
    """

    run: Run
    step: int = 0
    best: float = -1.0
    rows: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def resume(cls, run: Run, accelerator: Accelerator) -> "Progress":
        """Load the last saved state into what the accelerator has prepared, or start at step 0.

        Raises:
            BipvlError: the state was saved by another number of processes, which share the batch.
        """
        states = sorted(run.state_folder.glob("step-*"))
        if not states:
            run.state_folder.mkdir(parents=True, exist_ok=True)
            return cls(run)
        last = states[-1]
        saved, now = len([*last.glob("random_states_*")]), accelerator.num_processes
        if saved != now:
            problem = f"was trained by {saved} process(es) so far and now there are {now}"
            raise BipvlError(problem, f"resume with {saved}, or delete it to train again", run.directory)
        accelerator.load_state(str(last))
        history = pd.read_csv(last / "history.csv")
        step = int(last.name.removeprefix("step-"))
        return cls(run, step, history["val_dice"].max(), history.to_dict("records"))

    def add(
        self, total: Tensor, losses: Mapping[str, Tensor], weights: Mapping[str, Tensor], lr: float
    ) -> None:
        """Count a step and add its losses, learning rate and learnt log variances to the history."""
        values = {"total": total, **losses, **{f"log_variance_{k}": v for k, v in weights.items()}}
        self.rows.append({"step": self.step, "lr": lr} | {k: v.item() for k, v in values.items()})
        self.step += 1

    def validated(self, score: float, accelerator: Accelerator, network: nn.Module) -> None:
        """Save the network if it is the best so far, then save the state."""
        self.rows[-1]["val_dice"] = score
        if accelerator.is_main_process and score > self.best:
            self.best = score
            with atomic_path(self.run.model_folder) as folder:
                network.save_pretrained(folder)
        partial = self.run.state_folder / "partial"
        accelerator.save_state(str(partial))
        accelerator.wait_for_everyone()  # each process writes its own random state there
        if accelerator.is_main_process:
            write_csv(partial / "history.csv", pd.DataFrame(self.rows))
            older = [*self.run.state_folder.glob("step-*")]
            os.replace(partial, self.run.state_folder / f"step-{self.step:08d}")
            for folder in older:
                shutil.rmtree(folder)
        accelerator.wait_for_everyone()

    def finish(self, accelerator: Accelerator) -> None:
        """Write the history and delete the state: the training is complete."""
        if accelerator.is_main_process:
            write_csv(self.run.directory / "history.csv", pd.DataFrame(self.rows))
            shutil.rmtree(self.run.state_folder.rename(self.run.directory / ".state-done"))
        accelerator.wait_for_everyone()


def is_trained(run: Run) -> bool:
    """Whether the run's training is complete."""
    return run.model_folder.is_dir() and not run.state_folder.is_dir()
