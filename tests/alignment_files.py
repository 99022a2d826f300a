"""Artificial snapshots and attention, for the tests of figures of embeddings and attention."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from bipvl.analysis.word_attention import AttendedWindow
from bipvl.data.layouts import Case
from bipvl.data.spec import load_spec
from bipvl.figures.case_selection import ShownCase
from bipvl.figures.word_attention import window_table


def write_snapshots(
    root: Path, dataset: str, variant: str = "bipvlseg", steps: tuple[int, ...] = (0, 10, 20, 30)
) -> Path:
    """A run folder with vectors that start at random and move to one direction per class."""
    folder = root / "quick" / dataset / variant / "seed0"
    (folder / "embeddings").mkdir(parents=True)
    config = {"dataset": dataset, "variant": variant, "profile": "quick", "seed": 0, "cohort": "synthetic"}
    (folder / "config.json").write_text(json.dumps(config))
    random, classes = torch.Generator().manual_seed(0), load_spec(dataset).num_classes
    visual = torch.randn(classes, 128, generator=random)
    text = torch.randn(classes, 6, 128, generator=random)
    goal = 20 * torch.eye(classes, 128)
    for step in steps:
        share = step / steps[-1] if steps[-1] else 0
        vectors = {"visual": visual + share * goal, "text": text + share * goal[:, None]}
        path = folder / "embeddings" / f"step-{step:08d}.safetensors"
        save_file({k: v.contiguous() for k, v in vectors.items()}, path, metadata={"cases": "2"})
    return folder


def shown_case(folder: Path, axes: str = "LPS") -> ShownCase:
    """A heart scan of 2 mm voxels in an axis order, with the left ventricle at the right front."""
    spec = load_spec("mmwhs_ct")
    codes = np.zeros((48, 48, 32), np.int16)
    codes[32:44, 36:44, 10:20] = spec.classes[0].codes[0]
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -30, 10, 5
    to = nib.orientations.axcodes2ornt(axes)
    for name, array in (("label", codes), ("image", 100.0 + 200 * (codes > 0))):
        nib.save(nib.Nifti1Image(array, affine).as_reoriented(to), folder / f"{axes}_{name}.nii.gz")
    case = Case("one", folder / f"{axes}_image.nii.gz", folder / f"{axes}_label.nii.gz")
    return ShownCase(spec=spec, case=case, origin={}, predictions={}, dice={})


def ventricle_window(stages: int = 2) -> AttendedWindow:
    """Attention to the ventricle's corner of ``shown_case`` at every stage, on 32³ voxels of 3 mm."""
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = np.array([-30, 10, 5]) + 0.5  # the same corner as the scan's
    mask = np.zeros((32, 32, 32), bool)
    mask[22:29, 24:29, 7:13] = True
    maps = {stage: np.full((32 >> stage + 1,) * 3, 0.1) for stage in range(1, stages + 1)}
    for stage in maps:
        side = len(maps[stage])
        maps[stage][side // 2 :, side // 2 :] = 1.0
        maps[stage] /= maps[stage].sum()
    return AttendedWindow(class_index=0, word="ventricle", mask=mask, affine=affine, maps=maps)


def attention_pictures(folder: Path, stages: int = 2, pictures: int = 1) -> pd.DataFrame:
    """A table as ``attention_table`` returns it."""
    origin = {"cohort": "synthetic", "profile": "quick", "seeds": "0", "cases": 4, "rule": "the median case"}
    origin |= {"variant": "bipvlseg", "spacing": "3 × 3 × 3"}
    parts = [window_table(shown_case(folder), ventricle_window(stages), origin) for _ in range(pictures)]
    return pd.concat(parts, ignore_index=True)
