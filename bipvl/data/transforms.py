"""From files to the tensors that a network is trained on and tested with: MONAI's transforms in order."""

import math
from collections.abc import Hashable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor, NibabelReader
from monai.transforms import (
    CastToTyped,
    Compose,
    CropForegroundd,
    DeleteItemsd,
    EnsureChannelFirst,
    EnsureTyped,
    Lambdad,
    NormalizeIntensityd,
    Orientationd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    ScaleIntensityRanged,
    Spacingd,
    SpatialPadd,
    Transform,
)
from monai.transforms.io.array import switch_endianness
from monai.utils import convert_to_dst_type

from bipvl.common.errors import BipvlError
from bipvl.data.labels import encode
from bipvl.data.layouts import Case
from bipvl.data.scans import check_there, grid_fault, image_fault, unreadable
from bipvl.data.spec import DatasetSpec

KEYS = ("image", "label")
_RAS = (("L", "R"), ("P", "A"), ("I", "S"))


class Pipeline(Compose):
    """MONAI's Compose, but a BipvlError from inside comes out as it is, not as a RuntimeError around it."""

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


class LoadCased(Transform):
    """Paths under "image" and, if present, "label" to MetaTensors on the scan's own grid.

    A list of paths under "image" is a file a channel. Image M x H x W x D float32; label as `labels.encode`
    gives it. Other keys pass through.

    Raises:
        BipvlError: unreadable file, wrong channels, grids that differ, undeclared codes.
    """

    def __init__(self, *, spec: DatasetSpec) -> None:
        self.spec = spec

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        loaded = _load(data)
        image, path = loaded["image"], paths_of(data["image"])[0]
        _raise(path, image_fault(self.spec, image.shape, image.affine.numpy()))
        if not torch.isfinite(image).all():
            raise BipvlError(f"{path} holds voxels that are not finite; replace them by the background.")
        if "label" in loaded:
            label = loaded["label"]
            codes = label.numpy()
            encoded = encode(self.spec, codes[0] if len(codes) == 1 else codes, str(data["label"]))
            # The image's affine to the last bit, so that both are resampled to one shape.
            meta = {**label.meta, "affine": image.affine}
            loaded["label"] = MetaTensor(torch.from_numpy(encoded), meta=meta)
        return loaded


def prepare_transform(spec: DatasetSpec, spacing: Sequence[float] | None = None) -> Compose:
    """The deterministic part: {"image": path, "label": path (optional), …} to the working grid.

    RAS orientation (an oblique scan keeps its obliqueness), spacing (mm; the spec's where None), intensity,
    and a crop to the box of non-zero voxels. Image M x H x W x D float32, label as `labels.encode` gives it,
    uint8; both MetaTensors whose affine leads back to the scan. Paper, section on implementation details.
    """
    optional = {"allow_missing_keys": True}
    return Pipeline(
        [
            LoadCased(spec=spec),
            Orientationd(KEYS, axcodes="RAS", labels=_RAS, **optional),
            Spacingd(
                KEYS,
                pixdim=spec.spacing if spacing is None else spacing,
                mode=("bilinear", "nearest"),
                **optional,
            ),
            _intensity(spec),
            CropForegroundd(
                KEYS, "image", select_fn=_content, start_coord_key=None, end_coord_key=None, **optional
            ),
            CastToTyped(KEYS, dtype=(torch.float32, torch.uint8), **optional),
        ]
    )


def random_transform(spec: DatasetSpec, crop: Sequence[int]) -> Compose:
    """The random part: a prepared case to one augmented crop of `crop` voxels (x, y, z), plain tensors.

    The crop's centre is foreground or background with equal chance. `set_random_state(seed)` decides all.
    """
    return Pipeline(
        [
            SpatialPadd(KEYS, crop),
            # The cropper would take channel 0 of several for background; overlapping classes have none.
            Lambdad("label", _any_channel, overwrite="foreground", track_meta=False),
            RandCropByPosNegLabeld(KEYS, "foreground", crop, pos=1, neg=1, num_samples=1),
            itemgetter(0),
            DeleteItemsd("foreground"),
            *_augmentations(spec.augmentation),
            EnsureTyped(KEYS, dtype=(torch.float32, torch.uint8), track_meta=False),
        ],
        map_items=False,  # the crop's list of one goes to itemgetter whole
    )


def load_native(case: Case) -> dict[str, Any]:
    """A case on the scan's own grid, for evaluation: "id", "image" M x H x W x D, "label" 1 x H x W x D.

    Float32 MetaTensors; the label holds the native codes, which `labels.encode` checks.
    """
    return _load({"id": case.id, **case.paths})


def _load(data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
    loaded = {**data, **{key: _read(data[key]) for key in KEYS if key in data}}
    if "label" in loaded:
        image, label = (loaded[key] for key in KEYS)
        _raise(
            data["label"],
            grid_fault(image.shape[1:], image.affine.numpy(), label.shape[1:], label.affine.numpy()),
        )
    return loaded


def paths_of(paths: str | Path | Sequence[str | Path]) -> Sequence[str | Path]:
    """A scan's file alone, or its files, a channel each: as a sequence."""
    return [paths] if isinstance(paths, (str, Path)) else paths


def _read(paths: str | Path | Sequence[str | Path]) -> MetaTensor:
    """One file, or a file a channel on one grid, stacked in their order."""
    first, *others = [_read_file(path) for path in paths_of(paths)]
    for path, other in zip(paths_of(paths)[1:], others, strict=True):
        grids = (first.shape[1:], first.affine.numpy(), other.shape[1:], other.affine.numpy())
        _raise(path, grid_fault(*grids, beside="first channel"))
    return torch.cat([first, *others]) if others else first


def _read_file(path: str | Path) -> MetaTensor:
    check_there(Path(path))
    try:
        # As MONAI's LoadImage, which makes all other readers too, and tries them on a file that is broken.
        reader = NibabelReader()
        array, meta = reader.get_data(reader.read(str(path)))
        array, *_ = convert_to_dst_type(array, array, dtype=np.float32)
        meta = switch_endianness(meta, "<") | {"filename_or_obj": str(path)}
        return EnsureChannelFirst()(MetaTensor.ensure_torch_and_prune_meta(array, meta))
    except Exception as error:
        raise unreadable(Path(path), error) from error


def _raise(path: str | Path, fault: tuple[str, str] | None) -> None:
    if fault:
        raise BipvlError(f"{path} {fault[0]}; {fault[1]}.")


def _intensity(spec: DatasetSpec) -> Transform:
    if "window" in spec.intensity:
        low, high = spec.intensity["window"]
        return ScaleIntensityRanged("image", a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True)
    return NormalizeIntensityd("image", nonzero=True, channel_wise=True)


def _augmentations(declared: Mapping[str, Any]) -> list[Transform]:
    """The declared ones: where voxels lie before what they hold, so that filled-in ones look like air."""
    transforms: list[Transform] = [
        RandFlipd(KEYS, prob=0.5, spatial_axis=axis) for axis in declared.get("flip_axes", ())
    ]
    angle, zoom = math.radians(declared.get("rotation_degrees", 0)), declared.get("zoom", 0)
    if angle or zoom:
        affine = {"rotate_range": (0, 0, angle), "scale_range": (zoom, zoom, zoom)}
        transforms.append(
            RandAffined(KEYS, prob=1.0, mode=("bilinear", "nearest"), padding_mode="zeros", **affine)
        )
    if scale := declared.get("intensity_scale"):
        transforms.append(RandScaleIntensityd("image", factors=scale, prob=0.5))
    if shift := declared.get("intensity_shift"):
        transforms.append(RandShiftIntensityd("image", offsets=shift, prob=0.5))
    return transforms


def _any_channel(label: torch.Tensor) -> torch.Tensor:
    return (label > 0).any(dim=0, keepdim=True)


def _content(image: MetaTensor) -> torch.Tensor:
    content = image != 0
    if not content.any():
        path = image.meta["filename_or_obj"]
        raise BipvlError(f"{path} is empty after intensity scaling; is it of another modality or unit?")
    return content
