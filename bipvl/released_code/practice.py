"""Rows 16, 17 and 18: what it costs, where it runs, whether it can be installed."""

import ast
import importlib
import json
import pkgutil
import re
import tempfile
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import bipvl
from bipvl.common.errors import BipvlError
from bipvl.engine.predict import make_predictor, predict_volume
from bipvl.engine.variants import get_variant
from bipvl.model.text import load_backbone

from .finding import Proof
from .tiny import TEXT, network, quiet, texts, tokens, volume

SCAN, CROP, OVERLAP = (240, 240, 200), (96, 96, 96), 0.75
FULL_TEXT = TEXT | {"num_hidden_layers": 12}
FULL_VISION = {"depths": (1, 1, 1, 1), "num_heads": (2, 4, 4, 4)}
"""Twelve text layers over four stages, as in the paper: what is counted does not depend on widths."""


def prompts_read_again() -> Proof:
    """Row 16: the share of a forward that depends on the prompts alone."""
    windows = windows_of(SCAN)
    released, right = count_text_work("released", windows), count_text_work("paper", windows)
    return Proof(
        row=16,
        what="prompts are re-read, re-tokenised and re-encoded at every forward, also for every window; an "
        "unused output head at each call; query, key and value computed twice",
        released=f"a scan of {' × '.join(map(str, SCAN))} voxels has {windows} windows at overlap "
        f"{OVERLAP}; {released['passes']:.0f} text passes of {len(texts())} sequences a forward; for the "
        f"scan {released['tokenised']:,.0f} tokeniser calls and {released['layers']:,.0f} sequences through "
        "a text layer",
        right="tokens, the text layers below the first fusion and its first queries are computed once: "
        f"{right['tokenised']:,.0f} tokeniser calls, {right['layers']:,.0f} sequences through a layer (the "
        "layers that have met the image must run for each window)",
        difference=f"{released['layers'] / right['layers']:.0f} times the text work a scan; the paper's "
        "preset also holds title and concepts in one sequence",
        quoted="294 windows, 7 passes; 96³, AMOS prompts, 2 CPU cores: forward 44.1 s, of which concept "
        "passes 12.1 and full text 7.9, MONAI's SwinUNETR-V2 alone 13.9 s; training step 108.7 s and 14.8 "
        "GB against 43.8 s and 4.9 GB",
        shown_on="counted in a network of 12 text layers and 4 stages with the heart's prompts; our preset "
        "`released` computes the same seven passes in two batches, and has neither the unused head nor the "
        "double projections",
        measured={
            "windows": windows,
            "passes": released["passes"],
            **{f"{name}_released": value for name, value in released.items()},
            **{f"{name}_right": value for name, value in right.items()},
            "ratio": released["layers"] / right["layers"],
        },
    )


def windows_of(size: tuple[int, int, int]) -> int:
    """How often inference calls the network for a scan: counted, with a network that does nothing."""
    calls = []

    def predictor(window: Tensor) -> Tensor:
        calls.append(1)
        return window

    image = torch.zeros(1, *size)
    predict_volume(predictor, image, crop=CROP, overlap=OVERLAP, at_once=1, device=torch.device("cpu"))
    return len(calls)


@torch.no_grad()
def count_text_work(preset: str, windows: int) -> dict[str, float]:
    """Text passes of a forward, and tokeniser calls and sequences through a layer for so many windows.

    Work that is done once and work for each window are counted apart, the latter on one window. The preset
    ``released`` runs its whole forward.
    """
    model = network(preset, text_config=FULL_TEXT, **FULL_VISION)
    work = {"embedded": 0, "layers": 0}

    def count(name: str) -> Any:
        def hook(_: Any, inputs: tuple[Tensor, ...], __: Any) -> None:
            work[name] += len(inputs[0])

        return hook

    model.text.embeddings.register_forward_hook(count("embedded"))
    for layer in (layer for stage in model.text.stages for layer in stage):
        layer.register_forward_hook(count("layers"))
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


def other_settings() -> Proof:
    """Row 17: other batches, crops, widths and text encoders; a checkpoint of another family."""
    runs = {name: runs_with(**setting) for name, setting in SETTINGS.items()}
    random, total, told = distilbert_as_bert()
    return Proof(
        row=17,
        what="batch > 1, crop ≠ 96, feature size ≠ 48, CPU and the text encoder `bert` crash; a DistilBERT "
        "checkpoint loads without an error",
        released="a DistilBERT file under a BERT config, by transformers alone: a line in its log and no "
        f"error, {random} of {total} tensors random (the crashes are not rebuilt in our preset)",
        right=f"runs: {'; '.join(name for name, ok in runs.items() if ok)}; the DistilBERT file: {told}",
        difference="other settings cannot be tried in the release, and a text encoder may be random "
        "unnoticed",
        quoted="204 of 207 tensors random",
        shown_on="small networks on the CPU; the checkpoint: a random one of small width, 12 layers under "
        "the config",
        measured={
            "runs": sum(runs.values()),
            "settings": len(runs),
            "random": random,
            "tensors": total,
            "told": bool(told),
        },
    )


SETTINGS: dict[str, dict[str, Any]] = {
    "batch 2": {"batch": 2},
    "crop 40 × 24 × 16": {"size": (40, 24, 16)},
    "feature size 24": {"feature_size": 24},
    "three stages": {"depths": (1, 1, 1), "num_heads": (2, 4, 4), "size": (32, 16, 16)},
    "DistilBERT": {
        "text_config": {
            "model_type": "distilbert",
            **{name: TEXT[name] for name in ("vocab_size", "max_position_embeddings")},
            **{"dim": 32, "n_layers": 4, "n_heads": 2, "hidden_dim": 48},
        }
    },
}
"""What is changed → of a small network with a BERT on the CPU."""


@torch.no_grad()
def runs_with(*, batch: int = 1, size: tuple[int, ...] = (24, 24, 16), **changes: Any) -> bool:
    """Whether a network so changed gives finite logits of the image's shape."""
    logits = network(**changes)(volume(batch, size=size), tokens()).logits
    return logits.shape == (batch, len(texts()) + 1, *size) and bool(logits.isfinite().all())


def distilbert_as_bert() -> tuple[int, int, str]:
    """Random and all tensors of a BERT that transformers makes of a DistilBERT file; what bipvl says."""
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
            told = ""
        except BipvlError as error:
            told = "`BipvlError`: " + str(error).replace(f" {folder}", "").partition(", and")[0]
    return len(info["missing_keys"]), len(model.state_dict()), told


def installable() -> Proof:
    """Row 18: what can be said of this package; the release's own faults cannot be run."""
    modules, packages, private = import_everything(), declared_packages(), private_paths()
    return Proof(
        row=18,
        what="a syntax error in the network's file, four network files and a patched inferer not shipped, "
        "installation by copying into site-packages, requirements that do not resolve, private paths",
        released="not run: it cannot be, as it stands; these faults were read in its files",
        right=f"all {modules} modules of bipvl import; its {packages} declared dependencies are installed; "
        f"{len(private)} private paths in its sources",
        difference="the release cannot be run without repairs; this package imports whole and needs what "
        "it declares",
        quoted="23 private paths",
        shown_on="this installation of bipvl; of the release nothing",
        measured={"modules": modules, "packages": packages, "private_paths": len(private)},
    )


def import_everything() -> int:
    """Imports every module of the package; returns how many."""
    names = [m.name for m in pkgutil.walk_packages(bipvl.__path__, "bipvl.")]
    for name in names:
        importlib.import_module(name)
    return len(names)


def declared_packages() -> int:
    """How many dependencies the installed package declares; raises where one is not installed."""
    # Of several records of an installation the fullest: in a checkout an unfinished one may lie beside it.
    lines = max((found.requires or [] for found in distributions(name="bipvl")), key=len, default=[])
    core = [line for line in lines if "extra ==" not in line]
    for line in core:
        version(re.match(r"[\w.-]+", line)[0])
    return len(core)


def private_paths() -> list[str]:
    """Texts in the package's sources that begin like a path of one machine."""
    begins = re.compile(r"(?!/(proc|dev|etc|tmp)/)(/[\w.-]+){2,}|[A-Za-z]:\\|~/")  # but for any Linux's own
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
