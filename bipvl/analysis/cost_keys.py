"""Which variants have the same cost: found from their settings, without torch, so that plans are quick."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bipvl.data.spec import DatasetSpec
from bipvl.engine.checksums import json_checksum, sha256
from bipvl.engine.variants import Variant
from bipvl.model.text_sources import assumed_config, config_file, source_path

NO_COST = {"easy_negatives", "weights_over_classes", "doubled_penalty", "rising_rate"}
NO_COST |= {"erasing_fusion", "repeated_octants"}
"""Deviations that change no count: of the objective and the training, a missing sum, other voxels."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of a variant in training; a multiplication and an addition are two operations.

    Attributes:
        parameters, trained: all parameters of the network, and those that are trained.
        forward: floating-point operations of a training step's forward pass.
        step: of the whole training step: forward, backward, and recomputation with activation checkpointing.
        memory_gib: estimated peak of a training step (``bipvl.analysis.costs.training_memory``).
        stand_in: what was counted instead of a text encoder that is not on this machine; "" if nothing.
    """

    parameters: int
    trained: int
    forward: float
    step: float
    memory_gib: float
    stand_in: str


def cost_key(variant: Variant, spec: DatasetSpec, settings: Mapping[str, Any]) -> str:
    """A key that is equal for variants of equal cost, which differ only in objective, prompts or cases.

    It changes with this package's networks and with the versions of torch, MONAI and transformers.
    """
    if variant.language:
        arguments = settings["language"] | variant.options
        arguments["text"] = _text_key(arguments["text"])
        if arguments.pop("text_weights", "") == "bag_of_words":
            arguments["text"] += " without layers"
        arguments["deviations"] = sorted({*variant.deviations} - NO_COST)
        arguments["num_classes"] = spec.num_classes
    else:
        arguments = {"network": variant.network or variant.name}
    shared = {key: settings[key] for key in ("crop", "network")}
    shared |= {key: settings["training"][key] for key in ("batch_size", "checkpointing")}
    return json_checksum([arguments, len(spec.channels), spec.out_channels, shared, _version()])


def _text_key(text: str) -> str:
    """Equal for text encoders with the same config; one that is not on this machine has an assumed one."""
    config = config_file(text)
    return sha256(config) if config and config.is_file() else assumed_config(source_path(text))


@cache
def _version() -> list[str]:
    here = Path(__file__)
    sources = [here, here.with_name("costs.py"), *sorted(here.parents[1].glob("model/*.py"))]
    packages = [f"{name} {version(name)}" for name in ("torch", "monai", "transformers")]
    return [*packages, *map(sha256, sources)]
