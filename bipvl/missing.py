"""What a profile's studies need and is not at hand: data, text encoders, others' predictions."""

from collections.abc import Iterable
from pathlib import Path

from bipvl.data.layouts import list_cases
from bipvl.data.spec import load_spec
from bipvl.errors import BipvlError
from bipvl.experiments import Experiments, Study
from bipvl.model.text import REVISIONS, source_path
from bipvl.runs import get_profile
from bipvl.variants import VARIANTS

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files of a text encoder, either of which will do."""


def missing(experiments: Experiments, studies: Iterable[Study], data_root: str | Path | None) -> list[str]:
    """What the studies need and is not at hand, a sentence each."""
    studies, profile = list(studies), experiments.profile
    datasets = [d for d in experiments.datasets if any(d in s.datasets for s in studies)]
    return [
        *_missing_data(datasets, profile, data_root),
        *_missing_text(profile, {variant for study in studies for variant in study.variants}),
        *(
            f"external '{other.name}': {other.folder} is not a folder; put its predictions there"
            for other in {other.name: other for study in studies for other in study.external}.values()
            if not other.folder.is_dir()
        ),
    ]


def _missing_data(datasets: list[str], profile: str, data_root: str | Path | None) -> list[str]:
    if data_root is None:
        if "cohort" in get_profile(profile):
            return []  # made when it is needed
        folders = ", ".join(load_spec(name).folder for name in datasets)
        return [f"data: no DATA_ROOT is given; it must hold {folders}"]
    told = []
    for name in datasets:
        try:
            list_cases(load_spec(name), data_root)
        except BipvlError as error:
            told.append(f"data: {error}")
    return told


def _missing_text(profile: str, variants: Iterable[str]) -> list[str]:
    """The text encoders that are neither on this machine nor on a hub that can be reached."""
    default = get_profile(profile)["language"]["text"]
    sources = {VARIANTS[v].options.get("text", default) for v in variants if VARIANTS[v].language}
    told, unreachable = [], ""
    for text in sorted(sources):
        try:
            path = source_path(text)
            if _at_hand(path) or (not unreachable and _on_hub(path)):
                continue
        except BipvlError as error:  # the packaged one is not installed
            told.append(f"text encoder: {error}")
            continue
        except Exception as error:  # no network, a proxy that refuses, HF_HUB_OFFLINE: each its own kind
            unreachable = f"the hub cannot be reached ({type(error).__name__})"
        told.append(f"text encoder: {path} is not on this machine, and {unreachable or 'not on the hub'}")
    return told


def _at_hand(path: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    cached = (try_to_load_from_cache(path, name, revision=REVISIONS.get(path)) for name in WEIGHTS)
    return Path(path).is_dir() or any(isinstance(file, str) for file in cached)


def _on_hub(path: str) -> bool:
    from huggingface_hub import file_exists

    return any(file_exists(path, name, revision=REVISIONS.get(path)) for name in WEIGHTS)
