"""Row 12: the learning rate over the iterations."""

from dataclasses import dataclass
from functools import cache

import pandas as pd
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from bipvl.data.layouts import Case
from bipvl.data.spec import DatasetSpec, load_spec
from bipvl.data.splits import make_split
from bipvl.engine.run import get_profile
from bipvl.engine.train import T_MAX, Learner, learning_rate, make_optimizer
from bipvl.model.losses import UncertaintyWeighting

from .finding import Proof, signed
from .tiny import network, objective

LOSS = 0.5
"""A constant loss, of which the released weighting's optimum is s = log(L/2) = −1.39."""


class OlderCosine(CosineAnnealingLR):
    """As torch's before its ``zip`` became strict: at the restart a group that joined late is passed over."""

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
    """``rates`` by step (columns step, release, release_s, right), where s came to, and where torch stops.

    ``stopped_at`` is the iteration at which the installed torch raises, 0 where it goes on.
    """

    rates: pd.DataFrame
    s: float
    stopped_at: int


def rate_by_iteration() -> Proof:
    """Row 12: annealed over 300 iterations instead of 300 epochs, and back; the s_i not at all after that."""
    cases = {name: training_cases(name) for name in ("amos22", "mmwhs_ct")}
    steps = {name: n * T_MAX for name, n in cases.items()}
    course = released_course(steps["mmwhs_ct"])
    rates, settings = course.rates.set_index("step"), get_profile("paper")["training"]
    optimum = float(torch.tensor(LOSS / 2).log())
    reach = {name: settings["lr"] * sum(right_factors(n)) for name, n in steps.items()}
    grouped = weights_are_scheduled()
    today = (
        f" (torch {torch.__version__.partition('+')[0]} refuses the late group with an error at iteration "
        f"{course.stopped_at}; without that check it goes on as shown)"
    )
    return Proof(
        row=12,
        what="the scheduler steps every iteration with T_max = 300; the sᵢ join the optimiser after it",
        released=f"the rate is {rates['release'][T_MAX]:g} at iteration {T_MAX} (AMOS: epoch "
        f"{T_MAX / cases['amos22']:.1f}, MM-WHS: epoch {T_MAX / cases['mmwhs_ct']:.0f}) and "
        f"{rates['release'][2 * T_MAX]:.0e} again at {2 * T_MAX}; from 300 on the sᵢ's own rate stays "
        f"{rates['release_s'][2 * T_MAX]:g}: after {steps['mmwhs_ct']:,} steps s = "
        f"{signed(course.s, '.3f')}, the optimum being {signed(optimum, '.2f')}"
        + today
        * bool(course.stopped_at),
        right=f"one descent over all steps: {rates['right'][T_MAX]:.1e} at iteration {T_MAX}, 0 only at the "
        "end; the sᵢ are a parameter group from the start, with the same course",
        difference="the released weighting is inert. What Adam can move s by, the sum of its rates: "
        f"{released_reach(course):.3f} in the release; here {reach['mmwhs_ct']:.2f} in MM-WHS's "
        f"{steps['mmwhs_ct']:,} steps (also too little for {signed(optimum, '.2f')}), {reach['amos22']:.2f} "
        f"in AMOS's {steps['amos22']:,}",
        quoted="rate 0 at iteration 300 (AMOS: epoch 1.7, MM-WHS: epoch 21); s = −0.015 after 4,200 steps "
        "where −1.39 is the optimum",
        shown_on=f"torch's own scheduler and `UncertaintyWeighting` at a constant loss of {LOSS}; bipvl's "
        "`learning_rate` and `make_optimizer`",
        measured={
            "rate_at_300": float(rates["release"][T_MAX]),
            "rate_at_600": float(rates["release"][2 * T_MAX]),
            "s_rate_after_300": float(rates["release_s"][T_MAX:].max()),
            "s": course.s,
            "optimum": optimum,
            "epoch_amos22": T_MAX / cases["amos22"],
            "epoch_mmwhs": T_MAX / cases["mmwhs_ct"],
            "right_rises": float((rates["right"].diff().dropna() > 0).sum()),
            "right_at_300": float(rates["right"][T_MAX]),
            "reach_released": released_reach(course),
            "reach_mmwhs": reach["mmwhs_ct"],
            "reach_amos22": reach["amos22"],
            "weights_scheduled": grouped,
            "stopped_at": course.stopped_at,
        },
    )


def training_cases(dataset: str) -> int:
    """Training cases of a benchmark by its split rule: AMOS lists 200 and 100 CT, MM-WHS 20."""
    spec = load_spec(dataset)
    sections = (
        {"training": 200, "validation": 100} if spec.split["test"] == "validation" else {"training": 20}
    )
    return len(make_split(spec, _listed(spec, sections), seed=42).train)


def _listed(spec: DatasetSpec, sections: dict[str, int]) -> list[Case]:
    folder = spec.prompts.parent  # any: the files are not opened
    return [
        Case(f"{section}_{i:04}", folder, folder, section, i)
        for section, n in sections.items()
        for i in range(n)
    ]


@cache
def released_course(steps: int) -> Course:
    """``steps`` iterations as the release's order of things makes them, with s learnt at a constant loss."""
    settings = get_profile("paper")["training"]
    network_weight = torch.nn.Parameter(torch.zeros(1))
    weighting = UncertaintyWeighting(terms=("segmentation",), penalty=1.0)
    optimizer = torch.optim.AdamW([network_weight], lr=settings["lr"], weight_decay=settings["weight_decay"])
    scheduler = OlderCosine(optimizer, T_max=T_MAX)
    optimizer.add_param_group(
        {"params": weighting.parameters()}
    )  # after the scheduler has counted the groups
    loss, rates = {"segmentation": torch.tensor(LOSS)}, []
    for _ in range(steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        weighting(loss).backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    table = pd.DataFrame(rates, columns=["release", "release_s"])
    table["right"] = [settings["lr"] * factor for factor in right_factors(steps)]
    table.insert(0, "step", range(steps))
    return Course(table, weighting.log_variance["segmentation"].item(), scheduler.stopped_at)


def right_factors(steps: int) -> list[float]:
    """This package's rate in the paper's profile, step by step, as a factor."""
    warmup = get_profile("paper")["training"]["warmup"]
    return [learning_rate(step, steps, warmup) for step in range(steps)]


def released_reach(course: Course) -> float:
    """The sum of the rates that s was given."""
    return float(course.rates["release_s"].sum())


def weights_are_scheduled() -> bool:
    """Whether this package's optimiser holds the sᵢ, in a group with a peak rate that the schedule scales."""
    learner = Learner(network=network(), objective=objective())
    optimizer = make_optimizer(learner, get_profile("paper")["training"])
    own = {id(p) for p in learner.objective.log_variances.values()}
    (group,) = (g for g in optimizer.param_groups if {id(p) for p in g["params"]} == own)
    return group["peak_lr"] > 0 and group["weight_decay"] == 0
