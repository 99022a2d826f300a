"""Rows 16, 17 and 18: cost, supported settings, installation."""

import ast
import importlib
import json
import pkgutil
import re
import tempfile
from functools import partial
from importlib.metadata import distributions, version
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import bipvl
from bipvl.common.errors import BipvlError
from bipvl.engine.predict import make_predictor, predict_volume
from bipvl.engine.variants import get_variant
from bipvl.model.text import load_backbone

from .tiny import TEXT, network, quiet, texts, tokens, volume

SCAN, CROP, OVERLAP = (240, 240, 200), (96, 96, 96), 0.75
FULL_TEXT = TEXT | {"num_hidden_layers": 12}
FULL_VISION = {"depths": (1, 1, 1, 1), "num_heads": (2, 4, 4, 4)}
"""Twelve text layers over four stages, as in the paper: the counts do not depend on widths."""


def repeated_text_work() -> dict[str, Any]:
    """Row 16: the work per forward pass that depends on the prompts alone."""
    windows = windows_of(SCAN)
    released, right = (count_text_work(preset, windows) for preset in ("released", "paper"))
    return {
        "scan": " × ".join(map(str, SCAN)),
        "overlap": OVERLAP,
        "texts": len(texts()),
        "windows": windows,
        **{f"{name}_released": value for name, value in released.items()},
        **{f"{name}_right": value for name, value in right.items()},
        "ratio": released["layers"] / right["layers"],
    }


def windows_of(size: tuple[int, int, int]) -> int:
    """Number of network calls for a scan, counted with a network that does nothing."""
    calls = []

    def predictor(window: Tensor) -> Tensor:
        calls.append(1)
        return window

    image = torch.zeros(1, *size)
    predict_volume(predictor, image, crop=CROP, overlap=OVERLAP, at_once=1, device=torch.device("cpu"))
    return len(calls)


@torch.no_grad()
def count_text_work(preset: str, windows: int) -> dict[str, float]:
    """Text passes per forward, and tokeniser calls and sequences through a text layer for a whole scan.

    Work done once and work per window are counted separately, the latter on one window. The preset
    ``released`` repeats all work for each window.
    """
    model = network(preset, text_config=FULL_TEXT, **FULL_VISION)
    work = {"embedded": 0, "layers": 0}

    def count(name: str, _: Any, inputs: tuple[Tensor, ...], __: Any) -> None:
        work[name] += len(inputs[0])

    model.text.embeddings.register_forward_hook(partial(count, "embedded"))
    for layer in chain(*model.text.stages):
        layer.register_forward_hook(partial(count, "layers"))
    image = volume(size=(64, 32, 32))
    if preset == "released":
        once = dict.fromkeys(("tokenised", "layers"), 0)
        model(image, texts())
    else:
        predict = make_predictor(model, get_variant("bipvlseg"), texts())
        once = {"tokenised": model.tokenizer.calls, "layers": work["layers"]}
        predict(image)
    found = {"tokenised": model.tokenizer.calls, "layers": work["layers"]}
    total = {name: once[name] + windows * (found[name] - once[name]) for name in found}
    return total | {"passes": work["embedded"] / len(texts())}


def other_settings() -> dict[str, Any]:
    """Row 17: other batch sizes, crops, widths and text encoders; a checkpoint of another family."""
    working = [name for name, setting in SETTINGS.items() if runs_with(**setting)]
    runs = {"runs": len(working), "working": "; ".join(working), "settings": len(SETTINGS)}
    return runs | distilbert_as_bert()


SETTINGS: dict[str, dict[str, Any]] = {
    "batch 2": {"batch": 2},
    "crop 40 × 24 × 16": {"size": (40, 24, 16)},
    "feature size 24": {"feature_size": 24},
    "three stages": {"depths": (1, 1, 1), "num_heads": (2, 4, 4), "size": (32, 16, 16)},
    "DistilBERT": {
        "text_config": {"model_type": "distilbert", "vocab_size": 1024, "max_position_embeddings": 128}
        | {"dim": 32, "n_layers": 4, "n_heads": 2, "hidden_dim": 48},
    },
}
"""Name → what differs from a small network with a BERT on the CPU."""


@torch.no_grad()
def runs_with(*, batch: int = 1, size: tuple[int, ...] = (24, 24, 16), **changes: Any) -> bool:
    """Whether a network with these changes gives finite logits of the image's shape."""
    logits = network(**changes)(volume(batch, size=size), tokens()).logits
    return logits.shape == (batch, len(texts()) + 1, *size) and bool(logits.isfinite().all())


def distilbert_as_bert() -> dict[str, Any]:
    """A DistilBERT file loaded as BERT: random tensors and all tensors in transformers, and bipvl's error."""
    from transformers import AutoConfig, AutoModelForMaskedLM, BertForMaskedLM

    distilled = SETTINGS["DistilBERT"]["text_config"] | {"n_layers": 6}
    distilled_config = AutoConfig.for_model(**distilled)
    config = AutoConfig.for_model(**FULL_TEXT)
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(), quiet():
        AutoModelForMaskedLM.from_config(distilled_config).save_pretrained(folder)
        model, info = BertForMaskedLM.from_pretrained(folder, config=config, output_loading_info=True)
        Path(folder, "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
        try:
            load_backbone(folder)
            refusal = ""
        except BipvlError as error:
            refusal = "`BipvlError`: " + error.problem.replace(f" {folder}", "").partition(", and")[0]
    return {"random": len(info["missing_keys"]), "tensors": len(model.state_dict()), "refusal": refusal}


def installation() -> dict[str, Any]:
    """Row 18: what can be checked of this package; the release's own defects cannot be run."""
    modules, packages = import_everything(), declared_packages()
    return {"modules": modules, "packages": packages, "private_paths": len(private_paths())}


def import_everything() -> int:
    """Import every module of the package and return their number."""
    names = [m.name for m in pkgutil.walk_packages(bipvl.__path__, "bipvl.")]
    for name in names:
        importlib.import_module(name)
    return len(names)


def declared_packages() -> int:
    """Number of core dependencies of the installed package; raises if one is not installed."""
    # A checkout may contain a second, incomplete record of the installation: take the longest.
    lines = max((found.requires or [] for found in distributions(name="bipvl")), key=len, default=[])
    core = [line for line in lines if "extra ==" not in line]
    for line in core:
        version(re.match(r"[\w.-]+", line)[0])
    return len(core)


def private_paths() -> list[str]:
    """Strings in the package's sources that start like a path of one machine."""
    begins = re.compile(r"(?!/(proc|dev|etc|tmp)/)(/[\w.-]+){2,}|[A-Za-z]:\\|~/")  # except any Linux's own
    found = []
    for path in sorted(Path(bipvl.__path__[0]).rglob("*")):
        if path.suffix == ".py":
            tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            words = [n.value for n in tree if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        elif path.suffix in (".yaml", ".csv"):
            words = re.split(r"[\s\"',:]+", path.read_text(encoding="utf-8"))
        else:
            continue
        found += [f"{path.name}: {word}" for word in words if begins.match(word)]
    return found
