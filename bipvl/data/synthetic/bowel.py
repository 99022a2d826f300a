"""Large and small bowel: they have no label, but make an abdomen harder to segment."""

import numpy as np

from bipvl.data.synthetic.rendering import Layer
from bipvl.data.synthetic.shapes import Ripples, Shape, tube, wavy, within
from bipvl.data.synthetic.trunk import Body

COLON = (
    np.array([[98, -12, -112], [104, -20, -70], [100, -14, -34], [94, 6, -14]]),
    np.array([[94, 10, -14], [56, 62, -26], [0, 72, -34], [-54, 60, -14], [-96, 6, 16]]),
    np.array([[-98, 0, 14], [-108, -22, -30], [-106, -24, -80], [-92, -8, -118]]),
    np.array([[-92, -8, -118], [-56, 18, -132], [-30, -20, -118], [-14, -52, -112]]),
)


def bowel_layers(rng: np.random.Generator, body: Body, under: Shape) -> list[Layer]:
    """Loops of small bowel, framed by the colon with its haustra, stool and gas (HU)."""
    limit = body.cavity(-2)
    layers = [_small_bowel(rng, limit) for _ in range(14)]
    for path in COLON:
        bent = path + np.concatenate([np.zeros((1, 3)), rng.normal(0, 7, (len(path) - 1, 3))])
        colon = tube(bent, rng.uniform(17, 25, len(path)), pieces=12)
        haustra = wavy(colon, Ripples(rng, 5.0, (22, 36)))
        shape = within(within(haustra, limit, blend=6), under, gap=4)
        layers.append(Layer(shape, ((0, 55), (3.5, rng.uniform(-260, -60))), grain=120))
    return layers


def _small_bowel(rng: np.random.Generator, limit: Shape) -> Layer:
    start = np.array([rng.uniform(-75, 75), rng.uniform(15, 72), rng.uniform(-125, -35)])
    turns = rng.normal(0, 1, (4, 3)) * [34, 16, 20]
    loop = tube(start + np.concatenate([np.zeros((1, 3)), turns]), rng.uniform(10, 14, 5), pieces=12)
    filling = -650.0 if rng.random() < 0.3 else rng.uniform(270, 350)  # gas, or oral contrast medium
    return Layer(within(loop, limit, blend=4), ((0, 60), (2.5, filling)), grain=14)
