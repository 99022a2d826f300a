"""A brain with a glioma in four MR sequences: warped MNI152 anatomy with a tumour and its oedema."""

from functools import lru_cache

import numpy as np
from scipy import ndimage

from bipvl.common.errors import BipvlError
from bipvl.data.synthetic.rendering import Warp, slabs, voxel_points
from bipvl.data.synthetic.scanner import Acquisition, apply_bias, noise
from bipvl.data.synthetic.shapes import Ripples, Shape, ellipsoid, rotation, wavy

CHANNELS = ("FLAIR", "T1w", "t1gd", "T2w")
EDEMA, NON_ENHANCING, ENHANCING = 1, 2, 3
BRAIN_CENTRE = (0.0, -18.0, 8.0)  # of the brain, in MNI152 coordinates (mm)

# Mean intensities in the order of CHANNELS; in healthy tissue, most of the T1w contrast is the template's.
TISSUE = {
    "csf": (70, 120, 130, 820),
    "grey": (340, 310, 320, 400),
    "white": (265, 430, 440, 290),
    "edema": (560, 250, 265, 660),
    "necrosis": (330, 160, 170, 740),
    "solid": (470, 215, 235, 560),
    "rim": (500, 270, 780, 480),
}


@lru_cache(maxsize=1)
def _template() -> tuple[np.ndarray, np.ndarray]:
    """T1w, grey, white and brain maps (4 x 197 x 233 x 189, 0…1, 1 mm) from nilearn, and their affine."""
    try:
        # Not at the top: it takes seconds to import.
        from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template
    except ImportError as error:
        problem = "synthetic brains need the template in the package nilearn, which is not installed"
        raise BipvlError(problem, "install it with: pip install nilearn") from error
    loaders = (load_mni152_template, load_mni152_gm_template, load_mni152_wm_template)
    images = [load(resolution=1) for load in loaders]
    maps = [np.asarray(image.dataobj, np.float32) for image in images]
    return np.stack([*maps, (maps[0] > 0).astype(np.float32)]), images[0].affine


@lru_cache(maxsize=2)
def _smooth_maps(blur_mm: float) -> np.ndarray:
    """The template's maps, blurred for coarse voxels."""
    maps, _ = _template()
    if not blur_mm:
        return maps
    return np.stack([ndimage.gaussian_filter(part, blur_mm, truncate=2.5) for part in maps])


class Tumour:
    """A random tumour in MNI152 coordinates (mm)."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.radius = rng.uniform(15, 35)
        self.centre = _tumour_centre(rng)
        radii = self.radius * rng.uniform(0.8, 1.15, 3)
        self.whole = wavy(_blob(rng, self.centre, radii), Ripples(rng, 0.22 * self.radius, (24, 50)))
        inner = radii * rng.uniform(0.6, 0.76)
        core = _blob(rng, self.centre + rng.uniform(-0.2, 0.2, 3) * radii, inner)
        self.core = wavy(core, Ripples(rng, 0.12 * self.radius, (18, 36)))
        # Thickness of the enhancing rim of the core; None: nothing enhances.
        self.rim = None if rng.random() < 0.15 else rng.uniform(0.3, 0.5) * float(inner.min())


def _blob(rng: np.random.Generator, centre: np.ndarray, radii: np.ndarray) -> Shape:
    return ellipsoid(centre, radii, rng.uniform(-90, 90, 3))


def _tumour_centre(rng: np.random.Generator) -> np.ndarray:
    """A point in the cerebral white matter (MNI152 mm)."""
    maps, affine = _template()
    white = np.argwhere(maps[2, ::4, ::4, ::4] > 0.6) * 4
    places = white @ affine[:3, :3].T + affine[:3, 3]
    places = places[(places[:, 2] > -15) & (np.abs(places[:, 0]) > 10)]
    return places[rng.integers(len(places))].astype(float)


def brain(rng: np.random.Generator, scan: Acquisition) -> tuple[np.ndarray, np.ndarray]:
    """Image (int16, x y z 4, 0 outside the brain) and label (int16, x y z) on the grid of `scan`."""
    anatomy_rng, noise_rng = rng.spawn(2)
    patient = _Patient(anatomy_rng, scan.pose)
    voxel = float(np.median(np.diag(scan.affine)[:3]))
    image = np.zeros((*scan.size, 4), np.float32)
    label = np.zeros(scan.size, np.int16)
    inside = np.zeros(scan.size, bool)
    for start, stop in slabs(scan.size):
        world = voxel_points(scan.affine, scan.size, start, stop)
        part = np.s_[:, :, start:stop]
        image[part], label[part], inside[part] = patient.paint(world, voxel)
    return _add_artefacts(image, inside, scan, noise_rng), label


class _Patient:
    def __init__(self, rng: np.random.Generator, pose: np.ndarray) -> None:
        shape = np.eye(4)
        shape[:3, :3] = rotation(rng.uniform(-4, 4, 3)) @ np.diag(rng.uniform(0.92, 1.06, 3))
        shape[:3, 3] = np.asarray(BRAIN_CENTRE) - shape[:3, :3] @ BRAIN_CENTRE
        self.to_template = np.linalg.inv(pose @ shape)  # 4 x 4, scanner mm to MNI152 mm
        self.warp = Warp(rng, 3.0, (60, 150))
        self.tumour = Tumour(rng)
        self.tissue = {name: np.array(mean) * rng.uniform(0.93, 1.07, 4) for name, mean in TISSUE.items()}
        self.patches = Ripples(rng, 0.09, (8, 22), count=6)

    def paint(self, world: np.ndarray, voxel: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Intensities (... x 4), label (...) and brain mask (...) at scanner points (3 x ..., mm)."""
        maps, (_, affine) = _smooth_maps(round(max(0.0, 0.8 * (voxel - 1))) / 2), _template()
        rows = self.to_template.astype(np.float32)
        points = np.tensordot(rows[:3, :3], world, axes=1) + rows[:3, 3].reshape(3, 1, 1, 1)
        points = self.warp(points)
        whole, core = self.tumour.whole.distance(points), self.tumour.core.distance(points)
        corner = affine[:3, 3].astype(np.float32).reshape(3, 1, 1, 1)
        origin = self._undo_mass_effect(points) - corner
        t1, grey, white, mask = (ndimage.map_coordinates(part, origin, order=1) for part in maps)
        inside = mask > 0.5
        csf = np.clip(1 - grey - white, 0, 1)
        image = self._healthy(t1, grey, white, csf)
        # Oedema spreads along white matter and spares the fluid; the core replaces all tissue.
        spread = np.where(csf > 0.6, 99, whole + 7 * (0.55 - white)).astype(np.float32)
        label = np.where(spread < 0, EDEMA, 0).astype(np.int16)
        texture = 1 + self.patches(points)
        _mix(image, spread, voxel * 1.5, self.tissue["edema"], texture)
        rim = self.tumour.rim
        label[core < 0] = NON_ENHANCING if rim is None else ENHANCING
        _mix(image, core, voxel, self.tissue["solid" if rim is None else "rim"], texture)
        if rim is not None:
            label[core < -rim] = NON_ENHANCING
            _mix(image, core + np.float32(rim), voxel, self.tissue["necrosis"], texture)
        label[~inside] = 0
        return image, label, inside

    def _undo_mass_effect(self, points: np.ndarray) -> np.ndarray:
        """Where the tissue at `points` was before the tumour displaced it outwards."""
        away = points - self.tumour.centre.astype(np.float32).reshape(3, 1, 1, 1)
        far = np.einsum("i...,i...->...", away, away)
        return points - away * (0.28 * np.exp(-far / np.float32(2 * self.tumour.radius**2)))

    def _healthy(self, t1: np.ndarray, grey: np.ndarray, white: np.ndarray, csf: np.ndarray) -> np.ndarray:
        total = np.maximum(grey + white + csf, 1e-3)
        image = sum(
            (part / total)[..., None] * self.tissue[name].astype(np.float32)
            for name, part in (("grey", grey), ("white", white), ("csf", csf))
        )
        detail = (t1 * 520)[..., None]  # sulci and nuclei of the template
        image[..., 1:3] = 0.35 * image[..., 1:3] + 0.65 * detail
        return image


def _mix(image: np.ndarray, distance: np.ndarray, blur: float, mean: np.ndarray, texture: np.ndarray) -> None:
    """Paint a tissue of intensities `mean` where `distance` is negative, with an edge of `blur` mm."""
    near = distance < blur / 2
    cover = np.clip(0.5 - distance[near] / np.float32(blur), 0, 1)[:, None]
    image[near] += cover * (mean.astype(np.float32) * texture[near][:, None] - image[near])


def _add_artefacts(
    image: np.ndarray, inside: np.ndarray, scan: Acquisition, rng: np.random.Generator
) -> np.ndarray:
    """Add noise, bias field and gain to each channel; 0 outside the brain, at least 1 inside."""
    out = np.zeros(image.shape, np.int16)
    for channel in range(image.shape[-1]):
        volume = image[..., channel]
        bias = Ripples(rng, rng.uniform(0.05, 0.15), (250, 500), count=3)
        gain = rng.uniform(0.6, 1.5)
        volume += noise(rng, volume.shape, rng.uniform(10, 20))
        apply_bias(volume, bias, scan.affine, gain)
        np.clip(volume, 1, 4000, out=volume)
        out[..., channel] = np.where(inside, np.rint(volume), 0)
    return out
