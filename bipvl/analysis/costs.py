"""The cost of a variant without running it: parameters, operations and memory, on the meta device."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from bipvl.data.spec import DatasetSpec
from bipvl.engine.build import bipvlseg_arguments, build_network
from bipvl.engine.checksums import json_checksum, sha256
from bipvl.engine.variants import Variant, prompt_texts

BACKWARD = 2
"""Operations of a backward pass, in forward passes: each product has two, one for each factor. This is
slightly too high with frozen weights. Torch's own count is several times too high for grouped
convolutions."""

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
        memory_gib: estimated peak of a training step (:func:`training_memory`).
        stand_in: what was counted instead of a text encoder that is not on this machine; "" if nothing.
    """

    parameters: int
    trained: int
    forward: float
    step: float
    memory_gib: float
    stand_in: str


def measure(variant: Variant, spec: DatasetSpec, settings: Mapping[str, Any]) -> Cost:
    """Count a variant on a data set with a profile's settings (``dataset_settings``); needs no weights."""
    from bipvl.engine.build import build_objective
    from bipvl.engine.train import Learner

    network, stand_in = empty_network(variant, spec, settings)
    learner = Learner(network=network, objective=build_objective(variant, spec)).to("meta").train()
    prompts = network.training_prompts(prompt_texts(variant, spec)) if variant.language else None
    volume, target = _batch(spec, settings)
    with Operations() as counted, record_activations(network, counted) as activations:
        learner(volume, target, prompts)
    checkpointing = settings["training"]["checkpointing"]
    return Cost(
        parameters=sum(p.numel() for p in network.parameters()),
        trained=_trained(network),
        forward=counted.total,
        step=(1 + BACKWARD) * counted.total + (activations.recomputed if checkpointing else 0),
        memory_gib=training_memory(learner, activations, checkpointing),
        stand_in=stand_in,
    )


def window_operations(variant: Variant, spec: DatasetSpec, settings: Mapping[str, Any]) -> float:
    """Operations to predict one window, with prompts that are already encoded."""
    network, _ = empty_network(variant, spec, settings)
    network.to("meta").eval()
    volume, _ = _batch(spec, settings)
    with torch.no_grad():
        state = (network.encode_prompts(prompt_texts(variant, spec)),) if variant.language else ()
        with Operations() as counted:
            network.predict(volume[:1], *state)
    return counted.total


class Operations(TorchDispatchMode):
    """Counts floating-point operations by torch's own formulas.

    Faster than torch's FlopCounterMode, which also records the module of each operation.
    """

    total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **kwargs or {})
        if formula := flop_registry.get(function.overloadpacket):
            self.total += formula(*args, **kwargs or {}, out_val=result)
        return result


def cost_key(variant: Variant, spec: DatasetSpec, settings: Mapping[str, Any]) -> str:
    """A key that is equal for variants of equal cost, which differ only in objective, prompts or cases.

    It changes with this package's networks and with the versions of torch, MONAI and transformers.
    """
    if variant.language:
        arguments, _ = _with_text_config(bipvlseg_arguments(variant, spec, settings))
        arguments["deviations"] = sorted({*variant.deviations} - NO_COST)
    else:
        arguments = [variant.network or variant.name, len(spec.channels), spec.out_channels]
    shared = {key: settings[key] for key in ("crop", "network")}
    shared |= {key: settings["training"][key] for key in ("batch_size", "checkpointing")}
    return json_checksum([arguments, shared, _version()])


@cache
def _version() -> list[str]:
    here = Path(__file__)
    sources = [here, *sorted(here.parents[1].glob("model/*.py"))]
    packages = [f"{name} {version(name)}" for name in ("torch", "monai", "transformers")]
    return [*packages, *map(sha256, sources)]


def empty_network(variant: Variant, spec: DatasetSpec, settings: Mapping[str, Any]) -> tuple[nn.Module, str]:
    """A variant's network with parameters that have shapes but no values, and its text encoder's stand-in."""
    from accelerate import init_empty_weights

    from bipvl.model.released import network_class
    from bipvl.model.text import OFFLINE, load_tokenizer

    with init_empty_weights():
        if not variant.language:
            return build_network(variant, spec, settings), ""
        arguments, stand_in = _with_text_config(bipvlseg_arguments(variant, spec, settings))
        network = network_class(variant.deviations)(**arguments)
    network.tokenizer = load_tokenizer(OFFLINE)  # BERT's tokens: about as many as with other tokenizers
    return network, stand_in


def _with_text_config(arguments: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Arguments of ``BiPVLSeg.create`` → of ``BiPVLSeg`` itself, and the stand-in for the text encoder."""
    from bipvl.model.text import text_config

    text, weights = arguments.pop("text"), arguments.pop("text_weights", "pretrained")
    config, stand_in = text_config(text)
    if weights == "bag_of_words":
        config |= {"num_hidden_layers": 0, "n_layers": 0}
    return arguments | {"text_config": config}, stand_in


def _batch(spec: DatasetSpec, settings: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """A volume B × M × H × W × D and its target, on the meta device."""
    batch, crop = settings["training"]["batch_size"], settings["crop"]
    channels = len(spec.channels), spec.out_channels if spec.overlapping else 1
    return tuple(torch.empty(batch, count, *crop, device="meta") for count in channels)


def _trained(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@dataclass
class Activations:
    """What a forward pass keeps for the backward pass, in bytes by storage, without parameters.

    Attributes:
        outside: all except ``inside``; includes the inputs of the blocks.
        inside: within each block that checkpointing would recompute.
        recomputed: operations of these blocks.
    """

    outside: dict[int, int] = field(default_factory=dict)
    inside: list[dict[int, int]] = field(default_factory=list)
    recomputed: float = 0


@contextmanager
def record_activations(network: nn.Module, counted: Operations) -> Iterator[Activations]:
    """Record what a network's forward passes inside the context keep; blocks must not be nested."""
    from bipvl.model.checkpointing import BLOCKS

    activations, weights = Activations(), {p.untyped_storage()._cdata for p in network.parameters()}
    current = activations.outside

    def record(tensor: Any, into: dict[int, int] | None = None) -> Any:
        if isinstance(tensor, Tensor):
            storage = tensor.untyped_storage()
            if storage._cdata not in weights and storage._cdata not in activations.outside:
                (current if into is None else into)[storage._cdata] = storage.nbytes()
        return tensor

    def enter(block: nn.Module, inputs: tuple) -> None:
        nonlocal current
        for tensor in inputs:
            record(tensor, activations.outside)
        current = {}
        activations.inside.append(current)
        activations.recomputed -= counted.total

    def leave(block: nn.Module, inputs: tuple, output: Any) -> None:
        nonlocal current
        current = activations.outside
        activations.recomputed += counted.total

    blocks = [module for module in network.modules() if isinstance(module, BLOCKS)]
    hooks = [h for b in blocks for h in (b.register_forward_pre_hook(enter), b.register_forward_hook(leave))]
    try:
        with _FusedAttention(record), saved_tensors_hooks(record, lambda tensor: tensor):
            yield activations
    finally:
        for hook in hooks:
            hook.remove()


class _FusedAttention(TorchFunctionMode):
    """Makes attention save what the fused kernels save: inputs and output, but not the attention matrix.

    The meta device is the only one on which torch does not use a fused kernel.
    """

    def __init__(self, record: Callable[[Any], Any]) -> None:
        super().__init__()
        self.record = record

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not F.scaled_dot_product_attention:
            return function(*args, **kwargs or {})
        with saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):  # the innermost hooks win
            output = function(*args, **kwargs or {})
        for tensor in (*args, *(kwargs or {}).values(), output):
            self.record(tensor)
        return output


def training_memory(learner: nn.Module, activations: Activations, checkpointing: bool) -> float:
    """Estimated peak of a training step, GiB: weights, gradients, AdamW's two moments, activations.

    With checkpointing only the largest block counts, since one block at a time is recomputed. A number has
    4 bytes (mixed precision needs less). Temporary tensors of single operations, gaps of the
    allocator and the libraries themselves are not included (they add to it).
    """
    numbers = sum(p.numel() for p in learner.parameters()) + 3 * _trained(learner)
    blocks = [sum(block.values()) for block in activations.inside]
    inside = max(blocks, default=0) if checkpointing else sum(blocks)
    return (4 * numbers + sum(activations.outside.values()) + inside) / 2**30
