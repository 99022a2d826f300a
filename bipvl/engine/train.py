"""Train one run: one resumable training loop for all variants."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object, set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from bipvl.data.crops import TrainingCrops, derive_seed, nested_share, prepared
from bipvl.data.layouts import Case
from bipvl.data.splits import split_cases
from bipvl.engine import tensorboard
from bipvl.engine.build import build_network, build_objective, class_weights
from bipvl.engine.checkpoints import Progress, is_trained
from bipvl.engine.deterministic import forbidden_nondeterminism
from bipvl.engine.lock import locked
from bipvl.engine.manifest import recorded
from bipvl.engine.metrics import class_masks, dice_scores
from bipvl.engine.optimizer import make_optimizer, set_rates
from bipvl.engine.predict import make_predictor, predict_volume, to_labels
from bipvl.engine.run import Run
from bipvl.engine.snapshots import take_snapshot
from bipvl.engine.variants import prompt_texts
from bipvl.model.checkpointing import checkpoint_activations
from bipvl.model.losses import Objective
from bipvl.model.released import make_schedule


class Learner(nn.Module):
    """Network and objective as one module, so that one wrapper distributes both."""

    def __init__(self, *, network: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.network, self.objective = network, objective

    def forward(self, volume: Tensor, target: Tensor, prompts: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Volume B × M × H × W × D, its target and the prompts → total loss, detached terms by name."""
        total, losses = self.objective(self.network(volume, prompts), target)
        return total, {name: loss.detach() for name, loss in losses.items()}


def train(run: Run, data_root: str | Path, *, progress: bool = True) -> None:
    """Train a run to the end, from its last saved state if there is one.

    Writes ``model/`` (the best validation Dice), ``history.csv`` (one row per step) and, until the end,
    ``state/``. Everything random in step i depends on (seed, i) only, so a resumed training equals an
    uninterrupted one.

    Raises:
        BipvlError: the run's directory holds other settings, is in use or cannot be written; the data do not
            fit, or have changed since they were prepared.
    """
    with locked(run):
        if is_trained(run):
            return
        cases, val, _ = split_cases(run.split_path, run.spec, data_root)
        forbid = run.config["training"]["deterministic"]
        with forbidden_nondeterminism(forbid), recorded(run, "train", [*cases, *val]):
            _train(run, cases, val, progress)


def _train(run: Run, train_cases: Sequence[Case], val_cases: Sequence[Case], progress: bool) -> None:
    settings = run.config["training"]
    accelerator = Accelerator(
        mixed_precision=settings["mixed_precision"],
        # Every step trains the same parameters, but not necessarily all of them.
        kwargs_handlers=[DistributedDataParallelKwargs(static_graph=True)],
        log_with=tensorboard.tracker(),
        project_dir=run.directory,
    )
    cache = run.split_path.parent / "cache"
    all_cases, val = (
        prepared(run.spec, cases, run.config["spacing"], cache) for cases in (train_cases, val_cases)
    )
    cases = nested_share(all_cases, run.variant.share)
    batch = settings["batch_size"] * accelerator.num_processes  # over all processes
    steps = settings["epochs"] * math.ceil(len(all_cases) / batch)  # also for a share of the cases
    interval = math.ceil(steps / settings["validations"])
    schedule = make_schedule(run.variant.deviations, steps, settings["warmup"])

    learner = _make_learner(run, cases)
    network, objective = learner.network, learner.objective
    parts = (learner, make_optimizer(learner, settings), _make_loader(run, cases, steps * batch))
    learner, optimizer, loader = accelerator.prepare(*parts)
    done = Progress.resume(run, accelerator)
    tensorboard.begin(accelerator, done.rows)
    texts = prompt_texts(run.variant, run.spec)
    prompts = network.training_prompts(texts) if run.variant.language else None
    take_snapshot(run, network, prompts, val, done.step, accelerator)

    learner.train()
    loader = accelerator.skip_first_batches(loader, done.step)
    hidden = not (progress and accelerator.is_main_process)
    title = f"{run.spec.name} · {run.variant.title} · training"
    for sample in tqdm(loader, title, total=steps, initial=done.step, unit="step", disable=hidden):
        set_seed(derive_seed(run.config["seed"], "step", done.step))  # the same on all processes
        set_rates(optimizer, done.step, schedule)
        volume = sample["image"].contiguous(memory_format=torch.channels_last_3d)  # B × M × H × W × D
        with accelerator.autocast():
            total, losses = learner(volume, sample["label"], prompts)
        accelerator.backward(total)
        if settings["max_grad_norm"]:
            accelerator.clip_grad_norm_(learner.parameters(), settings["max_grad_norm"])
        optimizer.step()
        optimizer.zero_grad()
        total, losses = accelerator.reduce((total.detach(), losses), "mean")
        done.add(total, losses, objective.log_variances, optimizer.param_groups[0]["lr"])
        if done.step % interval == 0 or done.step == steps:
            score = validate(network, run, texts, val, accelerator)
            take_snapshot(run, network, prompts, val, done.step, accelerator)
            done.validated(score, accelerator, network)
            learner.train()
        tensorboard.log(accelerator, done.rows[-1])
    tensorboard.end(accelerator)
    done.finish(accelerator)


def _make_learner(run: Run, cases: Dataset) -> Learner:
    """A new network with its objective; the run's seed decides the initial weights."""
    settings = run.config["training"]
    set_seed(derive_seed(run.config["seed"], "weights"))
    network = build_network(run.variant, run.spec, run.config)
    weights = class_weights(cases, run.spec, settings["rarity_power"])
    objective = build_objective(run.variant, run.spec, weights)
    if settings["checkpointing"]:
        checkpoint_activations(network)
    return Learner(network=network, objective=objective).to(memory_format=torch.channels_last_3d)


def _make_loader(run: Run, cases: Dataset, length: int) -> DataLoader:
    """``length`` random crops; crop i depends on (seed, i) only."""
    config, settings = run.config, run.config["training"]
    crops = TrainingCrops(cases=cases, spec=run.spec, crop=config["crop"], length=length, seed=config["seed"])
    return DataLoader(crops, batch_size=settings["batch_size"], num_workers=settings["workers"])


def validate(
    network: nn.Module, run: Run, texts: Sequence[Sequence[str]], cases: Dataset, accelerator: Accelerator
) -> float:
    """Mean foreground Dice over validation cases and classes, on the working grid.

    Several processes share the cases.
    """
    predictor, spec = make_predictor(network, run.variant, texts), run.spec
    scores: list[Tensor] = []
    with accelerator.split_between_processes(list(range(len(cases)))) as mine:
        for case in (cases[i] for i in mine):
            logits = predict_volume(
                predictor,
                case["image"],
                crop=run.config["crop"],
                overlap=run.config["overlap"]["validation"],
                at_once=run.config["training"]["batch_size"],
                device=accelerator.device,
            )
            labels = to_labels(logits, overlapping=spec.overlapping)
            scores.append(dice_scores(class_masks(labels, spec), class_masks(case["label"], spec)))
    return float(torch.cat(gather_object(scores)).nanmean())
