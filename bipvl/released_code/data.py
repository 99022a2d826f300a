"""Rows 9, 10, 14 and 15: labels, scores, splits and crops."""

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_dice,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from torch import Tensor
from torch.nn import functional as F

from bipvl.common.errors import BipvlError
from bipvl.data.crops import TrainingCrops
from bipvl.data.labels import encode
from bipvl.data.layouts import Case, declared_cases
from bipvl.data.prompts import default_prompts
from bipvl.data.spec import load_spec
from bipvl.data.splits import make_split, read_split, write_split
from bipvl.engine.metrics import class_masks, dice_scores, score_case
from bipvl.engine.scan_grid import labels_on_grid

from .tiny import error_of

RELEASED_ENHANCING = 2
"""The label that the release uses as the enhancing tumour."""
SPACING = (1.5, 1.5, 2.0)
"""Of the prepared CT, mm."""


def numeric_code_order() -> dict[str, Any]:
    """Row 9: which structure becomes which class, compared with the prompt row of that class."""
    rows = heart_codes()
    wrong = [f"{theirs} ← “{prompt}”" for prompt, _, theirs in rows if prompt != theirs]
    return {
        "wrong_released": len(wrong),
        "mismatches": "; ".join(wrong),
        "right": sum(prompt == ours for prompt, ours, _ in rows),
        "classes": len(rows),
    }


def heart_codes() -> list[tuple[str, str, str]]:
    """For each class: the structure in its prompt, in bipvl's labels, and in numeric order."""
    spec = load_spec("mmwhs_ct")
    names = {c.codes[0]: c.name for c in spec.classes}  # without the stray code 421
    codes = np.array(sorted(names))
    ours = encode(spec, codes.reshape(-1, 1, 1), "the list of codes").flatten()  # class index 1 … 7
    titles = [row["Title"].casefold() for row in default_prompts(spec).rows]
    prompts = [max((c.name for c in spec.classes if c.name in title), key=len) for title in titles]
    return [
        (prompt, names[int(codes[ours == index][0])], names[int(codes[index - 1])])
        for index, prompt in enumerate(prompts, start=1)
    ]


def wrong_enhancing_label() -> dict[str, Any]:
    """Row 10: the label used as the enhancing tumour (Dice of a perfect segmentation, voxels in common)."""
    spec = load_spec("msd_brain")
    radius = np.linalg.norm(np.indices((32, 32, 32)) - 15.5, axis=0)
    codes = np.select([radius < 5, radius < 8, radius < 13], [2, 3, 1])  # a core, its bright rim, edema
    row = [c.name for c in spec.classes].index("enhancing tumour")
    true = torch.from_numpy(codes == 3)
    ours = torch.from_numpy(encode(spec, codes, "the tumour")[row] > 0)
    theirs = torch.from_numpy(codes == RELEASED_ENHANCING)
    return {
        "label": RELEASED_ENHANCING,
        "label_name": label_name(RELEASED_ENHANCING),
        "right_name": label_name(3),
        "dice_released": float(dice_scores(theirs[None], true[None])),
        "dice_right": float(dice_scores(ours[None], true[None])),
        "common": int((theirs & true).sum()),
        "other_names_refused": refuses_other_names(),
    }


def label_name(code: int) -> str:
    """The name of a code in MSD's own list."""
    return load_spec("msd_brain").code_names[code][0]


def refuses_other_names() -> bool:
    """Whether a dataset.json that calls label 2 enhancing is refused."""
    spec = load_spec("msd_brain")
    labels = {"1": label_name(1), "2": label_name(3), "3": label_name(2)}
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root, spec.folder)
        folder.mkdir()
        (folder / "dataset.json").write_text(json.dumps({"labels": labels}), encoding="utf-8")
        return "calls label 2" in error_of(BipvlError, declared_cases, spec, root)


def misleading_scores() -> dict[str, Any]:
    """Row 14: distances in voxels, skipped missed classes, scores on another grid."""
    return {**distances(), **average_with_background(), **scores_by_grid(), "monai": monai.__version__}


def two_organs() -> tuple[Tensor, Tensor, Tensor]:
    """Labels 1 × 40 × 40 × 32: truth, a result with the kidney 3 slices off, one without the kidney."""
    truth = torch.zeros(1, 40, 40, 32, dtype=torch.uint8)
    truth[0, 4:16, 4:16, 4:16] = 1  # spleen
    result = truth.clone()
    truth[0, 24:34, 24:34, 6:16] = 2  # right kidney
    missed = result.clone()
    result[0, 24:34, 24:34, 9:19] = 2
    return truth, result, missed


def distances() -> dict[str, float]:
    """Surface distances of the kidney and the mean of both organs: in voxels as released, and in mm."""
    spec = load_spec("amos22")
    truth, result, missed = two_organs()

    def masks(labels: Tensor) -> Tensor:
        return class_masks(labels, spec)[None, :2].float()

    def released(labels: Tensor) -> Tensor:
        pair = masks(labels), masks(truth)
        return compute_hausdorff_distance(*pair, percentile=95, include_background=True)[0]

    def right(labels: Tensor) -> list[float]:
        return [s.value for s in score_case(labels, truth, spec, SPACING) if s.metric == "hd95_mm"]

    kidney = masks(result)[:, 1:], masks(truth)[:, 1:]
    nothing = masks(missed)[:, 1:], masks(truth)[:, 1:]
    tolerance = {"class_thresholds": [spec.nsd_tolerance]}
    options = {"include_background": True, "spacing": list(SPACING)}
    with warnings.catch_warnings(action="ignore"):  # MONAI warns about the missed class, intended here
        in_voxels, in_voxels_missed = released(result), released(missed)
        return {
            "hd95_voxels": float(in_voxels[1]),
            "hd95_mm": right(result)[1],
            "mean_released": float(in_voxels.nanmean()),
            "mean_missed_released": float(in_voxels_missed.nanmean()),
            "mean_right": float(np.mean(right(result))),
            "mean_missed_right": float(np.mean(right(missed))),
            "missed_hd95": float(in_voxels_missed[1]),
            "missed_nsd": float(compute_surface_dice(*nothing, **tolerance, **options)),
            "nsd": float(compute_surface_dice(*kidney, **tolerance, **options)),
            "asd_mm": float(compute_average_surface_distance(*kidney, **options)),
        }


def average_with_background() -> dict[str, float]:
    """Mean Dice of background, spleen and kidney, and of the two organs."""
    truth, result, _ = two_organs()
    pair = [F.one_hot(labels.long(), 3).movedim(-1, 1) for labels in (result, truth)]
    return {
        "dice_with_background": float(compute_dice(*pair, include_background=True).mean()),
        "dice_classes": float(compute_dice(*pair, include_background=False).mean()),
    }


def scores_by_grid() -> dict[str, float]:
    """Dice of a perfect result on a 2 mm working grid: there, and on the scan's 1 mm grid.

    The organ is 4 mm thick.
    """
    scan = torch.zeros(1, 32, 32, 32, dtype=torch.uint8)
    scan[0, 8:24, 8:24, 12:16] = 1
    coarse = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0]))
    working = scan[:, ::2, ::2, ::2]
    logits = 20 * F.one_hot(working[0].long(), 2).movedim(-1, 0).float()
    on_scan = labels_on_grid(logits.softmax(0), coarse, torch.eye(4), scan.shape[1:], overlapping=False)
    return {
        "dice_working_grid": float(dice_scores(logits.argmax(0, keepdim=True) > 0, working > 0)),
        "dice_own_grid": float(dice_scores(on_scan > 0, scan > 0)),
    }


def unrecorded_cases() -> dict[str, Any]:
    """Row 15: what a written split and crops by number guarantee."""
    return {**split_facts(), **crop_facts(), "benchmark": torch.backends.cudnn.benchmark}


def split_facts() -> dict[str, Any]:
    """Test cases in common for two listing orders of 20 cases: by the seed alone, by a written split."""
    spec, seed = load_spec("mmwhs_ct"), 42
    names = [f"ct_train_{1001 + i}" for i in range(20)]
    cases = [Case(name, Path(name), Path(name), position=i) for i, name in enumerate(names)]
    split = make_split(spec, cases, seed)
    by_seed = [
        {*np.random.RandomState(seed).permutation(listing)[: len(split.test)]}
        for listing in (names, names[::-1])  # two file systems may list one folder in different orders
    ]
    redrawn = make_split(spec, cases[::-1], seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "split.json")
        write_split(split, path)
        read = read_split(path, cases[::-1])
        write_split(type(split)(spec.name, seed, split.train, split.train[:1], split.test), path)
        refused = bool(error_of(BipvlError, read_split, path, cases))
    return {
        "cases": len(cases),
        "test_cases": len(split.test),
        "common_by_seed": len(by_seed[0] & by_seed[1]),
        "common_written": len({*split.test} & {*read.test} & {*redrawn.test}),
        "double_refused": refused,
    }


def crop_facts() -> dict[str, bool]:
    """Whether crops are equal in any order of access and differ between epochs."""
    random = torch.Generator().manual_seed(0)
    draws = [torch.rand(2, 1, 24, 24, 24, generator=random) for _ in range(3)]
    cases = [{"image": image, "label": (label > 0.7).byte()} for image, label in draws]
    options = {"cases": cases, "spec": load_spec("mmwhs_ct"), "crop": (16, 16, 16), "seed": 0}
    forward = [crop["image"] for crop in (TrainingCrops(length=6, **options)[i] for i in range(6))]
    other = TrainingCrops(length=6, **options)
    backward = [other[i]["image"] for i in reversed(range(6))][::-1]
    epochs = [torch.stack(forward[:3]), torch.stack(forward[3:])]
    return {
        "crops_equal": all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True)),
        "epochs_differ": not any(torch.equal(a, b) for a in epochs[0] for b in epochs[1]),
    }
