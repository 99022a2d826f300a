"""A heart on CT angiography or MR, with the seven structures of MM-WHS."""

from collections.abc import Callable

import numpy as np

from bipvl.data.synthetic import trunk
from bipvl.data.synthetic.abdomen import Jitter
from bipvl.data.synthetic.rendering import Layer, Scene, Warp
from bipvl.data.synthetic.shapes import (
    Shape,
    ellipsoid,
    grown,
    half_space,
    placed,
    rotation,
    tube,
    union,
    within,
)

CODES = {"myo": 205, "la": 420, "lv": 500, "ra": 550, "rv": 600, "ao": 820, "pa": 850}
# Blood and muscle. Contrast-enhanced CT: the left heart is brighter. MR: inflow-weighted, fat-suppressed.
_CT = {"lv": 345, "la": 305, "ao": 390, "rv": 225, "ra": 180, "pa": 265, "myo": 105, "cava": 135, "wall": 80}
_MR = {"lv": 520, "la": 420, "ao": 590, "rv": 365, "ra": 310, "pa": 470, "myo": 180, "cava": 290, "wall": 110}
BLOOD = {"ct": _CT, "mr": _MR}
HEART_CENTRE = (-14.0, 22.0, 160.0)  # of the heart, in patient axes (mm)

# The heart's axes in patient axes: u to the right ventricle, v down, w to the apex.
_W = np.array([-0.65, 0.60, -0.47])
_W /= np.linalg.norm(_W)
_U = np.array([0.6, 0.7, 0.1])
_U -= _W * (_U @ _W)
_U /= np.linalg.norm(_U)
AXES = np.stack([_U, np.cross(_W, _U), _W], axis=1)


def _to_patient(u: float, v: float, w: float) -> np.ndarray:
    """A point in the heart's axes, converted to patient axes (relative to the heart's centre)."""
    return AXES @ [u, v, w]


def _tilted(shape: Shape) -> Shape:
    return placed(shape, AXES)


def _heart(jitter: Jitter) -> tuple[dict[str, Shape], Shape]:
    """Chambers and great vessels, in painting order, and the sac; relative to the heart's centre (mm)."""
    rng = jitter.rng

    def sized(*radii: float) -> tuple[float, ...]:
        return tuple(np.array(radii) * rng.uniform(0.86, 1.16, 3))

    lv, wall = sized(23, 23, 42), rng.uniform(9, 13)
    middle, base = (-15.0, 0.0, 10.0), half_space((0, 0, -22), (0, 0, -1))
    epicardium = _tilted(within(ellipsoid(middle, tuple(np.add(lv, wall))), base, blend=6))
    endocardium = _tilted(within(ellipsoid(middle, lv), half_space((0, 0, -25), (0, 0, -1)), blend=4))

    valve = _to_patient(12, -26, -22) + [-12, 4, 14]  # of the pulmonary artery
    right = _tilted(within(ellipsoid((21, 3, 2), sized(33, 40, 44)), base, blend=6))
    path = np.stack([_to_patient(24, -16, 2), _to_patient(18, -26, -12), valve])
    outflow = tube(path, [18, 16, 14], pieces=6)

    left_atrium = jitter(_tilted(ellipsoid((-16, -6, -48), sized(29, 27, 22))), shift=4, scale=0.06)
    right_atrium = jitter(_tilted(ellipsoid((34, 16, -46), sized(27, 32, 26))), shift=4, scale=0.06)
    shapes = {
        "ra": right_atrium,
        "rv": union((right, outflow), blend=10),
        "la": union((left_atrium, *_pulmonary_veins(left_atrium.bounds.mean(0))), blend=8),
        "myo": epicardium,
        "lv": endocardium,
        **_vessels(rng, valve),
    }
    parts = _tilted(ellipsoid((0, 4, 6), (58, 50, 62))), ellipsoid((16, -16, 16), (46, 44, 50))
    return shapes, union(parts, blend=20)


def _pulmonary_veins(middle: np.ndarray) -> tuple[Shape, ...]:
    """Two short stumps on each side."""
    radii = np.array([8, 6.5, 5.5])
    directions = [(side, up) for side in (-1, 1) for up in (-7, 8)]
    return tuple(
        tube(middle + [[s * 12, -4, up], [s * 28, -5, up * 1.7], [s * 42, -8, up * 2.4]], radii, pieces=5)
        for s, up in directions
    )


def _vessels(rng: np.random.Generator, valve: np.ndarray) -> dict[str, Shape]:
    """The pulmonary artery to just beyond its bifurcation, and the ascending aorta."""
    fork = np.array([-14, -8, 62]) + rng.normal(0, 3, 3)
    stem = np.stack([valve, (valve + fork) / 2 + [-5, 4, 4], fork])
    branches = np.array([13, 12, 9.5])
    pulmonary = (
        tube(stem, np.array([15, 16, 15]) * rng.uniform(0.88, 1.15), pieces=8),
        tube([fork, [10, -20, 60], [40, -28, 52]], branches, pieces=8),
        tube([fork, [-34, -22, 66], [-54, -34, 60]], branches, pieces=6),
    )
    rise = np.array([[8, -4, 18], [18, 6, 42], [19, 8, 62], [14, 2, 80], [4, -10, 91]], float)
    rise[1:4] += rng.normal(0, 3, (3, 3))
    aorta = tube(rise, np.array([16, 17, 16, 15, 14]) * rng.uniform(0.88, 1.15), pieces=14)
    return {"pa": union(pulmonary, blend=6), "ao": aorta}


def _unlabelled_vessels(
    place: Callable[[np.ndarray], np.ndarray], atrium: np.ndarray
) -> list[tuple[str, Shape]]:
    """Aortic arch and descending aorta, and both venae cavae, which enter the right atrium at `atrium`.

    `place` moves points relative to the heart's centre to the heart of this patient. Away from the heart,
    the vessels follow the spine.
    """
    level = place(np.zeros((1, 3)))[0, 2]
    arch = place(np.array([[4, -10, 91], [-8, -30, 94]]))
    down = [[-26, trunk.SPINE_Y + 12, level + z] for z in (55, 20, -60, -160)]
    upper = [atrium + [0, 0, 18], atrium + [-2, -4, 50], [26, 8, level + 130]]
    lower = [atrium + [0, 0, -18], atrium + [-4, -6, -50], [24, 0, level - 130]]
    return [
        ("ao", tube(np.concatenate([arch, down]), [14, 13, 12, 12, 11, 11], pieces=18)),
        ("cava", tube(upper, [11, 9.5, 9], pieces=6)),
        ("cava", tube(lower, [12, 13, 13], pieces=6)),
    ]


def chest(rng: np.random.Generator, pose: np.ndarray, modality: str) -> Scene:
    """One patient; `modality` is "ct" (HU) or "mr" (arbitrary units), `pose` as in `Scene`."""
    tissue = trunk.CT if modality == "ct" else trunk.MR
    bright = rng.uniform(0.95, 1.05)
    blood = {name: bright * (value + rng.normal(0, 7)) for name, value in BLOOD[modality].items()}
    body = trunk.Body(rng)
    heart, sac = _heart(Jitter(rng))
    centre = np.asarray(HEART_CENTRE) + rng.uniform(-12, 12, 3)
    matrix, scale = rotation(rng.uniform(-25, 25, 3)), rng.uniform(0.82, 1.18)

    def place(shape: Shape) -> Shape:
        return placed(shape, matrix, scale=scale, shift=centre)

    under = trunk.dome(centre[2] - 42 + rng.uniform(-8, 8))
    sac = place(sac)
    layers = _chest_layers(rng, body, tissue, under, sac)
    layers += _lung_vessels(rng, body, centre, (blood["pa"] + tissue.muscle) / 2)
    fatty = (sac, *(grown(place(heart[name]), 8) for name in ("ao", "pa")))
    layers += [Layer(shape, ((0, tissue.fat),), grain=8) for shape in fatty]
    liver = within(body.cavity(-2), under, gap=4)
    layers += [Layer(liver, ((0, 105.0 if modality == "ct" else 225.0),), grain=8)]
    others = _unlabelled_vessels(
        lambda points: points @ (scale * matrix.T) + centre, place(heart["ra"]).bounds.mean(0)
    )
    layers += [Layer(vessel, ((0, blood[name]),)) for name, vessel in others]
    for name, shape in heart.items():
        wall = None if name == "lv" else (1.0 if name == "myo" else 2.5, blood["wall"])
        layers.append(Layer(place(shape), ((0, blood[name]),), CODES[name], grain=6, wall=wall))
    warp = Warp(rng, 3.0, (100, 240))
    return Scene(layers, tissue.air, pose, warp, grain_seed=int(rng.integers(2**31)))


def _chest_layers(
    rng: np.random.Generator, body: trunk.Body, tissue: trunk.Tissues, under: Shape, sac: Shape
) -> list[Layer]:
    """The chest wall, the bones, and the lungs on both sides of the mediastinum."""
    phase = rng.uniform(0, trunk.VERTEBRA_MM)
    bone = ((0, tissue.cortex), (3, tissue.marrow))
    sternum = np.array([[0, 92, 110], [0, 98, 170], [0, 92, 260]]) * [1, body.girth, 1]
    back, front = ellipsoid((0, -40, 160), (36, 40, 400)), ellipsoid((0, 85, 200), (26, 40, 200))
    return [
        *trunk.wall(body, tissue),
        Layer(trunk.ribs(body, phase), bone),
        Layer(tube(sternum, [8, 11, 12]), bone),
        *trunk.spine(body, tissue, phase),
        *trunk.lungs(body, under, tissue, union((back, front, sac), blend=16)),
    ]


def _lung_vessels(
    rng: np.random.Generator, body: trunk.Body, centre: np.ndarray, value: float
) -> list[Layer]:
    """Vessels that branch from both hila."""
    layers = []
    for side in (-1, 1):
        hilum = centre + [14 + side * 48, -34, 30]
        for _ in range(12):
            along = rng.normal(0, 1, 3) * [0.5, 1, 1] + [side * 0.8, 0, 0]
            along *= rng.uniform(45, 75) / np.linalg.norm(along)
            path = np.stack([hilum, hilum + along / 2 + rng.normal(0, 6, 3), hilum + along])
            vessel = tube(path, [4.5, 3, 1.5], pieces=5)
            layers.append(Layer(within(vessel, body.cavity(-3)), ((0, value),)))
    return layers
