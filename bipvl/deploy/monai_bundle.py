"""Export a trained run as a MONAI bundle, which ``python -m monai.bundle run`` applies to scans.

https://docs.monai.io/en/stable/mb_specification.html
"""

from collections.abc import Hashable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Transform
from torch import Tensor, nn

from bipvl.common.errors import BipvlError
from bipvl.common.files import atomic_path, write_json, write_text
from bipvl.data.transforms import prepare_transform
from bipvl.deploy.export import CARD_FILE, check_exportable, write_parts
from bipvl.deploy.exported_run import open_export
from bipvl.deploy.inputs import NIFTI
from bipvl.deploy.model_card import link
from bipvl.engine.build import load_network
from bipvl.engine.predict import Predictor, make_predictor
from bipvl.engine.run import Run
from bipvl.engine.scan_grid import label_scan

RUNNERS = {"fire": "0.7.1", "pytorch-ignite": "0.5.5"}
"""Packages that MONAI's command line and evaluator import, with the oldest version tested."""


def write_bundle(run: Run, folder: str | Path) -> None:
    """Write a run as a MONAI bundle: ``configs/``, ``models/`` (an export) and ``docs/``.

    Raises:
        BipvlError: the run is not trained or not evaluated, or the folder exists.
    """
    check_exportable(run, folder)
    with atomic_path(folder) as temporary:
        write_parts(run, temporary / "models")
        card = (temporary / "models" / CARD_FILE).read_text(encoding="utf-8")
        write_text(temporary / "docs" / CARD_FILE, card + USAGE)
        write_json(temporary / "configs" / "metadata.json", metadata(run))
        write_json(temporary / "configs" / "inference.json", inference(run))


USAGE = f"""
## As a MONAI bundle

```bash
pip install 'bipvl[run]' {" ".join(f"'{name}>={least}'" for name, least in RUNNERS.items())}
python -m monai.bundle run --config_file BUNDLE/configs/inference.json --bundle_root BUNDLE \\
    --dataset_dir FOLDER_OF_SCANS --output_dir OUTPUT
```
For each NIfTI file in the folder (with all channels of its scan), this writes `OUTPUT/NAME_seg.nii.gz` on the
scan's own grid, in the data set's codes.
"""


def inference(run: Run) -> dict[str, Any]:
    """``configs/inference.json``: the same steps as ``bipvl.segment``, as a MONAI workflow."""
    of_models = {"folder": "$@bundle_root + '/models'"}
    save = {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "output_postfix": "seg"}
    save |= {"output_ext": ".nii.gz", "output_dtype": "$numpy.int16"}
    save |= {"resample": False, "separate_folder": False}
    return {
        "imports": ["$import accelerate", "$import numpy"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/scans'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$accelerate.Accelerator().device",
        "network_def": {"_target_": "bipvl.deploy.monai_bundle.PromptedNetwork", **of_models},
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "bipvl.deploy.monai_bundle.preparation", **of_models},
        "dataset": {
            "_target_": "Dataset",
            "data": {"_target_": "bipvl.deploy.monai_bundle.scans", "folder": "@dataset_dir"},
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(run.config["crop"]),
            "sw_batch_size": run.config["training"]["batch_size"],
            "overlap": run.config["overlap"]["test"],
            "mode": "gaussian",
            "sw_device": "@device",
            "device": "cpu",
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": "bipvl.deploy.monai_bundle.ToScand", **of_models}, save],
        },
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "run": ["$@evaluator.run()"],
    }


def metadata(run: Run) -> dict[str, Any]:
    """``configs/metadata.json``: a description of the bundle and of its network's input and output."""
    spec, cohort = run.spec, run.config["cohort"]
    background, classes = [] if spec.overlapping else ["background"], [c.name for c in spec.classes]

    def tensor(channels: Sequence[str], **kind: Any) -> dict[str, Any]:
        shape = {"type": "image", "spatial_shape": list(run.config["crop"]), "dtype": "float32"}
        named = {"num_channels": len(channels), "channel_def": dict(enumerate(channels))}
        return shape | named | {"is_patch_data": True} | kind

    return {
        # What ``python -m monai.bundle verify_metadata`` checks this file against.
        "schema": "https://project-monai.github.io/schema/meta_schema_20240725.json",
        "version": version("bipvl"),
        "changelog": {version("bipvl"): "exported from a run of bipvl"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").split("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {
            **{name: version(name) for name in ("bipvl", "transformers", "accelerate", "nibabel")},
            **RUNNERS,
        },
        "name": f"{run.variant.title}: {spec.title}",
        "task": f"Segmentation of {', '.join(classes)} in {spec.modality} scans",
        "description": f"{run.variant.title}, trained on the {cohort} cohort of {spec.title}, profile "
        f"{run.config['profile']}, seed {run.config['seed']}; see docs/README.md.",
        "authors": "The bipvl authors",
        "copyright": "Copyright (c) The bipvl authors",
        "data_source": f"{spec.title}, {cohort} cohort",
        "data_type": "nibabel",
        "intended_use": "Research only; not for any clinical use",
        "references": [link("Paper"), link("Repository")],
        "network_data_format": {
            "inputs": {
                "image": tensor(
                    spec.channels,
                    format="hounsfield" if spec.modality == "CT" else "magnitude",
                    modality=spec.modality,
                    value_range=[0, 1] if "window" in spec.intensity else [],
                )
            },
            "outputs": {"pred": tensor([*background, *classes], format="segmentation", value_range=[])},
        },
    }


class PromptedNetwork(nn.Module):
    """An exported network together with its texts, so that it only takes the image."""

    def __init__(self, *, folder: str | Path) -> None:
        super().__init__()
        self.run = open_export(folder)
        self.network = load_network(self.run.variant, self.run.model_folder)
        self.predictor: Predictor | None = None

    @torch.no_grad()
    def forward(self, volume: Tensor) -> Tensor:
        """B × M × H × W × D → logits B × C × H × W × D."""
        if self.predictor is None:  # not earlier: the weights must be on their device
            self.predictor = make_predictor(self.network, self.run.variant, self.run.texts)
        return self.predictor(volume)


class ToScand(Transform):
    """Logits "pred" C × h × w × d → label codes 1 × H × W × D on the grid of the scan of "image"."""

    def __init__(self, *, folder: str | Path) -> None:
        self.spec = open_export(folder).spec

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        image = data["image"]
        codes = torch.from_numpy(label_scan(self.spec, data["pred"], image).codes)[None]
        affine = torch.as_tensor(image.meta["original_affine"])
        source = {"filename_or_obj": image.meta["filename_or_obj"]}
        return {**data, "pred": MetaTensor(codes, affine=affine, meta=source)}


def preparation(*, folder: str | Path) -> Compose:
    """The preparation that an exported run was trained with."""
    run = open_export(folder)
    return prepare_transform(run.spec, run.config["spacing"])


def scans(*, folder: str | Path) -> list[dict[str, str]]:
    """The NIfTI files in a folder, as MONAI's Dataset takes them; if there are none, a BipvlError."""
    found = sorted(path for path in Path(folder).glob("*.nii*") if path.name.endswith(NIFTI))
    if not found:
        fix = "set --dataset_dir to their folder"
        raise BipvlError("no scan in this folder (.nii.gz or .nii)", fix, folder)
    return [{"image": str(path)} for path in found]
