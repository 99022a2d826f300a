"""The cost of a variant without running it: parameters, operations and memory, on the meta device."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from bipvl.analysis.cost_keys import Cost
from bipvl.data.spec import DatasetSpec
from bipvl.engine.build import bipvlseg_arguments, build_network, build_objective
from bipvl.engine.variants import Variant, prompt_texts

BACKWARD = 2
"""Operations of a backward pass, in forward passes: each product has two, one for each factor. This is
slightly too high with frozen weights. Torch's own count is several times too high for grouped
convolutions."""


def measure(variant: Variant, spec: DatasetSpec, settings: Mapping[str, Any]) -> Cost:
    """Count a variant on a data set with a profile's settings (``dataset_settings``); needs no weights."""
    network, stand_in = empty_network(variant, spec, settings)
    objective = build_objective(variant, spec)
    learner = nn.ModuleList([network, objective]).to("meta").train()
    prompts = network.training_prompts(prompt_texts(variant, spec)) if variant.language else None
    volume, target = _batch(spec, settings)
    with Operations() as counted, record_activations(network, counted) as activations:
        objective(network(volume, prompts), target)
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

    Faster than torch's FlopCounterMode, which also records the module of each operation: on the meta device,
    what an operation makes of the same shapes is looked up, because torch works it out slowly in Python.
    """

    total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _changes_only_values(function) and args[0].is_meta:
            return args[0]
        key = _signature((function, args, *kwargs.items())) if _is_function_of_shapes(function) else None
        if key in _KNOWN:
            operations, made = _KNOWN[key]
            self.total += operations
            return made.empty() if isinstance(made, _Layout) else tuple(one.empty() for one in made)
        result = function(*args, **kwargs)
        formula = flop_registry.get(function.overloadpacket)
        operations = formula(*args, **kwargs, out_val=result) if formula else 0
        self.total += operations
        if key is not None and (made := _layouts(result, args)):
            _KNOWN[key] = operations, made
        return result


class _Layout(NamedTuple):
    """What there is to know of a tensor on the meta device that shares no memory with another."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def empty(self) -> Tensor:
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device="meta")


_KNOWN: dict[tuple, tuple[float, _Layout | tuple[_Layout, ...]]] = {}
"""Operation and arguments → number of floating-point operations, and what the operation returns."""


@cache
def _changes_only_values(function: Any) -> bool:
    """Whether an operation, such as ``relu_``, writes into its first argument, which keeps its shape."""
    return function._schema.name.endswith("_") and torch.Tag.inplace_view not in function.tags


@cache
def _is_function_of_shapes(function: Any) -> bool:
    """Whether an operation changes no argument and returns new tensors only."""
    schema = function._schema
    shares_memory = any(value.alias_info for value in (*schema.arguments, *schema.returns))
    return not shares_memory and {str(value.type) for value in schema.returns} == {"Tensor"}


def _signature(values: Iterable[Any]) -> tuple | None:
    """Hashable arguments, with tensors as their layouts; None if one is not on the meta device."""
    found: list[Any] = []
    for value in values:
        if isinstance(value, Tensor):
            if not value.is_meta:
                return None
            found += (tuple(value.shape), value.stride(), value.dtype)
        elif isinstance(value, list | tuple):
            parts = _signature(value)
            if parts is None:
                return None
            found.append(parts)
        else:
            found += (type(value), value)  # 1, 1.0 and True are equal
    return tuple(found)


def _layouts(result: Any, args: Sequence[Any]) -> _Layout | tuple[_Layout, ...] | None:
    """The layouts of an operation's results; None if one shares memory with an argument or has gaps."""
    if not isinstance(result, Tensor):
        found = tuple(_layouts(one, args) for one in result)
        return None if None in found else found
    tensors = [t for arg in args for t in (arg if isinstance(arg, list | tuple) else [arg])]
    taken = {t.untyped_storage()._cdata for t in tensors if isinstance(t, Tensor)}
    layout = _Layout(tuple(result.shape), result.stride(), result.dtype)
    size = layout.empty().untyped_storage().nbytes()
    alone = result.untyped_storage()._cdata not in taken and result.untyped_storage().nbytes() == size
    return layout if alone and result.is_meta else None


def empty_network(variant: Variant, spec: DatasetSpec, settings: Mapping[str, Any]) -> tuple[nn.Module, str]:
    """A variant's network with parameters that have shapes but no values, and its text encoder's stand-in."""
    from accelerate import init_empty_weights
    from transformers.initialization import no_init_weights

    from bipvl.model.released import network_class

    with init_empty_weights():
        if not variant.language:
            return build_network(variant, spec, settings), ""
        arguments, stand_in = _with_text_config(bipvlseg_arguments(variant, spec, settings))
        with no_init_weights():
            network = network_class(variant.deviations)(**arguments)
    network.tokenizer = _tokenizer()
    return network, stand_in


@cache
def _tokenizer() -> Any:
    """BERT's tokens: about as many as with other tokenizers."""
    from bipvl.model.text import load_tokenizer
    from bipvl.model.text_sources import OFFLINE

    return load_tokenizer(OFFLINE)


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
    """What a forward pass keeps for the backward pass, by the storages' addresses, without parameters.

    The storages themselves stay here: the address of one that is freed could become that of another.

    Attributes:
        outside: all except ``inside``; includes the inputs of the blocks.
        inside: within each block that checkpointing would recompute.
        recomputed: operations of these blocks.
    """

    outside: dict[int, torch.UntypedStorage] = field(default_factory=dict)
    inside: list[dict[int, torch.UntypedStorage]] = field(default_factory=list)
    recomputed: float = 0


@contextmanager
def record_activations(network: nn.Module, counted: Operations) -> Iterator[Activations]:
    """Record what a network's forward passes inside the context keep; blocks must not be nested."""
    from bipvl.model.checkpointing import BLOCKS

    activations, weights = Activations(), {p.untyped_storage()._cdata for p in network.parameters()}
    current = activations.outside

    def record(tensor: Any, into: dict[int, torch.UntypedStorage] | None = None) -> Any:
        if isinstance(tensor, Tensor):
            storage = tensor.untyped_storage()
            if storage._cdata not in weights and storage._cdata not in activations.outside:
                (current if into is None else into)[storage._cdata] = storage
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
    blocks = [_bytes(block) for block in activations.inside]
    inside = max(blocks, default=0) if checkpointing else sum(blocks)
    return (4 * numbers + _bytes(activations.outside) + inside) / 2**30


def _bytes(storages: Mapping[int, torch.UntypedStorage]) -> int:
    return sum(storage.nbytes() for storage in storages.values())
