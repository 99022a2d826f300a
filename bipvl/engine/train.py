"""Training of one run: a flat loop, the same for every variant, that can be stopped and gone on with."""

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
from bipvl.data.spec import DatasetSpec
from bipvl.data.splits import split_cases
from bipvl.engine import tensorboard
from bipvl.engine.checkpoints import Progress, is_trained
from bipvl.engine.deterministic import forbidden_nondeterminism
from bipvl.engine.lock import sole_writer
from bipvl.engine.manifest import recorded
from bipvl.engine.metrics import class_masks, dice_scores
from bipvl.engine.predict import make_predictor, predict_volume, to_labels
from bipvl.engine.run import Run
from bipvl.engine.snapshots import take_snapshot
from bipvl.engine.variants import Variant, build_network, prompt_texts
from bipvl.model.checkpointing import checkpoint_activations
from bipvl.model.losses import Objective


class Learner(nn.Module):
    """Network and objective as one module, so that one wrapper distributes both."""

    def __init__(self, *, network: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.network, self.objective = network, objective

    def forward(self, volume: Tensor, target: Tensor, prompts: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Volume B × M × H × W × D, its target and the prompts → total loss, named terms without gradient."""
        total, losses = self.objective(self.network(volume, prompts), target)
        return total, {name: loss.detach() for name, loss in losses.items()}


def make_objective(variant: Variant, spec: DatasetSpec, class_weights: Tensor | None = None) -> Objective:
    """The loss of a variant on a dataset."""
    return Objective(
        terms=variant.terms,
        overlapping=spec.overlapping,
        class_weights=class_weights,
        preset=variant.preset,
        **variant.objective,
    )


def learning_rate(step: int, steps: int, warmup: float) -> float:
    """Cosine annealing to 0 over ``steps``, as a factor; a share ``warmup`` of them rises linearly first."""
    rise = warmup * steps
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))


T_MAX = 300
"""Epochs of the paper's annealing; the released code hands them to a scheduler that it steps every step."""


def released_rate(step: int, *, of_weights: bool) -> float:
    """The released code's factor: down to 0 and up again; of the learnt loss weights 0 ever after."""
    return 0.0 if of_weights and step >= T_MAX else 0.5 * (1 + math.cos(math.pi * step / T_MAX))


def set_rates(optimizer: torch.optim.Optimizer, step: int, steps: int, warmup: float, released: bool) -> None:
    """Every group's learning rate in a step, from its ``peak_lr``."""
    for group in optimizer.param_groups:
        if released:
            factor = released_rate(step, of_weights=group["name"] == "loss weights")
        else:
            factor = learning_rate(step, steps, warmup)
        group["lr"] = group["peak_lr"] * factor


VISION = ("network.vision.", "network.decoder.", "network.network.")
"""Where the vision parameters of BiPVL-Seg, and all of a baseline's, are."""


def make_optimizer(learner: Learner, settings: dict[str, Any]) -> torch.optim.AdamW:
    """AdamW; each kind of parameter has its own rate, the learnt loss weights no decay.

    Vision: what a network without language consists of. Language: fusions, projections and heads of texts.
    """
    named = {name: p for name, p in learner.named_parameters() if p.requires_grad}
    vision = {name for name in named if name.startswith(VISION)}
    text = {name for name in named if name.startswith("network.text.")}
    weights = {name for name in named if name.startswith("objective.")}
    language = named.keys() - vision - text - weights
    groups = [
        ("vision", vision, settings["lr"], settings["weight_decay"]),
        ("language", language, settings["language_lr"], settings["weight_decay"]),
        ("text encoder", text, settings["text_lr"], settings["weight_decay"]),
        ("loss weights", weights, settings["lr"], 0.0),
    ]
    return torch.optim.AdamW(
        [
            {
                "name": name,
                "params": [named[n] for n in sorted(names)],
                "lr": lr,
                "peak_lr": lr,
                "weight_decay": decay,
            }
            for name, names, lr, decay in groups
            if names
        ]
    )


def class_weights(cases: Dataset, spec: DatasetSpec, power: float) -> Tensor | None:
    """C weights of the cross-entropy that grow with a class's rarity, to the given power; None for power 0.

    One label a voxel: ∝ (1 / share of voxels)^power, 1 for the mean voxel. Overlapping labels: a class's own
    voxels against all others, (others / own)^power. The paper weights no class; a training of minutes needs
    it, or it never finds the small ones.
    """
    if not power:
        return None
    if spec.overlapping:
        share = torch.stack([c["label"].float().mean((1, 2, 3)) for c in cases]).mean(0).clamp(min=1e-6)
        return ((1 - share) / share) ** power
    counts = sum(torch.bincount(c["label"].flatten().long(), minlength=spec.out_channels) for c in cases)
    share = counts.clamp(min=1) / counts.sum()
    return share**-power / (share ** (1 - power)).sum()


def train(run: Run, data_root: str | Path, *, progress: bool = True) -> None:
    """Train a run to its end, from its last saved state where there is one.

    Writes ``model/`` (best validation Dice), ``history.csv`` (one row a step) and, until done, ``state/``.
    All that is random in step i is drawn from (seed, i): a resumed training equals an uninterrupted one.

    Raises:
        BipvlError: the run's directory holds other settings, is in use or cannot be written; the data do not
            fit, or have changed since they were prepared.
    """
    with sole_writer(run):
        if is_trained(run):
            return
        cases, val, _ = split_cases(run.split_path, run.spec, data_root)
        forbid = run.config["training"]["deterministic"]
        with forbidden_nondeterminism(forbid), recorded(run, "train", [*cases, *val]):
            _train(run, cases, val, progress)


def _train(run: Run, train_cases: Sequence[Case], val_cases: Sequence[Case], progress: bool) -> None:
    config, settings, spec = run.config, run.config["training"], run.spec
    # Which parameters the objective reaches is the same in every step, but need not be all of them.
    wrapping = DistributedDataParallelKwargs(static_graph=True)
    accelerator = Accelerator(
        mixed_precision=settings["mixed_precision"],
        kwargs_handlers=[wrapping],
        log_with=tensorboard.tracker(),
        project_dir=run.directory,
    )
    all_cases, val = (_prepared(run, cases) for cases in (train_cases, val_cases))
    batch = settings["batch_size"] * accelerator.num_processes  # of all processes together
    epoch = math.ceil(len(all_cases) / batch)
    steps = settings["epochs"] * epoch  # as many for a share of the cases as for all
    cases = nested_share(all_cases, run.variant.share)
    interval = math.ceil(steps / settings["validations"])

    set_seed(derive_seed(config["seed"], "weights"))
    network = build_network(run.variant, spec, config)
    weights = class_weights(cases, spec, settings["rarity_power"])
    objective = make_objective(run.variant, spec, weights)
    if settings["checkpointing"]:
        checkpoint_activations(network)
    learner = Learner(network=network, objective=objective).to(memory_format=torch.channels_last_3d)
    optimizer = make_optimizer(learner, settings)
    crops = TrainingCrops(
        cases=cases,
        spec=spec,
        crop=config["crop"],
        length=steps * batch,
        seed=config["seed"],
    )
    loader = DataLoader(crops, batch_size=settings["batch_size"], num_workers=settings["workers"])
    learner, optimizer, loader = accelerator.prepare(learner, optimizer, loader)
    done = Progress.resume(run, accelerator)
    tensorboard.begin(accelerator, done.rows)
    texts = prompt_texts(run.variant, spec)
    prompts = network.static_prompts(texts) if run.variant.language else None
    take_snapshot(run, network, prompts, val, done.step, accelerator)

    learner.train()
    loader = accelerator.skip_first_batches(loader, done.step)
    hidden = not (progress and accelerator.is_main_process)
    title = f"{spec.name} · {run.variant.title} · training"
    for sample in tqdm(loader, title, total=steps, initial=done.step, unit="step", disable=hidden):
        set_seed(derive_seed(config["seed"], "step", done.step))  # of all processes: samples share the draws
        set_rates(optimizer, done.step, steps, settings["warmup"], "rising_rate" in objective.departures)
        volume = sample["image"].contiguous(memory_format=torch.channels_last_3d)
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


def _prepared(run: Run, cases: Sequence[Case]) -> Dataset:
    return prepared(run.spec, cases, run.config["spacing"], run.split_path.parent / "cache")


def validate(
    network: nn.Module,
    run: Run,
    texts: Sequence[Sequence[str]],
    cases: Dataset,
    accelerator: Accelerator,
) -> float:
    """Mean foreground Dice over validation cases and classes, on the working grid; processes share them."""
    predictor = make_predictor(network, run.variant, texts)
    spec = run.spec
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
