"""What a variant costs, without running it: parameters, operations and memory, counted on the meta device."""

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
from bipvl.engine.checksums import digest, sha256
from bipvl.engine.variants import Variant, bipvlseg_arguments, build_network, prompt_texts
from bipvl.model.deviations import departures

GIB = 2**30
FLOAT = 4
"""Bytes of a number in single precision, in which weights, gradients and the optimiser are kept."""

BACKWARD = 2
"""What a backward pass takes, in forward passes: each product has two there, one a factor. A little too much
where weights are frozen. Torch's own count of it is several times too high for convolutions in groups."""

NO_COST = {"easy_negatives", "weights_over_classes", "doubled_penalty", "rising_rate"}
NO_COST |= {"erasing_fusion", "repeated_octants"}
"""Departures that change no count: those of objective and training, a sum left out, other voxels read."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Operations are floating-point operations, a multiplication and its addition being two.

    Attributes:
        parameters, trained: all numbers of the network, and those that an optimiser changes.
        forward: operations of a training step's forward pass.
        step: of all of a training step: forward, backward, activation checkpointing's second forward pass.
        memory_gib: estimated peak of a training step (:func:`training_memory`).
        stand_in: what was counted in place of a text encoder that is not on this machine; "" if nothing.
    """

    parameters: int
    trained: int
    forward: float
    step: float
    memory_gib: float
    stand_in: str


def measure(variant: Variant, spec: DatasetSpec, settings: Mapping[str, Any]) -> Cost:
    """Count a variant on a dataset at a profile's settings (``runs.dataset_settings``); needs no weights."""
    from bipvl.engine.train import Learner, make_objective

    network, stand_in = empty_network(variant, spec, settings)
    learner = Learner(network=network, objective=make_objective(variant, spec)).to("meta").train()
    prompts = network.static_prompts(prompt_texts(variant, spec)) if variant.language else None
    volume, target = _batch(spec, settings)
    with Operations() as counted, watched(network, counted) as seen:
        learner(volume, target, prompts)
    checkpointing = settings["training"]["checkpointing"]
    return Cost(
        parameters=sum(p.numel() for p in network.parameters()),
        trained=_trained(network),
        forward=counted.total,
        step=(1 + BACKWARD) * counted.total + (seen.recomputed if checkpointing else 0),
        memory_gib=training_memory(learner, seen, checkpointing),
        stand_in=stand_in,
    )


def window_operations(variant: Variant, spec: DatasetSpec, settings: Mapping[str, Any]) -> float:
    """Operations of the prediction of one window, the prompts being encoded already."""
    network, _ = empty_network(variant, spec, settings)
    network.to("meta").eval()
    volume, _ = _batch(spec, settings)
    with torch.no_grad():
        state = (network.encode_prompts(prompt_texts(variant, spec)),) if variant.language else ()
        with Operations() as counted:
            network.predict(volume[:1], *state)
    return counted.total


class Operations(TorchDispatchMode):
    """Counts floating-point operations by torch's own formulas, in less time than its FlopCounterMode, which
    also notes to which module each belongs."""

    total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **kwargs or {})
        if formula := flop_registry.get(function.overloadpacket):
            self.total += formula(*args, **kwargs or {}, out_val=result)
        return result


def alike(variant: Variant, spec: DatasetSpec, settings: Mapping[str, Any]) -> str:
    """A key that variants share which cost the same: they differ in objective, prompts' words or cases.

    Of another version of this package's networks, or of torch, it is another.
    """
    if variant.language:
        arguments, _ = _with_text_config(bipvlseg_arguments(variant, spec, settings))
        arguments["preset"] = sorted(departures(variant.preset) - NO_COST)
    else:
        arguments = {"network": variant.network or variant.name, "channels": len(spec.channels)}
        arguments |= {"classes": spec.out_channels}
    shared = {key: settings[key] for key in ("crop", "network")}
    shared |= {key: settings["training"][key] for key in ("batch_size", "checkpointing")}
    return digest([arguments, shared, _version()])


@cache
def _version() -> list[str]:
    package = Path(__file__).parents[1]
    sources = [Path(__file__), *sorted((package / "model").glob("*.py"))]
    packages = [f"{name} {version(name)}" for name in ("torch", "monai", "transformers")]
    return [*packages, *(sha256(path) for path in sources)]


def empty_network(variant: Variant, spec: DatasetSpec, settings: Mapping[str, Any]) -> tuple[nn.Module, str]:
    """A variant's network whose parameters have shapes and no values, and its text encoder's stand-in."""
    from accelerate import init_empty_weights

    from bipvl.model.bipvlseg import BiPVLSeg
    from bipvl.model.text import OFFLINE, load_tokenizer

    with init_empty_weights():
        if not variant.language:
            return build_network(variant, spec, settings), ""
        arguments, stand_in = _with_text_config(bipvlseg_arguments(variant, spec, settings))
        network = BiPVLSeg(**arguments)
    network.tokenizer = load_tokenizer(OFFLINE)  # BERT's word pieces: about as many as any other's
    return network, stand_in


def _with_text_config(arguments: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Arguments of ``BiPVLSeg.create`` → of ``BiPVLSeg`` itself, and what stands in for the text encoder."""
    from bipvl.model.text import text_config

    text, weights = arguments.pop("text"), arguments.pop("text_weights", "pretrained")
    config, stand_in = text_config(text)
    if weights == "bag_of_words":
        config |= {"num_hidden_layers": 0, "n_layers": 0}
    return arguments | {"text_config": config}, stand_in


def _batch(spec: DatasetSpec, settings: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """A volume and its target, without values."""
    batch, crop = settings["training"]["batch_size"], settings["crop"]
    labels = spec.out_channels if spec.overlapping else 1
    return (
        torch.empty(batch, len(spec.channels), *crop, device="meta"),
        torch.empty(batch, labels, *crop, device="meta"),
    )


def _trained(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@dataclass
class Seen:
    """What a forward pass leaves for the backward pass, in bytes by storage, parameters not counted.

    Attributes:
        inside: within each block that checkpointing would recompute.
        outside: all else, the inputs of these blocks among it.
        recomputed: operations of these blocks.
    """

    outside: dict[int, int] = field(default_factory=dict)
    inside: list[dict[int, int]] = field(default_factory=list)
    recomputed: float = 0


@contextmanager
def watched(network: nn.Module, counted: Operations) -> Iterator[Seen]:
    """Watch the forward passes of a network; a pass must not have begun, and no block lie in another."""
    from bipvl.model.checkpointing import BLOCKS

    seen, own = Seen(), {p.untyped_storage()._cdata for p in network.parameters()}
    current = seen.outside

    def note(tensor: Any, place: dict[int, int] | None = None) -> Any:
        if isinstance(tensor, Tensor):
            storage = tensor.untyped_storage()
            if storage._cdata not in own and storage._cdata not in seen.outside:
                (current if place is None else place)[storage._cdata] = storage.nbytes()
        return tensor

    def enter(block: nn.Module, inputs: tuple) -> None:
        nonlocal current
        for tensor in inputs:
            note(tensor, seen.outside)
        current = {}
        seen.inside.append(current)
        seen.recomputed -= counted.total

    def leave(block: nn.Module, inputs: tuple, output: Any) -> None:
        nonlocal current
        current = seen.outside
        seen.recomputed += counted.total

    blocks = [module for module in network.modules() if isinstance(module, BLOCKS)]
    hooks = [h for b in blocks for h in (b.register_forward_pre_hook(enter), b.register_forward_hook(leave))]
    try:
        with _FusedAttention(note), saved_tensors_hooks(note, lambda tensor: tensor):
            yield seen
    finally:
        for hook in hooks:
            hook.remove()


class _FusedAttention(TorchFunctionMode):
    """Attention saves what the fused kernels save: inputs and output, and never its matrix.

    On the meta device torch takes the plain kernel, which is taken nowhere else.
    """

    def __init__(self, note: Callable[[Any], Any]) -> None:
        super().__init__()
        self.note = note

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not F.scaled_dot_product_attention:
            return function(*args, **kwargs or {})
        with saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):  # the innermost alone count
            output = function(*args, **kwargs or {})
        for tensor in (*args, *(kwargs or {}).values(), output):
            self.note(tensor)
        return output


def training_memory(learner: nn.Module, seen: Seen, checkpointing: bool) -> float:
    """GiB at the peak of a training step, an estimate: weights, gradients, AdamW's two moments, activations.

    With checkpointing the activations of blocks are those of the largest one, since one at a time is
    recomputed. All in single precision (mixed precision needs less); what lives for one operation only, the
    allocator's gaps and the libraries themselves are left out (they need more).
    """
    numbers = sum(p.numel() for p in learner.parameters()) + 3 * _trained(learner)
    blocks = [sum(block.values()) for block in seen.inside]
    activations = max(blocks, default=0) if checkpointing else sum(blocks)
    return (FLOAT * numbers + sum(seen.outside.values()) + activations) / GIB
