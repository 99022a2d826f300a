"""The reading test: does a network segment the ball that its prompt names? (beyond the paper)

Each training step draws one volume with four balls and two of the four prompts. A network that ignores its
prompt gives the same mask for both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from monai.networks import eval_mode
from torch import Tensor, nn
from tqdm.auto import tqdm

from bipvl.common.files import write_csv
from bipvl.data.crops import derive_seed
from bipvl.data.prompt_edits import Texts
from bipvl.data.synthetic.balls import KINDS, WORDINGS, Kind, prompt, volume_of
from bipvl.engine.metrics import dice_scores
from bipvl.engine.optimizer import make_optimizer, set_rates
from bipvl.engine.variants import get_variant
from bipvl.model.bipvlseg import BiPVLSeg
from bipvl.model.losses import segmentation_loss
from bipvl.model.released import make_schedule, network_class

NETWORK = {
    "in_channels": 1,
    "num_classes": 1,
    "feature_size": 12,
    "depths": (2, 2),
    "num_heads": (3, 6),
    "window_size": 4,
}
LANGUAGE = {
    "text": "minilm",
    "fusion_layers": 1,
    "fusion_heads": 1,
    "fusion_width": 256,
    "late_text_layers": 1,
    "frozen_stages": 0,
}
"""The same small network at every profile."""
TRAINING = {"lr": 1e-2, "language_lr": 4e-3, "text_lr": 1e-4, "weight_decay": 1e-5}
WARMUP, MAX_GRAD_NORM = 0.1, 1.0
PROMPTS_PER_STEP = 2
CHECKS = 5
"""How often a training is tested on CHECK_VOLUMES test volumes."""
CHECK_VOLUMES, TEST_VOLUMES = 4, 8
BEFORE, AFTER = "before training", "after training"
TEST_SEED = 2**31
"""Of the test volumes, the same for all trainings, whose seeds are smaller."""
HELD_OUT = KINDS[-1]
"""The combination of size and intensity that is never a target in a training on three kinds."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one training of the reading test gives.

    Attributes:
        history: columns step, loss, kind, dice, ceiling: during the training, on some test volumes; the
            ceiling is the best Dice of a network that ignores its prompt, on all of them.
        scores: columns wording, kind, present, dice, empty: mean Dice, and the share of empty masks.
        changes: columns place, state, change: how much another prompt changes what is computed there.
    """

    history: pd.DataFrame
    scores: pd.DataFrame
    changes: pd.DataFrame


def run_reading(
    folder: str | Path, variant: str, seed: int, steps: int, *, held_out: bool = False, progress: bool = True
) -> None:
    """Train and test a variant and write ``history.csv``, ``changes.csv`` and, last, ``scores.csv``.

    If ``scores.csv`` is there, nothing is done.

    Args:
        folder: of the run.
        held_out: train without HELD_OUT as a target; it is tested all the same.
    """
    folder = Path(folder)
    if (folder / "scores.csv").is_file():
        return
    kinds = [kind for kind in KINDS if not (held_out and kind == HELD_OUT)]
    reading = read_balls(variant, seed, steps, kinds=kinds, progress=progress)
    for name in ("history", "changes", "scores"):
        write_csv(
            folder / f"{name}.csv", getattr(reading, name).assign(variant=variant, seed=seed, steps=steps)
        )


def read_balls(
    variant: str, seed: int, steps: int, *, kinds: Sequence[Kind] = KINDS, progress: bool = True
) -> Reading:
    """Train a variant that reads prompts to segment the ball that the prompt names, and test it.

    The loss is the segmentation's alone: with one class, the alignment has no negatives.

    Args:
        kinds: the targets of the training; all four kinds are in every volume.
    """
    accelerator, chosen = Accelerator(), get_variant(variant)
    set_seed(derive_seed(seed, "weights"))
    options = NETWORK | LANGUAGE | dict(chosen.options)
    network = network_class(chosen.deviations).create(**options).to(accelerator.device)
    before = prompt_changes(network).assign(state=BEFORE)
    optimizer = make_optimizer(nn.ModuleDict({"network": network}), TRAINING)
    schedule = make_schedule(chosen.deviations, steps, WARMUP)
    tokens = {kind: network.training_prompts(prompt(kind)) for kind in kinds}
    rows: list[dict[str, Any]] = []
    title = f"reading · {chosen.title} · training"
    for step in tqdm(range(steps), title, unit="step", disable=not progress):
        set_seed(derive_seed(seed, "step", step))
        set_rates(optimizer, step, schedule)
        image, masks = (x.to(accelerator.device) for x in volume_of(seed, step))
        drawn = torch.randperm(len(kinds))[:PROMPTS_PER_STEP].tolist()
        losses = [_loss(network, image, masks, tokens[kinds[i]], KINDS.index(kinds[i])) for i in drawn]
        loss = torch.stack(losses).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % max(1, steps // CHECKS) == 0:
            scores = score_reading(network, CHECK_VOLUMES)[["kind", "dice"]].assign(
                step=step + 1, loss=loss.item()
            )
            rows += scores.to_dict("records")
    return Reading(
        history=pd.DataFrame(rows)[["step", "loss", "kind", "dice"]].assign(ceiling=text_blind_ceiling()),
        scores=_all_scores(network),
        changes=pd.concat([before, prompt_changes(network).assign(state=AFTER)], ignore_index=True),
    )


def _loss(network: BiPVLSeg, image: Tensor, masks: Tensor, tokens: Any, target: int) -> Tensor:
    logits = network(image[None], tokens, logits_only=True)
    return segmentation_loss(logits, masks[None, [target]].long(), overlapping=False)


def _all_scores(network: BiPVLSeg) -> pd.DataFrame:
    tested = [score_reading(network, TEST_VOLUMES, wording=wording) for wording in WORDINGS]
    return pd.concat([*tested, score_reading(network, TEST_VOLUMES, absent=True)], ignore_index=True)


def score_reading(
    network: BiPVLSeg, volumes: int, *, wording: str = "as trained", absent: bool = False
) -> pd.DataFrame:
    """Mean Dice of each kind over test volumes, and the share of volumes with an empty mask.

    Args:
        absent: leave the named ball out of the volume, so that an empty mask is right.
    """
    with eval_mode(network):
        rows = [_test_kind(network, kind, volumes, wording, absent) for kind in KINDS]
    return pd.DataFrame(rows)


def _test_kind(network: BiPVLSeg, kind: Kind, volumes: int, wording: str, absent: bool) -> dict[str, Any]:
    images, masks = _test_volumes(volumes, kind if absent else None)
    logits = network.predict(images.to(next(network.parameters()).device), prompt(kind, wording))
    found = logits.argmax(1).bool().cpu()  # V × H × W × D
    scores = dice_scores(found, masks[:, KINDS.index(kind)])
    return {
        "wording": wording,
        "kind": kind.name,
        "present": not absent,
        "dice": float("nan") if absent else scores.mean().item(),
        "empty": (~found.flatten(1).any(1)).float().mean().item(),
    }


@cache
def _test_volumes(count: int, absent: Kind | None = None) -> tuple[Tensor, Tensor]:
    """Test images V × 1 × H × W × D and masks of KINDS, V × 4 × H × W × D."""
    images, masks = zip(*(volume_of(TEST_SEED, index, absent) for index in range(count)), strict=True)
    return torch.stack(images), torch.stack(masks)


def text_blind_ceiling(volumes: int = TEST_VOLUMES) -> float:
    """The best mean Dice of a mask that is the same for all four prompts: one or several of the balls."""
    masks = _test_volumes(volumes)[1]
    unions = [
        masks[:, list(chosen)].any(1, keepdim=True).expand_as(masks)
        for count in range(1, len(KINDS) + 1)
        for chosen in combinations(range(len(KINDS)), count)
    ]
    return max(dice_scores(union.flatten(0, 1), masks.flatten(0, 1)).mean().item() for union in unions)


def prompt_changes(network: BiPVLSeg, volumes: int = CHECK_VOLUMES) -> pd.DataFrame:
    """How much another prompt changes the network's values, place by place: columns place, change.

    The change is ‖a − b‖ / ‖a‖, its mean over test volumes and the pairs of prompts.
    """
    images = _test_volumes(volumes)[0].to(next(network.parameters()).device)
    with eval_mode(network):
        seen = [_values(network, images, prompt(kind)) for kind in KINDS]
    changes = {place: [_change(a[place], b[place]) for a, b in combinations(seen, 2)] for place in seen[0]}
    return pd.DataFrame(
        {"place": [*changes], "change": [torch.stack(c).mean().item() for c in changes.values()]}
    )


def _change(a: Tensor, b: Tensor) -> Tensor:
    """‖a − b‖ / ‖a‖ of each volume."""
    return (a - b).flatten(1).norm(dim=1) / a.flatten(1).norm(dim=1)


def _values(network: BiPVLSeg, images: Tensor, prompts: Texts) -> Mapping[str, Tensor]:
    """The values at every place that the text can reach, in the order of computation."""
    decoder, seen = network.decoder, {}
    places = {f"fused features, stage {n}": network.fusions[n - 1] for n in sorted(network.fused_stages)}
    places["bottleneck"] = decoder.bottleneck
    count = len(decoder.ups)
    places |= {f"decoder at 1/{2 ** (count - n)}": up for n, up in enumerate(decoder.ups, start=1)}

    def keep(place: str):
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            seen[place] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [module.register_forward_hook(keep(place)) for place, module in places.items()]
    try:
        seen["logits"] = network.predict(images, prompts)
    finally:
        for handle in handles:
            handle.remove()
    return {place: seen[place] for place in [*places, "logits"]}
