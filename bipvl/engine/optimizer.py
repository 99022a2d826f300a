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
    named = {name: p for name, p in learner.named_parameters() if p.requires_grad}
    vision = {name for name in named if name.startswith(VISION)}
    text = {name for name in named if name.startswith("network.text.")}
    weights = {name for name in named if name.startswith("objective.")}
    decay = settings["weight_decay"]
    groups = [
        _group("vision", vision, named, settings["lr"], decay),
        _group("language", named.keys() - vision - text - weights, named, settings["language_lr"], decay),
        _group("text encoder", text, named, settings["text_lr"], decay),
        _group("loss weights", weights, named, settings["lr"], 0.0),
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]])


def _group(
    name: str, names: set[str], named: dict[str, nn.Parameter], lr: float, decay: float
) -> dict[str, Any]:
    parameters = [named[n] for n in sorted(names)]
    return {"name": name, "params": parameters, "lr": lr, "peak_lr": lr, "weight_decay": decay}


def set_rates(optimizer: torch.optim.Optimizer, step: int, schedule: Schedule) -> None:
    """Set the learning rate of every parameter group for one step, from its ``peak_lr``."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * schedule(step, group["name"])
