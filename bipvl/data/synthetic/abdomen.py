"""A contrast-enhanced abdominal CT with the fifteen organs of AMOS22, different in every patient."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from bipvl.data.synthetic import trunk
from bipvl.data.synthetic.bowel import bowel_layers
from bipvl.data.synthetic.rendering import Layer, Scene, Warp
from bipvl.data.synthetic.shapes import (
    ZERO,
    Ripples,
    Shape,
    ellipsoid,
    half_space,
    minus,
    placed,
    rotation,
    tube,
    union,
    wavy,
    within,
)

ORGANS = ["spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta"]
ORGANS += ["postcava", "pancreas", "right adrenal gland", "left adrenal gland", "duodenum", "bladder"]
CODES = {name: code for code, name in enumerate([*ORGANS, "prostate/uterus"], start=1)}

# Mean HU in the late arterial phase; each patient varies around them.
HU = {"spleen": 168, "kidney cortex": 212, "kidney medulla": 190, "gallbladder": 14, "esophagus": 76}
HU |= {"liver": 95, "liver vessel": 130, "stomach wall": 60, "stomach fluid": 32, "gas": -750, "aorta": 242}
HU |= {"postcava": 145, "pancreas": 122, "adrenal": 104, "duodenum": 66, "bladder": -10}
HU |= {"prostate/uterus": 106, "heart": 120}


@dataclass(frozen=True)
class Jitter:
    """Move, scale and rotate an organ at random, up to `shift` mm, a fraction `scale`, and 12 degrees."""

    rng: np.random.Generator

    def __call__(
        self, shape: Shape, *, shift: float = 9.0, scale: float = 0.16, along: ArrayLike = ZERO
    ) -> Shape:
        moved = self.rng.uniform(-shift, shift, 3) + along
        matrix = rotation(self.rng.uniform(-12, 12, 3))
        size = 1 + self.rng.uniform(-scale, scale)
        return placed(shape, matrix, scale=size, pivot=shape.bounds.mean(0), shift=moved)

    def lumpy(self, shape: Shape, height: float, lengths: tuple[float, float] = (30, 70)) -> Shape:
        """The shape with random bumps of `height` and wavelengths within `lengths` (mm)."""
        return wavy(shape, Ripples(self.rng, height, lengths))


def abdomen(rng: np.random.Generator, pose: np.ndarray) -> Scene:
    """One patient (HU); `pose` (4 x 4) maps patient axes to scanner coordinates (mm)."""
    body = trunk.Body(rng)
    breath = rng.uniform(-10, 10)  # mm; organs attached to the diaphragm move with it
    hu = {name: value + rng.normal(0, 4) for name, value in HU.items()}
    hu["aorta"] += rng.uniform(-10, 40)
    jitter = Jitter(rng)
    under = trunk.dome(118 + breath)
    phase = rng.uniform(0, trunk.VERTEBRA_MM)
    upper = np.array([0, 0, breath])
    stomach = _stomach(jitter, upper)

    layers = trunk.wall(body, trunk.CT)
    layers += [Layer(trunk.ribs(body, phase), ((0, 420.0), (3, 220.0)))]
    layers += trunk.psoas(trunk.CT) + trunk.spine(body, trunk.CT, phase) + trunk.pelvis(trunk.CT)
    layers += trunk.lungs(body, under, trunk.CT, _mediastinum(breath))
    layers += _heart(hu, under, breath)
    layers += bowel_layers(rng, body, under)
    layers += _liver(jitter, hu, body, under, upper)
    layers += _stomach_layers(stomach, hu, body, under)
    layers += _spleen(jitter, hu, body, under, upper)
    kidneys, adrenals = _kidneys_and_adrenals(jitter, hu, body, upper / 2)
    layers += kidneys
    layers += _vessels(jitter, hu, breath)
    layers += _small_organs(jitter, hu, upper) + adrenals
    layers += _pelvic_organs(jitter, hu)
    warp = Warp(rng, 5.0, (140, 320))
    return Scene(layers, trunk.CT.air, pose, warp, grain_seed=int(rng.integers(2**31)))


def _mediastinum(breath: float) -> Shape:
    column = ellipsoid((-4, -40, 150), (38, 48, 400))
    return union((column, ellipsoid((-22, 34, 132 + breath), (62, 48, 46), (0, 20, 15))), blend=20)


def _heart(hu: dict[str, float], under: Shape, breath: float) -> list[Layer]:
    heart = minus(ellipsoid((-24, 34, 134 + breath), (55, 42, 42), (0, 20, 15)), under, gap=3)
    return [Layer(heart, ((0, 70), (9, hu["heart"])), grain=6)]


def _liver(jitter: Jitter, hu: dict[str, float], body: trunk.Body, under: Shape, upper: np.ndarray) -> list:
    rng = jitter.rng
    left = 1 + rng.uniform(-0.25, 0.25)
    right_lobe = ellipsoid((80, 2, 48), (62, 78, 72), (0, 12, 0))
    left_lobe = ellipsoid((8, 42, 78), (72 * left, 38, 34), (0, 18, 0))
    lobes = union((right_lobe, left_lobe), blend=30)
    # The visceral surface: a hollow for stomach, duodenum and gallbladder.
    hollow = ellipsoid((2, 20, -2), (68, 66, 62), (0, 30, 0))
    shape = jitter.lumpy(jitter(minus(lobes, hollow, blend=26), shift=9, scale=0.12, along=upper), 3.0)
    shape = within(within(shape, body.cavity(-2), blend=8), under, blend=8, gap=3)
    roots = np.array([[20, 12, 84], [50, 5, 74], [85, -10, 66], [112, -24, 56]])
    veins = [
        tube([[22, -8, 100], [45, 10, 92], [78, 24, 80], [104, 34, 62]], [6, 5, 4, 2.5]),
        tube(roots, [7, 6, 4, 2.5]),
        tube([[20, 0, 98], [8, 30, 90], [-18, 46, 84]], [5, 4, 2.5]),
    ]
    layers = [Layer(shape, ((0, hu["liver"]),), CODES["liver"], grain=5)]
    for vein in veins:
        inside = within(jitter(vein, shift=6, scale=0.1, along=upper), shape, gap=3)
        layers.append(Layer(inside, ((0, hu["liver vessel"]),)))
    return layers


def _spleen(jitter: Jitter, hu: dict[str, float], body: trunk.Body, under: Shape, upper: np.ndarray) -> list:
    hilum = ellipsoid((-56, 6, 58), (34, 42, 60))
    bean = minus(ellipsoid((-100, -38, 60), (32, 52, 54), (25, 0, -22)), hilum, blend=14)
    shape = jitter.lumpy(jitter(bean, shift=9, along=upper), 2.0)
    shape = within(within(shape, body.cavity(-2), blend=6), under, blend=6, gap=3)
    return [Layer(shape, ((0, hu["spleen"]),), CODES["spleen"], grain=5)]


def _stomach(jitter: Jitter, upper: np.ndarray) -> Shape:
    path = np.array([[-52, 0, 90], [-60, 18, 62], [-48, 42, 26], [-14, 56, 6], [22, 46, 16]], float)
    path += jitter.rng.normal(0, 5, path.shape)
    full = jitter.rng.uniform(0.85, 1.2)
    shape = tube(path, np.array([27, 29, 25, 19, 12]) * full)
    return jitter.lumpy(jitter(shape, along=upper, scale=0.12), 2.5)


def _stomach_layers(stomach: Shape, hu: dict[str, float], body: trunk.Body, under: Shape) -> list[Layer]:
    shape = within(within(stomach, body.cavity(-3), blend=6), under, blend=6, gap=3)
    top = float(stomach.bounds[1, 1])
    bubble = within(shape, half_space((0, top - 26, 0), (0, -1, 0)), gap=5)  # gas rises to the front
    return [
        Layer(shape, ((0, hu["stomach wall"]), (5, hu["stomach fluid"])), CODES["stomach"], grain=14),
        Layer(bubble, ((0, hu["gas"]),)),
    ]


def _kidneys_and_adrenals(
    jitter: Jitter, hu: dict[str, float], body: trunk.Body, upper: np.ndarray
) -> tuple[list[Layer], list[Layer]]:
    kidneys, adrenals, rng = [], [], jitter.rng
    for name, side, level in (("right", 1, -20.0), ("left", -1, -6.0)):
        moved = rng.uniform(-12, 12, 3) * [0.6, 0.5, 1.1]
        centre = np.array([side * 66, -46, level]) + moved + upper
        size = 1 + rng.uniform(-0.14, 0.2)
        tilt = (rng.uniform(-12, 4), side * rng.uniform(6, 20), side * rng.uniform(10, 40))
        bean = ellipsoid(centre, (27 * size, 29 * size, 54 * size), tilt)
        hilum = ellipsoid(centre + [-side * 27 * size, 9, 0], (18, 13, 17))
        shape = within(minus(bean, hilum, blend=10), body.cavity(2), blend=4)
        coats = ((0, hu["kidney cortex"]), (9, hu["kidney medulla"]))
        kidneys.append(Layer(shape, coats, CODES[f"{name} kidney"], grain=10))
        pole = centre + rotation(tilt) @ [0, 0, 54 * size] + [-side * 12, 8, 6]
        gland = jitter(_adrenal(pole, side), shift=3, scale=0.18)
        adrenals.append(Layer(gland, ((0, hu["adrenal"]),), CODES[f"{name} adrenal gland"], grain=5))
    return kidneys, adrenals


def _adrenal(foot: np.ndarray, side: int) -> Shape:
    """Two limbs that open backwards from a crest (an inverted Y), as thick as in a large gland."""
    crest = foot + [0, 7, 6]
    limbs = [
        tube([crest + [0, 0, 9], crest, foot + [side * x, -9, -8]], [6, 7.5, 6], pieces=6) for x in (-8, 10)
    ]
    return union(limbs, blend=5)


def _vessels(jitter: Jitter, hu: dict[str, float], breath: float) -> list[Layer]:
    rng = jitter.rng
    bow = rng.normal(0, 5)
    wide = rng.uniform(0.9, 1.3)
    path = [[-27, -46, 240], [-23, -40, 120], [-13 + bow, -32, 50], [-11 - bow, -28, -20], [-5, -28, -84]]
    aorta = np.array(path, float)
    shift = np.array([*rng.uniform(-7, 7, 2), 0]) - [3, 0, 0]
    shape = tube(aorta + shift, np.array([13, 12.5, 11.5, 11, 10]) * wide)
    layers = [Layer(shape, ((0, hu["aorta"]),), CODES["aorta"])]
    for side in (-1, 1):  # the common iliac arteries and veins, which neither label includes
        path = [[-4, -28, -84], [side * 24, -28, -120], [side * 44, -14, -160], [side * 58, 22, -215]]
        artery = tube(np.array(path) + shift, [7, 6, 5, 5])
        path = [[14, -34, -88], [side * 28, -40, -124], [side * 48, -26, -164], [side * 52, 12, -215]]
        vein = tube(np.array(path) + [shift[0], -2, 0], [8, 7, 6, 6])
        layers = [Layer(vein, ((0, hu["postcava"]),)), Layer(artery, ((0, hu["aorta"]),)), *layers]
    path = [[14, -32, -88], [22, -30, -40], [26, -28, 20], [28, -18, 70], [26, -6, 112], [22, 2, 132]]
    cava = np.array(path, float)
    cava[4:, 2] += breath
    cava += np.array([*rng.uniform(-6, 6, 2), 0]) + [3, 0, 0]
    shape = tube(cava, np.array([11, 12, 13, 14, 14, 13]) * rng.uniform(0.88, 1.15))
    layers.append(Layer(shape, ((0, hu["postcava"]),), CODES["postcava"], grain=4))
    return layers


def _small_organs(jitter: Jitter, hu: dict[str, float], upper: np.ndarray) -> list[Layer]:
    half = upper / 2
    rng = jitter.rng
    path = [[40, 6, -18], [38, 16, 8], [12, 27, 24], [-24, 22, 34], [-52, 6, 42], [-74, -6, 50]]
    pancreas = np.array(path, float)
    pancreas[1:] += rng.normal(0, 4, (5, 3))
    gland = jitter.lumpy(jitter(tube(pancreas, [12, 16, 11, 12, 12, 10])), 2.5, (14, 30))
    path = [[30, 46, 20], [56, 30, 14], [66, 8, -18], [54, -4, -50], [16, -4, -56], [-20, 8, -34]]
    duodenum = np.array(path, float)
    duodenum += rng.normal(0, 4, duodenum.shape)
    gut = jitter(tube(duodenum, [12, 14, 14, 13, 12, 12]), along=half)
    pear = np.array([[62, 66, 2], [54, 58, 18], [44, 44, 36], [36, 34, 46]])
    bladder = jitter(tube(pear, [15, 17, 11, 5], pieces=10), shift=10, scale=0.2, along=upper)
    gullet = np.array([[-6, -24, 240], [-8, -20, 140], [-18, -12, 108], [-40, -2, 86]], float)
    gullet[1:] += rng.normal(0, 4, (3, 3))
    gullet += upper + [0, rng.uniform(-3, 8), 0]
    gullet_radii = np.array([10.5, 11, 11.5, 12]) * rng.uniform(0.85, 1.15)
    return [
        Layer(tube(gullet, gullet_radii), ((0, hu["esophagus"]),), CODES["esophagus"], grain=5),
        Layer(gland, ((0, hu["pancreas"]),), CODES["pancreas"], grain=7),
        Layer(gut, ((0, hu["duodenum"]),), CODES["duodenum"], grain=8),
        Layer(bladder, ((0, 45), (2, hu["gallbladder"])), CODES["gallbladder"], grain=3),
    ]


def _pelvic_organs(jitter: Jitter, hu: dict[str, float]) -> list[Layer]:
    rng = jitter.rng
    female = rng.random() < 0.5
    full = rng.uniform(0.75, 1.25)
    centre = np.array([0, 22, -150]) + rng.uniform(-10, 10, 3) * [1, 0.8, 1]
    bladder = jitter.lumpy(ellipsoid(centre, (40 * full, 32 * full, 28 * full), rng.uniform(-12, 12, 3)), 2.0)
    if female:
        cervix = centre + [rng.uniform(-8, 8), -30 * full - 10, -14]
        fundus = cervix + [rng.uniform(-22, 22), 14, 46]
        gland = tube([cervix, (cervix + fundus) / 2, fundus], [13, 17, 24], pieces=8)
        gland = minus(gland, bladder, blend=4, gap=2)
    else:
        low = centre + [0, -8, -28 * full - 15]
        size = rng.uniform(0.9, 1.3)
        gland = minus(ellipsoid(low, (27 * size, 21 * size, 20 * size)), bladder, blend=4, gap=2)
    path = np.array([[-14, -52, -110], [0, -56, -150], [0, -44, -190], [0, -40, -230]])
    rectum = tube(path, [15, 19, 18, 12])
    return [
        Layer(rectum, ((0, 50), (4, -70)), grain=60),
        Layer(gland, ((0, hu["prostate/uterus"]),), CODES["prostate/uterus"], grain=6),
        Layer(bladder, ((0, 45), (3, hu["bladder"])), CODES["bladder"], grain=3),
    ]
