"""The body around the organs of chest and abdomen: skin, fat, muscle, spine, ribs, pelvis and lungs."""

from dataclasses import dataclass

import numpy as np

from bipvl.data.synthetic.rendering import Layer
from bipvl.data.synthetic.shapes import (
    EVERYWHERE,
    Shape,
    ellipsoid,
    grown,
    half_space,
    minus,
    stacked,
    torso,
    tube,
    union,
    within,
)

VERTEBRA_MM = 32.0
SPINE_Y = -58.0
LOWEST_VERTEBRA = -105.0  # z, mm
LEVELS = (-260, -180, -110, -40, 40, 120, 240)  # z, mm
# The average patient's half-widths and half-depths at these levels (mm).
SKIN = np.array([[146, 152, 146, 136, 140, 142, 150], [92, 100, 96, 92, 97, 102, 102]])
CAVITY = np.array([[60, 84, 122, 134, 137, 139, 140], [50, 66, 78, 79, 84, 90, 92]])


@dataclass(frozen=True)
class Tissues:
    """Intensities of the tissues of the trunk (HU on CT, arbitrary units on MR)."""

    air: float
    lung: float
    fat: float
    skin: float
    muscle: float
    cortex: float
    marrow: float
    disc: float
    fluid: float


CT = Tissues(air=-1000, lung=-850, fat=-105, skin=5, muscle=46, cortex=480, marrow=190, disc=85, fluid=15)
MR = Tissues(air=0, lung=18, fat=75, skin=90, muscle=145, cortex=25, marrow=95, disc=170, fluid=420)


class Body:
    """One patient's build (mm)."""

    def __init__(self, rng: np.random.Generator) -> None:
        weight = rng.uniform(0, 1)
        self.girth = 0.9 + 0.18 * weight + rng.uniform(-0.02, 0.02)  # relative to the average half-widths
        self.fat = 5 + 22 * weight * rng.uniform(0.6, 1)  # thickness of the subcutaneous fat
        self.muscle = rng.uniform(8, 14)  # thickness of the muscular wall

    def surface(self, margin: float = 0.0) -> Shape:
        """The skin grown by `margin`: narrow at the waist, wide at the hips."""
        half_x, half_y = self.girth * SKIN + self.fat + margin
        return torso(LEVELS, half_x, half_y)

    def cavity(self, margin: float) -> Shape:
        """Abdomen and chest inside the wall, which is thickest at the back; the pelvis is narrow."""
        half_x, half_y = self.girth * CAVITY + (margin - self.muscle)
        return torso(LEVELS, half_x, half_y, centre_y=11.0)


def wall(body: Body, tissue: Tissues) -> list[Layer]:
    """Skin, subcutaneous fat, muscles, and the fat that fills the cavity."""
    deep = body.surface(-body.fat - 4)
    muscles = [ellipsoid((side * 36, SPINE_Y - 24, 0), (30, 20, 2000)) for side in (-1, 1)]
    back = union(tuple(within(muscle, deep, blend=8) for muscle in muscles))
    return [
        Layer(body.surface(), ((0, tissue.skin), (2.5, tissue.fat), (body.fat, tissue.muscle)), 0, grain=6),
        Layer(body.cavity(0), ((0, tissue.fat),), grain=8),
        Layer(back, ((0, tissue.muscle),), grain=8),
    ]


def psoas(tissue: Tissues) -> list[Layer]:
    """The psoas muscles beside the lumbar spine: thicker downwards, and running forwards to the hip."""
    path = np.array([[30, SPINE_Y + 4, 20], [40, SPINE_Y + 10, -50], [58, -38, -120], [72, -8, -190]])
    radii = np.array([9, 20, 22, 18])
    return [
        Layer(tube(path * [side, 1, 1], radii, pieces=10), ((0, tissue.muscle),), grain=8) for side in (-1, 1)
    ]


def spine(body: Body, tissue: Tissues, phase: float) -> list[Layer]:
    """Vertebrae and discs, spinal canal and processes."""
    half = VERTEBRA_MM / 2
    above = half_space((0, 0, LOWEST_VERTEBRA), (0, 0, -1))
    column = within(ellipsoid((0, SPINE_Y, 0), (24, 18, 4000)), above, blend=4)
    top, bottom = half_space((0, 0, half - 4.5), (0, 0, 1)), half_space((0, 0, 4.5 - half), (0, 0, -1))
    vertebra = within(within(ellipsoid((0, SPINE_Y, 0), (25, 19, 90)), top, blend=6), bottom, blend=6)
    arch = union(
        (
            ellipsoid((0, SPINE_Y - 30, 0), (17, 13, 12)),
            ellipsoid((0, SPINE_Y - 50, -5), (4, 18, 9), (-15, 0, 0)),
            ellipsoid((0, SPINE_Y - 27, 1), (42, 5, 6)),
            ellipsoid((-12, SPINE_Y - 20, 3), (5, 9, 7)),
            ellipsoid((12, SPINE_Y - 20, 3), (5, 9, 7)),
        ),
        blend=6,
    )
    arches = stacked(arch, VERTEBRA_MM, phase, LOWEST_VERTEBRA, 1000)
    canal = within(ellipsoid((0, SPINE_Y - 27, 0), (10, 8, 4000)), above)
    bone = ((0, tissue.cortex), (3, tissue.marrow))
    return [
        Layer(column, ((0, tissue.disc),), grain=6),
        Layer(within(arches, body.surface(-body.fat - 2), blend=4), bone, grain=15),
        Layer(stacked(vertebra, VERTEBRA_MM, phase, LOWEST_VERTEBRA, 1000), bone, grain=15),
        Layer(canal, ((0, tissue.fluid), (3, tissue.muscle))),
    ]


def pelvis(tissue: Tissues) -> list[Layer]:
    """Sacrum, iliac wings, hips and pubic bones."""
    bone = ((0, tissue.cortex), (4, tissue.marrow))
    sacrum = ellipsoid((0, -76, -140), (44, 15, 44), (-22, 0, 0))
    parts: list[Shape] = [sacrum]
    for side in (-1, 1):
        hollow = ellipsoid((side * 36, -6, -104), (72, 70, 80))
        shell = minus(ellipsoid((side * 44, -14, -110), (76, 74, 82)), hollow, blend=6)
        limit = ellipsoid((side * 92, -36, -122), (48, 66, 56), (0, side * 20, 0))
        wing = within(within(shell, limit, blend=8), half_space((0, 20, 0), (0, 1, 0)), blend=8)
        hip = ellipsoid((side * 86, -10, -190), (26, 26, 26))
        ramus = np.array([[76, -6, -184], [48, 26, -190], [10, 46, -206]]) * [side, 1, 1]
        parts += [wing, hip, tube(ramus, [11, 9, 9], pieces=6)]
    return [Layer(part, bone, grain=15) for part in parts]


def ribs(body: Body, phase: float) -> Shape:
    """Ribs that slope down from the spine around the chest wall, above the costal margin."""
    inside = body.cavity(2.0)

    def distance(points: np.ndarray) -> np.ndarray:
        # A rib is a band in the wall: `depth` is measured across the wall, `rise` along it.
        depth = inside.distance(points) - np.float32(body.muscle / 2)
        front = (points[1] - np.float32(SPINE_Y)) / np.float32(150)
        level = points[2] + np.float32(70) * front
        rise = np.mod(level - np.float32(phase), np.float32(VERTEBRA_MM)) - np.float32(VERTEBRA_MM / 2)
        band = np.sqrt((depth / 4.0) ** 2 + (rise / 7.0) ** 2)
        margin = np.float32(18) + np.float32(75) * np.maximum(front, 0) - points[2]
        return np.maximum((band - 1) * np.float32(5.0), margin)

    bounds = body.cavity(20).bounds
    bounds[0, 2] = -42
    return Shape(bounds, distance)


def dome(top: float) -> Shape:
    """The space below the diaphragm: two domes that fall to the wall, the right one 14 mm higher."""

    def distance(points: np.ndarray) -> np.ndarray:
        x, y, z = points
        behind = 0.9 * ((y - 8) / 9.8) ** 2
        right = top - 0.9 * ((x - 70) / 7.6) ** 2 - behind
        left = top - 14 - 0.9 * ((x + 72) / 7.6) ** 2 - behind
        middle = top - 28 - (x / 14) ** 2 - behind
        return (z - np.maximum(np.maximum(right, left), middle)) * np.float32(0.8)

    return Shape(EVERYWHERE, distance)


def lungs(body: Body, under: Shape, tissue: Tissues, middle: Shape) -> list[Layer]:
    """Both lungs: the chest above the diaphragm without the mediastinum `middle`."""
    chest = minus(body.cavity(-3), grown(under, 2.0), blend=5)
    return [Layer(minus(chest, middle, blend=8), ((0, tissue.lung),), grain=14)]
