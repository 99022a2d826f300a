"""MONAI transforms from files to the tensors for training and testing."""

import math
from collections.abc import Hashable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai import transforms as mt
from monai.data import MetaTensor, NibabelReader
from monai.transforms.io.array import switch_endianness
from monai.utils import convert_to_dst_type

from bipvl.common.errors import BipvlError
from bipvl.data.labels import encode
from bipvl.data.layouts import Case
from bipvl.data.scans import Grid, check_exists, grid_issue, image_issue, unreadable
from bipvl.data.spec import DatasetSpec

KEYS = ("image", "label")
_RAS = (("L", "R"), ("P", "A"), ("I", "S"))


class Pipeline(mt.Compose):
    """MONAI's Compose, but a BipvlError is passed on as it is, not wrapped in a RuntimeError."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().__call__(*args, **kwargs)
        except RuntimeError as error:
            cause: BaseException | None = error
            while cause is not None:
                if isinstance(cause, BipvlError):
                    raise cause from None
                cause = cause.__cause__
            raise


class LoadCased(mt.Transform):
    """Load the paths under "image" and, if present, "label" as MetaTensors on the scan's own grid.

    A list of paths under "image" means one file per channel. Image M × H × W × D, float32; label as from
    `labels.encode`. Other keys stay as they are.

    Raises:
        BipvlError: a file is not readable, has the wrong channels, voxels that are not finite or undeclared
            codes, or the grids differ.
    """

    def __init__(self, *, spec: DatasetSpec) -> None:
        self.spec = spec

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        loaded = _load(data)
        image, path = loaded["image"], paths_of(data["image"])[0]
        _raise(image_issue(self.spec, image.shape, image.affine.numpy()), path)
        if not torch.isfinite(image).all():
            raise BipvlError("holds voxels that are not finite", "replace them by the background", path)
        if "label" in loaded:
            label = loaded["label"]
            codes = label.numpy()
            encoded = encode(self.spec, codes[0] if len(codes) == 1 else codes, data["label"])
            # Exactly the image's affine, so that both are resampled to the same shape.
            meta = {**label.meta, "affine": image.affine}
            loaded["label"] = MetaTensor(torch.from_numpy(encoded), meta=meta)
        return loaded


def prepare_transform(spec: DatasetSpec, spacing: Sequence[float] | None = None) -> mt.Compose:
    """The deterministic transforms: from {"image": path, "label": path (optional), …} to the working grid.

    RAS orientation (an oblique scan stays oblique), spacing (mm; None: the spec's), intensity, and a crop to
    the box of non-zero voxels. Image M × H × W × D, float32; label as from `labels.encode`, uint8; both
    MetaTensors whose affine leads back to the scan. Paper, section on implementation details.
    """
    optional = {"allow_missing_keys": True}
    return Pipeline(
        [
            LoadCased(spec=spec),
            mt.Orientationd(KEYS, axcodes="RAS", labels=_RAS, **optional),
            mt.Spacingd(KEYS, pixdim=spacing or spec.spacing, mode=("bilinear", "nearest"), **optional),
            _intensity(spec),
            mt.CropForegroundd(
                KEYS, "image", select_fn=_content, start_coord_key=None, end_coord_key=None, **optional
            ),
            mt.CastToTyped(KEYS, dtype=(torch.float32, torch.uint8), **optional),
        ]
    )


def random_transform(spec: DatasetSpec, crop: Sequence[int]) -> mt.Compose:
    """The random transforms: from a prepared case to one augmented crop of `crop` voxels (x, y, z).

    The crop's centre is foreground or background with equal probability. `set_random_state(seed)` fixes the
    result. The output holds plain tensors.
    """
    return Pipeline(
        [
            mt.SpatialPadd(KEYS, crop),
            # The cropper takes channel 0 of several as background; overlapping classes have none.
            mt.Lambdad("label", _any_channel, overwrite="foreground", track_meta=False),
            mt.RandCropByPosNegLabeld(KEYS, "foreground", crop, pos=1, neg=1, num_samples=1),
            itemgetter(0),
            mt.DeleteItemsd("foreground"),
            *_augmentations(spec.augmentation),
            mt.EnsureTyped(KEYS, dtype=(torch.float32, torch.uint8), track_meta=False),
        ],
        map_items=False,  # itemgetter gets the crop's list of one as a whole
    )


def load_native(case: Case) -> dict[str, Any]:
    """A case on the scan's own grid, for evaluation: "id", "image" M × H × W × D, "label" 1 × H × W × D.

    Float32 MetaTensors; the label holds the file's codes, which `labels.encode` checks.
    """
    return _load({"id": case.id, **case.paths})


def _load(data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
    loaded = {**data, **{key: _read(data[key]) for key in KEYS if key in data}}
    if "label" in loaded:
        _raise(grid_issue(_grid(loaded["image"]), _grid(loaded["label"])), data["label"])
    return loaded


def paths_of(paths: str | Path | Sequence[str | Path]) -> Sequence[str | Path]:
    """A scan's file, or its files with one channel each, as a sequence."""
    return [paths] if isinstance(paths, (str, Path)) else paths


def _read(paths: str | Path | Sequence[str | Path]) -> MetaTensor:
    """One file, or one file per channel on a common grid, stacked in order."""
    first, *others = [_read_file(path) for path in paths_of(paths)]
    for path, other in zip(paths_of(paths)[1:], others, strict=True):
        _raise(grid_issue(_grid(first), _grid(other), reference="first channel"), path)
    return torch.cat([first, *others]) if others else first


def _read_file(path: str | Path) -> MetaTensor:
    check_exists(Path(path))
    try:
        # As MONAI's LoadImage, which would also try all other readers on a broken file.
        reader = NibabelReader()
        array, meta = reader.get_data(reader.read(str(path)))
        array, *_ = convert_to_dst_type(array, array, dtype=np.float32)
        meta = switch_endianness(meta, "<") | {"filename_or_obj": str(path)}
        return mt.EnsureChannelFirst()(MetaTensor.ensure_torch_and_prune_meta(array, meta))
    except Exception as error:
        raise unreadable(Path(path), error) from error


def _grid(scan: MetaTensor) -> Grid:
    return scan.shape[1:], scan.affine.numpy()


def _raise(issue: BipvlError | None, path: str | Path) -> None:
    if issue:
        raise issue.at(path)


def _intensity(spec: DatasetSpec) -> mt.Transform:
    if "window" in spec.intensity:
        low, high = spec.intensity["window"]
        return mt.ScaleIntensityRanged("image", a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True)
    return mt.NormalizeIntensityd("image", nonzero=True, channel_wise=True)


def _augmentations(declared: Mapping[str, Any]) -> list[mt.Transform]:
    """The declared augmentations: geometry before intensity, so that voxels filled in look like air."""
    transforms: list[mt.Transform] = [
        mt.RandFlipd(KEYS, prob=0.5, spatial_axis=axis) for axis in declared.get("flip_axes", ())
    ]
    angle, zoom = math.radians(declared.get("rotation_degrees", 0)), declared.get("zoom", 0)
    if angle or zoom:
        affine = {"rotate_range": (0, 0, angle), "scale_range": (zoom, zoom, zoom)}
        transforms.append(
            mt.RandAffined(KEYS, prob=1.0, mode=("bilinear", "nearest"), padding_mode="zeros", **affine)
        )
    if scale := declared.get("intensity_scale"):
        transforms.append(mt.RandScaleIntensityd("image", factors=scale, prob=0.5))
    if shift := declared.get("intensity_shift"):
        transforms.append(mt.RandShiftIntensityd("image", offsets=shift, prob=0.5))
    return transforms


def _any_channel(label: torch.Tensor) -> torch.Tensor:
    return (label > 0).any(dim=0, keepdim=True)


def _content(image: MetaTensor) -> torch.Tensor:
    content = image != 0
    if not content.any():
        fix = "check its modality and unit"
        raise BipvlError("is empty after intensity scaling", fix, image.meta["filename_or_obj"])
    return content
