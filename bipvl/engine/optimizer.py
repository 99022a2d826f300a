"""The optimiser of a training: AdamW with one learning rate for each kind of parameter."""

from typing import Any

import torch
from torch import nn

from bipvl.model.schedule import Schedule

VISION = ("network.vision.", "network.decoder.", "network.network.")
"""Prefixes of the vision parameters of BiPVL-Seg, and of all parameters of a baseline."""


def make_optimizer(learner: nn.Module, settings: dict[str, Any]) -> torch.optim.AdamW:
    """AdamW for a ``Learner``: vision, language, text encoder and learnt loss weights have their own rates.

    Vision is everything that a network without language has; language is fusions, projections and heads
    that read texts. The loss weights have no weight decay.
    """
    rates = {"vision": "lr", "language": "language_lr", "text encoder": "text_lr", "loss weights": "lr"}
    groups = {}
    for group, rate in rates.items():
        decay = 0.0 if group == "loss weights" else settings["weight_decay"]
        lr = settings[rate]
        groups[group] = {"name": group, "params": [], "lr": lr, "peak_lr": lr, "weight_decay": decay}
    for name, parameter in sorted(learner.named_parameters()):
        if parameter.requires_grad:
            groups[_group_of(name)]["params"].append(parameter)
    return torch.optim.AdamW([group for group in groups.values() if group["params"]])


def _group_of(name: str) -> str:
    if name.startswith(VISION):
        return "vision"
    if name.startswith("network.text."):
        return "text encoder"
    return "loss weights" if name.startswith("objective.") else "language"


def set_rates(optimizer: torch.optim.Optimizer, step: int, schedule: Schedule) -> None:
    """Set the learning rate of every parameter group for one step, from its ``peak_lr``."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * schedule(step, group["name"])
