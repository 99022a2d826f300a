"""Row 12: the learning rate over the iterations."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from bipvl.data.layouts import Case
from bipvl.data.spec import load_spec
from bipvl.data.splits import make_split
from bipvl.engine.optimizer import make_optimizer
from bipvl.engine.profiles import get_profile
from bipvl.engine.train import Learner
from bipvl.model.released import T_MAX, DoubledPenalty
from bipvl.model.schedule import cosine_schedule

from .tiny import network, objective

LOSS = 0.5
"""A constant loss; the optimum of the released weighting is s = log(L/2) = −1.39."""


class LenientCosine(CosineAnnealingLR):
    """The scheduler before its ``zip`` became strict: at the restart it skips a group that was added late."""

    stopped_at = 0

    def get_lr(self) -> list[float]:
        groups = self.optimizer.param_groups
        try:
            return super().get_lr()
        except ValueError:
            self.stopped_at = self.stopped_at or self.last_epoch
        self.optimizer.param_groups = groups[: len(self.base_lrs)]
        rates = super().get_lr()
        self.optimizer.param_groups = groups
        return [*rates, *(group["lr"] for group in groups[len(rates) :])]


@dataclass(frozen=True)
class Course:
    """A simulated released training.

    Attributes:
        rates: columns step, release, release_s, right.
        s: the learnt s after the last step.
        stopped_at: the iteration at which the installed torch raises an error, or 0.
    """

    rates: pd.DataFrame
    s: float
    stopped_at: int


def schedule_by_iteration() -> dict[str, Any]:
    """Row 12: the rate falls over 300 iterations, not epochs, and rises again; that of the sᵢ stays 0."""
    cases = {name: training_cases(name) for name in ("amos22", "mmwhs_ct")}
    steps = {name: n * T_MAX for name, n in cases.items()}
    course = released_course(steps["mmwhs_ct"])
    rates = course.rates.set_index("step")
    lr = get_profile("paper").training.lr
    note = (
        f" (torch {torch.__version__.partition('+')[0]} rejects the late group with an error at iteration "
        f"{course.stopped_at}; without that check the rates are as shown)"
    )
    return {
        "rate_at_300": float(rates["release"][T_MAX]),
        "rate_at_600": float(rates["release"][2 * T_MAX]),
        "s_rate_after_300": float(rates["release_s"][T_MAX:].max()),
        "s": course.s,
        "loss": LOSS,
        "optimum": float(torch.tensor(LOSS / 2).log()),
        "epoch_amos22": T_MAX / cases["amos22"],
        "epoch_mmwhs": T_MAX / cases["mmwhs_ct"],
        "steps_amos22": steps["amos22"],
        "steps_mmwhs": steps["mmwhs_ct"],
        "right_rises": float((rates["right"].diff().dropna() > 0).sum()),
        "right_at_300": float(rates["right"][T_MAX]),
        "reach_released": float(rates["release_s"].sum()),
        "reach_mmwhs": lr * sum(right_factors(steps["mmwhs_ct"])),
        "reach_amos22": lr * sum(right_factors(steps["amos22"])),
        "weights_scheduled": weights_are_scheduled(),
        "stopped_at": course.stopped_at,
        "torch_note": note if course.stopped_at else "",
    }


def training_cases(dataset: str) -> int:
    """Number of training cases of a benchmark: AMOS lists 200 + 100 CT cases, MM-WHS 20."""
    spec = load_spec(dataset)
    amos = spec.split["test"] == "validation"
    sections = ["training"] * 200 + ["validation"] * 100 if amos else ["training"] * 20
    file = Path("scan.nii.gz")  # is not opened
    cases = [Case(f"case_{i:04}", file, file, section, i) for i, section in enumerate(sections)]
    return len(make_split(spec, cases, seed=42).train)


@cache
def released_course(steps: int) -> Course:
    """Simulate the release's order of calls for ``steps`` iterations, learning s at a constant loss."""
    settings = get_profile("paper").training
    network_weight = torch.nn.Parameter(torch.zeros(1))
    weighting = DoubledPenalty(terms=("segmentation",))
    optimizer = torch.optim.AdamW([network_weight], lr=settings.lr, weight_decay=settings.weight_decay)
    scheduler = LenientCosine(optimizer, T_max=T_MAX)
    optimizer.add_param_group({"params": weighting.parameters()})  # too late: the scheduler misses this group
    loss, rates = {"segmentation": torch.tensor(LOSS)}, []
    for _ in range(steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        weighting(loss).backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    table = pd.DataFrame(rates, columns=["release", "release_s"])
    table["right"] = [settings.lr * factor for factor in right_factors(steps)]
    table.insert(0, "step", range(steps))
    return Course(table, weighting.log_variance["segmentation"].item(), scheduler.stopped_at)


def right_factors(steps: int) -> list[float]:
    """The learning rate of each step in the profile ``paper``, as a factor of the peak rate."""
    schedule = cosine_schedule(steps, get_profile("paper").training.warmup)
    return [schedule(step, "vision") for step in range(steps)]


def weights_are_scheduled() -> bool:
    """Whether this package's optimiser schedules the sᵢ in a group of their own, without weight decay."""
    learner = Learner(network=network(), objective=objective())
    optimizer = make_optimizer(learner, get_profile("paper").training.model_dump())
    log_variances = {id(p) for p in learner.objective.log_variances.values()}
    (group,) = (g for g in optimizer.param_groups if {id(p) for p in g["params"]} == log_variances)
    return group["peak_lr"] > 0 and group["weight_decay"] == 0
