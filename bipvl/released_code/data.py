"""Rows 9, 10, 14 and 15: labels, scores, splits and crops."""

import json
import tempfile
import warnings
from pathlib import Path

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
from bipvl.engine.predict import to_grid

from .finding import Proof, yes_no

ENHANCING_IN_RELEASE = 2
SPACING = (1.5, 1.5, 2.0)
"""Of the prepared CT, mm."""


def numeric_order_of_codes() -> Proof:
    """Row 9: which structure becomes which class, against the prompt row of that class."""
    rows = heart_codes()
    wrong = [(prompt, theirs) for prompt, _, theirs in rows if prompt != theirs]
    right = [prompt == ours for prompt, ours, _ in rows]
    return Proof(
        row=9,
        what="MM-WHS label codes become classes in numeric order; the prompt rows have another order",
        released=f"{len(wrong)} of {len(rows)} classes meet another structure's text: "
        + "; ".join(f"{theirs} ← “{prompt}”" for prompt, theirs in wrong),
        right=f"{sum(right)} of {len(rows)} classes meet their own: codes are mapped in the order that the "
        "data set's YAML shares with the prompt rows, and a title without its class's name is refused",
        difference="the alignment teaches a text to mean another part of the heart",
        quoted="four of seven classes",
        shown_on="bipvl's MM-WHS spec, prompts and label reader; exact",
        measured={"wrong_released": len(wrong), "right": sum(right), "classes": len(rows)},
    )


def heart_codes() -> list[tuple[str, str, str]]:
    """For each class: whose prompt it has, what bipvl puts there, and what numeric order does."""
    spec = load_spec("mmwhs_ct")
    names = {c.codes[0]: c.name for c in spec.classes}  # without the stray 421
    codes = np.array(sorted(names))
    ours = encode(spec, codes.reshape(-1, 1, 1), "the list of codes").flatten()  # class index 1 … 7
    titles = [row["Title"].casefold() for row in default_prompts(spec).rows]
    prompts = [max((c.name for c in spec.classes if c.name in title), key=len) for title in titles]
    return [
        (prompt, names[int(codes[ours == index][0])], names[int(codes[index - 1])])
        for index, prompt in enumerate(prompts, start=1)
    ]


def wrong_enhancing_label() -> Proof:
    """Row 10: the label that is taken for the enhancing tumour."""
    right, released, common = enhancing_dice()
    return Proof(
        row=10,
        what=f"brain: label {ENHANCING_IN_RELEASE} is taken for the enhancing tumour",
        released=f"its name in the data set is “{label_name(ENHANCING_IN_RELEASE)}”; a perfect segmentation "
        f"of “ET” has Dice {released:.2f} with the enhancing tumour, {common} voxels in common",
        right=f"“{label_name(3)}” is label 3: Dice {right:.2f}; a dataset.json that names the labels "
        f"otherwise is refused: {yes_no(refuses_other_names())}",
        difference="what is reported as ET is the non-enhancing part",
        shown_on="a tumour of nested balls in the data set's codes; exact",
        measured={
            "dice_released": released,
            "dice_right": right,
            "common": common,
            "other_names_refused": refuses_other_names(),
        },
    )


def label_name(code: int) -> str:
    """A code's name in MSD's own list."""
    return load_spec("msd_brain").code_names[code][0]


def enhancing_dice() -> tuple[float, float, int]:
    """Dice of ET as bipvl and as the release takes it with label 3; voxels that the latter has in common."""
    far = np.linalg.norm(np.indices((32, 32, 32)) - 15.5, axis=0)
    codes = np.select([far < 5, far < 8, far < 13], [2, 3, 1])  # a dark core, its bright rim, edema
    spec = load_spec("msd_brain")
    row = [c.name for c in spec.classes].index("enhancing tumour")
    true = torch.from_numpy(codes == 3)
    ours = torch.from_numpy(encode(spec, codes, "the tumour")[row] > 0)
    theirs = torch.from_numpy(codes == ENHANCING_IN_RELEASE)
    right, released = (float(dice_scores(mask[None], true[None])) for mask in (ours, theirs))
    return right, released, int((theirs & true).sum())


def refuses_other_names() -> bool:
    """Whether a dataset.json that calls label 2 enhancing is told to be wrong."""
    spec = load_spec("msd_brain")
    labels = {"1": label_name(1), "2": label_name(3), "3": label_name(2)}
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root, spec.folder)
        folder.mkdir()
        (folder / "dataset.json").write_text(json.dumps({"labels": labels}), encoding="utf-8")
        try:
            declared_cases(spec, root)
        except BipvlError as error:
            return "calls label 2" in str(error)
    return False


def scores_that_mislead() -> Proof:
    """Row 14: distances in voxels, missed classes that vanish, scores on another grid."""
    found = distances() | average_with_background() | scores_by_grid()
    return Proof(
        row=14,
        what="HD95 and surface Dice get no spacing; a missed class drops out; scores on the resampled "
        "grid; “ASD” is surface Dice; validation Dice counts the background",
        released=f"a kidney 3 slices off: HD95 {found['hd95_voxels']:.1f}; the mean of spleen and kidney is "
        f"{found['mean_released']:.1f}, and {found['mean_missed_released']:.1f} once the kidney is missed "
        f"altogether; “ASD” {found['nsd']:.2f}; Dice {found['dice_with_background']:.3f} with background; a "
        f"flawless result on the working grid: Dice {found['dice_working_grid']:.2f}",
        right=f"HD95 {found['hd95_mm']:.1f} mm; mean {found['mean_right']:.1f} mm, "
        f"{found['mean_missed_right']:.1f} mm once it is missed (the volume's diagonal, flagged); the "
        f"average surface distance is {found['asd_mm']:.2f} mm; Dice {found['dice_classes']:.3f} of the "
        f"classes; on the scan's own grid {found['dice_own_grid']:.2f}",
        difference="numbers without unit, and a missed organ improves the mean",
        quoted="3.0 where 6.0 mm is true; a missed organ improves the mean",
        shown_on=f"made-up masks, MONAI's metrics and `engine.metrics`; exact. (MONAI {monai.__version__} "
        f"gives a missed class the HD95 {found['missed_hd95']} and the surface Dice {found['missed_nsd']}: "
        "only the first drops out.)",
        measured=found,
    )


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
    """HD95 of the kidney and of both organs' mean, in voxels as released and in mm; a missed kidney."""
    spec = load_spec("amos22")
    truth, result, missed = two_organs()

    def masks(labels: Tensor) -> Tensor:
        return class_masks(labels, spec)[None, :2].float()

    def released(labels: Tensor) -> Tensor:
        return compute_hausdorff_distance(
            masks(labels), masks(truth), percentile=95, include_background=True
        )[0]

    def right(labels: Tensor) -> list[float]:
        return [s.value for s in score_case(labels, truth, spec, SPACING) if s.metric == "hd95_mm"]

    kidney = masks(result)[:, 1:], masks(truth)[:, 1:]
    nothing = masks(missed)[:, 1:], masks(truth)[:, 1:]
    tolerance = {"class_thresholds": [spec.nsd_tolerance]}
    options = {"include_background": True, "spacing": list(SPACING)}
    with warnings.catch_warnings(action="ignore"):  # MONAI warns of the missed class, the point here
        return {
            "hd95_voxels": float(released(result)[1]),
            "hd95_mm": right(result)[1],
            "mean_released": float(released(result).nanmean()),
            "mean_missed_released": float(released(missed).nanmean()),
            "mean_right": float(np.mean(right(result))),
            "mean_missed_right": float(np.mean(right(missed))),
            "missed_hd95": float(released(missed)[1]),
            "missed_nsd": float(compute_surface_dice(*nothing, **tolerance, **options)),
            "nsd": float(compute_surface_dice(*kidney, **tolerance, **options)),
            "asd_mm": float(compute_average_surface_distance(*kidney, **options)),
        }


def average_with_background() -> dict[str, float]:
    """Mean Dice of background, spleen and kidney, and of the two organs."""
    truth, result, _ = two_organs()
    pair = [F.one_hot(labels.long(), 3).movedim(-1, 1) for labels in (result, truth)]
    with_background, classes = (
        float(compute_dice(*pair, include_background=background).mean()) for background in (True, False)
    )
    return {"dice_with_background": with_background, "dice_classes": classes}


def scores_by_grid() -> dict[str, float]:
    """A flawless result on a 2 mm working grid: its Dice there, and on the scan's grid of 1 mm.

    The organ is 4 mm thick.
    """
    scan = torch.zeros(1, 32, 32, 32, dtype=torch.uint8)
    scan[0, 8:24, 8:24, 12:16] = 1
    coarse = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0]))
    working = scan[:, ::2, ::2, ::2]
    logits = 20 * F.one_hot(working[0].long(), 2).movedim(-1, 0).float()
    own = to_grid(logits, coarse, torch.eye(4), scan.shape[1:], overlapping=False)
    here = working > 0
    return {
        "dice_working_grid": float(dice_scores(logits.argmax(0, keepdim=True) > 0, here)),
        "dice_own_grid": float(dice_scores(own > 0, scan > 0)),
    }


def nobody_knows_the_cases() -> Proof:
    """Row 15: what a written split and crops by number guarantee."""
    found = split_facts() | crop_facts()
    return Proof(
        row=15,
        what="no case list is written; `cudnn.benchmark` beside the seed; brain: five cases only, "
        "augmentations drawn once, validation with training transforms",
        released=f"(illustrated) the same seed on the same {found['cases']} cases listed in another order: "
        f"{found['common_by_seed']} of {found['test_cases']} test cases in common; crops drawn once: the "
        "second epoch repeats the first",
        right=f"split.json names every case: {found['common_written']} of {found['test_cases']} in common "
        "whatever the order of the listing, and one case in two parts is refused: "
        f"{yes_no(found['double_refused'])}; crop i is a function of (seed, i): asked for again, alone or "
        f"out of order, it is equal: {yes_no(found['crops_equal'])}; the next epoch's differ: "
        f"{yes_no(found['epochs_differ'])}; `cudnn.benchmark` is "
        f"{'on' if torch.backends.cudnn.benchmark else 'off'}",
        difference="nobody can know which cases a number of the release stands on",
        shown_on="bipvl's splits and crops; the release's habits were read, not run",
        measured=found | {"benchmark": torch.backends.cudnn.benchmark},
    )


def split_facts(seed: int = 42) -> dict[str, float]:
    """Test cases in common when 20 cases are listed in two orders: by seed alone, by a written split."""
    spec = load_spec("mmwhs_ct")
    names = [f"ct_train_{1001 + i}" for i in range(20)]
    cases = [Case(name, Path(name), Path(name), position=i) for i, name in enumerate(names)]
    split = make_split(spec, cases, seed)
    by_seed = []
    for listing in (names, names[::-1]):  # as two file systems may list one folder
        drawn = np.random.RandomState(seed).permutation(listing)
        by_seed.append({*drawn[: len(split.test)]})
    redrawn = make_split(spec, cases[::-1], seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "split.json")
        write_split(split, path)
        again = read_split(path, cases[::-1])
        write_split(type(split)(spec.name, seed, split.train, split.train[:1], split.test), path)
        try:
            read_split(path, cases)
            refused = False
        except BipvlError:
            refused = True
    return {
        "cases": len(cases),
        "test_cases": len(split.test),
        "common_by_seed": len(by_seed[0] & by_seed[1]),
        "common_written": len({*split.test} & {*again.test} & {*redrawn.test}),
        "double_refused": refused,
    }


def crop_facts() -> dict[str, bool]:
    """Whether crops are equal in whatever order they are asked for, and differ from epoch to epoch."""
    random = torch.Generator().manual_seed(0)
    cases = [
        {
            "image": torch.rand(1, 24, 24, 24, generator=random),
            "label": (torch.rand(1, 24, 24, 24, generator=random) > 0.7).byte(),
        }
        for _ in range(3)
    ]
    options = {"cases": cases, "spec": load_spec("mmwhs_ct"), "crop": (16, 16, 16), "seed": 0}
    forward = [crop["image"] for crop in (TrainingCrops(length=6, **options)[i] for i in range(6))]
    other = TrainingCrops(length=6, **options)
    backward = [other[i]["image"] for i in reversed(range(6))][::-1]
    epochs = [torch.stack(forward[:3]), torch.stack(forward[3:])]
    return {
        "crops_equal": all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True)),
        "epochs_differ": not any(torch.equal(a, b) for a in epochs[0] for b in epochs[1]),
    }
