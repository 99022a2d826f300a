"""Write tiny data sets in the benchmarks' layouts, for the data tests."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

from bipvl.data.spec import DatasetSpec

SHAPE = (9, 8, 7)


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def image_of(spec: DatasetSpec, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    """Random values inside every intensity window; channels last, as on disk."""
    channels = (len(spec.channels),) if len(spec.channels) > 1 else ()
    return np.random.default_rng(seed).uniform(10, 200, (*shape, *channels)).astype(np.float32)


def label_of(spec: DatasetSpec, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    """A label map with every code of the data set and background; a seed above 0 shuffles the voxels."""
    label = np.resize(np.array(spec.known_codes, np.int16), shape)
    return np.random.default_rng(seed).permutation(label.ravel()).reshape(shape) if seed else label


def dataset_json(spec: DatasetSpec, sections: dict[str, list[str]]) -> dict:
    """The content of dataset.json in the benchmark's form; the lists keep their order."""
    short = {"training": "Tr", "validation": "Va"}
    return {
        "labels": {"0": "background", **{str(code): names[-1] for code, names in spec.code_names.items()}},
        "modality": {str(i): name for i, name in enumerate(spec.channels)},
        **{
            section: [
                {key: f"./{key}s{short[section]}/{i}.nii.gz" for key in ("image", "label")} for i in ids
            ]
            for section, ids in sections.items()
        },
        "test": ["./imagesTs/unlabelled.nii.gz"],
    }


def write_dataset(spec: DatasetSpec, root: Path, sections: dict[str, list[str]]) -> Path:
    """Write a complete data set below root; returns its folder."""
    folder = root / spec.folder
    folder.mkdir(parents=True)
    if spec.layout == "paired_files":
        for seed, i in enumerate(sections["training"]):
            save(folder / f"{i}_image.nii.gz", image_of(spec, seed=seed))
            save(folder / f"{i}_label.nii.gz", label_of(spec, seed=seed))
        return folder
    content = dataset_json(spec, sections)
    (folder / "dataset.json").write_text(json.dumps(content))
    for seed, entry in enumerate([*content.get("training", []), *content.get("validation", [])]):
        save(folder / entry["image"], image_of(spec, seed=seed))
        save(folder / entry["label"], label_of(spec, seed=seed))
    return folder


def write_prompts(spec: DatasetSpec, path: Path) -> Path:
    """Write a prompt CSV with the spec's classes in order."""
    lines = ["Title,Shape,Location,Appearance/Density,Contour/Symmetry,Internal Texture"]
    lines += [f"{c.name.title()} in a {spec.modality} Image,s,l,a,c,t" for c in spec.classes]
    path.write_text("\n".join(lines))
    return path


def write_nnunet(
    folder: Path,
    *,
    channels: tuple[str, ...] = ("T1", "T2"),
    labels: dict[str, int | list[int]] | None = None,
    cases: tuple[str, ...] = ("P1", "P2", "P3", "P4"),
    shape: tuple[int, ...] = SHAPE,
) -> Path:
    """Write a folder in nnU-Net v2's form with one file per channel; label maps hold the codes 0, 1 and 2."""
    for seed, case in enumerate(cases):
        random = np.random.default_rng(seed)
        for i in range(len(channels)):
            save(folder / f"imagesTr/{case}_{i:04}.nii.gz", random.uniform(1, 90, shape).astype(np.float32))
        save(folder / f"labelsTr/{case}.nii.gz", random.integers(0, 3, shape).astype(np.int16))
    content = {
        "channel_names": {str(i): name for i, name in enumerate(channels)},
        "labels": {"background": 0, **(labels or {"femur": 1, "tibia": 2})},
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def write_openkbp_patient(
    folder: Path, ct: dict[tuple[int, int, int], float], organs: dict[str, list[tuple[int, int, int]]]
) -> Path:
    """A patient's CSV files as the OpenKBP challenge distributes them, from voxels by their three indices."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "voxel_dimensions.csv").write_text("4.0\n3.0\n2.0\n")
    for name, voxels in (organs | {"ct": ct}).items():
        rows = [f"{(i * 128 + j) * 128 + k},{ct[i, j, k] if name == 'ct' else ''}" for i, j, k in voxels]
        (folder / f"{name}.csv").write_text("\n".join([",data", *rows, ""]))
    return folder
