"""The scanner: voxel grid, patient position, blur, noise and bias field."""

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, ornt_transform
from numpy.typing import ArrayLike
from scipy import ndimage

from bipvl.data.synthetic.shapes import Ripples, rotation

ANY_AXES = (("RAS", 0.4), ("LPS", 0.2), ("LAS", 0.2), ("PSR", 0.1), ("LIP", 0.1))
AXIAL = (("RAS", 0.4), ("LPS", 0.3), ("LAS", 0.3))


@dataclass(frozen=True)
class Acquisition:
    """A voxel grid in scanner (RAS+ world) coordinates (mm), and the orientation of the stored volume.

    The axes of `affine` (4 x 4) and `size` point to the right, front and head; `orientation` is the axis
    code of the file; `pose` (4 x 4) maps patient axes to scanner axes.
    """

    affine: np.ndarray
    size: tuple[int, int, int]
    orientation: str
    pose: np.ndarray

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        *,
        size: tuple[int, int, int],
        extent: ArrayLike,
        centre: ArrayLike,
        shift: float,
        degrees: float,
        thick: float,
        orientations: tuple[tuple[str, float], ...] = ANY_AXES,
    ) -> "Acquisition":
        """A grid of about `extent` mm around the point `centre` of the patient.

        The patient is displaced by at most `shift` mm and rotated by at most `degrees`. With probability
        `thick`, there are half as many slices, twice as thick.
        """
        if rng.random() < thick:
            size = (size[0], size[1], max(1, size[2] // 2))
        spacing = np.asarray(extent) * rng.uniform(0.95, 1.05, 3) / size
        names, probabilities = zip(*orientations, strict=True)
        isocentre = rng.uniform(-60, 60, 3)
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = isocentre - spacing * (np.asarray(size) - 1) / 2
        pose = np.eye(4)
        pose[:3, :3] = rotation(rng.uniform(-degrees, degrees, 3))
        pose[:3, 3] = isocentre + rng.uniform(-shift, shift, 3) - pose[:3, :3] @ centre
        return cls(affine.round(6), size, str(rng.choice(names, p=probabilities)), pose)

    def as_nifti(self, volume: np.ndarray) -> nib.Nifti1Image:
        """The volume (x y z, or x y z channels) as a NIfTI image in the axis order of the file."""
        image = nib.Nifti1Image(volume, self.affine)
        image = image.as_reoriented(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(self.orientation)))
        image.set_sform(image.affine, code=1)
        image.set_qform(image.affine, code=1)
        image.header.set_xyzt_units("mm")
        return image


def noise(rng: np.random.Generator, size: tuple[int, ...], sigma: float) -> np.ndarray:
    """Gaussian noise of standard deviation `sigma`, smoothed over half a voxel, as reconstruction does."""
    field = rng.standard_normal(size, dtype=np.float32)
    ndimage.gaussian_filter(field, 0.5, output=field)
    field /= field.std()
    field *= np.float32(sigma)
    return field


def ct(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add the blur and noise of a CT scanner: HU, float32 to int16."""
    ndimage.gaussian_filter(image, 0.4, output=image)
    image += noise(rng, image.shape, rng.uniform(6, 10))
    np.clip(image, -1024, 3071, out=image)
    return np.rint(image, out=image).astype(np.int16)


def mr(image: np.ndarray, affine: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add the blur, bias field and Rician noise of an MR scanner: float32 to int16, at least 0."""
    ndimage.gaussian_filter(image, 0.4, output=image)
    bias = Ripples(rng, rng.uniform(0.15, 0.35), (250, 500), count=3)
    sigma = rng.uniform(10, 18)
    gain = rng.uniform(0.6, 1.6)
    apply_bias(image, bias, affine)
    image += noise(rng, image.shape, sigma)
    image *= image
    image += noise(rng, image.shape, sigma) ** 2
    np.sqrt(image, out=image)
    image *= np.float32(gain)
    return np.rint(image, out=image).astype(np.int16)


def apply_bias(volume: np.ndarray, bias: Ripples, affine: np.ndarray, gain: float = 1.0) -> None:
    """Multiply a volume (x y z), in place, by `gain` and a smooth field; by slices, to save memory."""
    spacing = np.diag(affine)[:3].astype(np.float32)
    i, j = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in volume.shape[:2]), indexing="ij")
    for k in range(volume.shape[2]):
        points = np.stack([i * spacing[0], j * spacing[1], np.full_like(i, k * spacing[2])])
        volume[:, :, k] *= gain * np.exp(bias(points))
