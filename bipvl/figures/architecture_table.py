"""The blocks of a network as a table, for its diagram. Everything is read from the modules."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call

from bipvl.common.errors import BipvlError
from bipvl.data.spec import DatasetSpec
from bipvl.engine.build import bipvlseg_arguments, build_network, build_objective
from bipvl.engine.variants import VARIANTS, Variant, prompt_texts
from bipvl.model.bipvlseg import BiPVLSeg
from bipvl.model.decoder import UnetrDecoder
from bipvl.model.encoders import ConvEncoder, VisionEncoder
from bipvl.model.losses import Objective
from bipvl.model.released import network_class
from bipvl.model.text import load_tokenizer
from bipvl.model.text_sources import OFFLINE

TEXT, FUSION, VISION, SKIPS, DECODER, OBJECTIVE = range(6)
"""Rows of the diagram, from top to bottom."""


@dataclass(frozen=True)
class Block:
    """A box of the diagram at (column, row). Stage n of an encoder is in column n + 1."""

    id: str
    kind: str
    title: str
    column: int
    row: int
    modules: Sequence[nn.Module] = field(default=(), repr=False)
    detail: str = ""
    shape: str = ""


def structural_network(variant: Variant, spec: DatasetSpec, settings: dict[str, Any]) -> tuple[BiPVLSeg, str]:
    """The untrained network of a variant with a profile's settings, and a note about a replaced text encoder.

    A text encoder that cannot be loaded is replaced by one of BERT-base size with random weights.

    Raises:
        BipvlError: the variant reads no prompts.
    """
    if not variant.language:
        problem = f"the variant '{variant.name}' reads no prompts"
        raise BipvlError(problem, "only a variant that reads prompts has a diagram; choose one")
    arguments = bipvlseg_arguments(variant, spec, settings)
    text, _ = arguments.pop("text"), arguments.pop("text_weights", None)
    try:
        return build_network(variant, spec, settings), ""
    except BipvlError:
        if text == OFFLINE:
            raise
    bert_base = {"model_type": "bert"}  # the defaults of this type
    network = network_class(variant.deviations)(text_config=bert_base, **arguments)
    network.tokenizer = load_tokenizer(OFFLINE)  # bert-base-uncased's vocabulary
    return network, f"{text} could not be loaded: a random encoder of BERT-base size replaces it."


def architecture_table(
    network: BiPVLSeg,
    spec: DatasetSpec,
    crop: Sequence[int],
    profile: str,
    *,
    variant: Variant = VARIANTS["bipvlseg"],
    note: str = "",
) -> pd.DataFrame:
    """One row per block of ``network`` and of its variant's objective; together they have all parameters.

    Columns profile, dataset, variant, crop, deviations, note (constant); id; kind (its lane, or input,
    head, loss); title; detail; column; row; shape (of the output for a crop of H × W × D voxels, without the
    batch; BiFusion: text; image); parameters; state (trained, frozen or empty); feeds (ids of the blocks that
    read the output, separated by ``;``). A BiFusion feeds the stages that feed it.

    Raises:
        BipvlError: the network has no tokenizer, or a universal head.
    """
    if network.head is not None:
        raise BipvlError("the universal head has no diagram", "choose a variant without it")
    prompts = prompt_texts(variant, spec)
    blocks = [
        Block("prompts", "input", "Prompts", 0, TEXT, shape=f"{len(prompts)} × {len(prompts[0])} texts"),
        Block("volume", "input", "Volume", 0, VISION, shape=_shape([len(spec.channels), *crop])),
        *_text_blocks(network),
        *(
            Block(f"fusion_{n}", "fusion", f"BiFusion {n}", n + 1, FUSION, [network.fusions[n - 1]])
            for n in sorted(network.fused_stages)
        ),
        *_vision_blocks(network.vision),
        *_decoder_blocks(network.decoder, network.vision.num_stages),
        *_head_blocks(network),
        *_loss_blocks(build_objective(variant, spec), network.vision.num_stages),
    ]
    shapes = _shapes(blocks, network, torch.empty(1, len(spec.channels), *crop, device="meta"), prompts)
    edges = [e for e in _edges(network) if e[1] in {block.id for block in blocks}]
    origin = {"profile": profile, "dataset": spec.name, "variant": variant.name, "crop": _shape(crop)}
    origin |= {"deviations": ";".join(sorted(variant.deviations)), "note": note}
    return pd.DataFrame(origin | _row(block, shapes, edges) for block in blocks)


def _row(block: Block, shapes: dict[str, str], edges: Iterable[tuple[str, str]]) -> dict[str, Any]:
    parameters = [p for module in block.modules for p in module.parameters()]
    trained = any(p.requires_grad for p in parameters)
    facts = {name: value for name, value in vars(block).items() if name != "modules"}
    return facts | {
        "shape": shapes.get(block.id, block.shape),
        "parameters": sum(p.numel() for p in parameters),
        "state": ("trained" if trained else "frozen") if parameters else "",
        "feeds": ";".join(target for source, target in edges if source == block.id),
    }


def _text_blocks(network: BiPVLSeg) -> Iterator[Block]:
    first = 1
    for n, stage in enumerate(network.text.stages):
        last = first + len(stage) - 1
        layers = f"layers {first}–{last}" if len(stage) > 1 else f"layer {last}" if len(stage) else "no layer"
        modules = [network.text.embeddings, *stage] if n == 0 else [*stage]
        yield Block(f"text_{n}", "text", f"Stage {n}", n + 1, TEXT, modules, layers)
        first = last + 1


def _vision_blocks(encoder: VisionEncoder) -> Iterator[Block]:
    """One block per stage, with the V2 convolution block after it (``bridge``), whose output BiFusion reads.

    Without BiFusion, the decoder reads the output before that block; the diagram does not show this.
    """
    stages = range(1, encoder.num_stages + 1)
    if isinstance(encoder, ConvEncoder):
        yield Block("vision_0", "vision", "Stem", 1, VISION, [encoder.stem], "stride 2")
        parts, depths = [[stage] for stage in encoder.stages], [len(stage) for stage in encoder.stages]
    else:
        swin = encoder.swin
        layers = [getattr(swin, f"layers{n}")[0] for n in stages]
        bridges = [[getattr(swin, f"layers{n}c")[0]] if swin.use_v2 else [] for n in stages]
        detail = "patch 2" + ", conv" * len(bridges[0])
        yield Block("vision_0", "vision", "Patches", 1, VISION, [swin.patch_embed, *bridges[0]], detail)
        parts = [[layer, *bridge] for layer, bridge in zip(layers, [*bridges[1:], []], strict=True)]
        depths = [len(layer.blocks) for layer in layers]
    for n, modules, depth in zip(stages, parts, depths, strict=True):
        detail = f"{depth} block{'s' if depth > 1 else ''}" + ", conv" * (len(modules) - 1)
        yield Block(f"vision_{n}", "vision", f"Stage {n}", n + 1, VISION, modules, detail)


def _decoder_blocks(decoder: UnetrDecoder, stages: int) -> Iterator[Block]:
    """Blocks of the decoder; those in column c have the grid of the encoder's block in that column."""
    for column, module in enumerate([decoder.input_block, *decoder.skip_blocks]):
        yield Block(f"skip_{column}", "decoder", "Skip", column, SKIPS, [module])
    yield Block("bottleneck", "decoder", "Bottleneck", stages + 1, DECODER, [decoder.bottleneck])
    for column, module in zip(reversed(range(stages + 1)), decoder.ups, strict=True):
        yield Block(f"up_{column}", "decoder", "Up", column, DECODER, [module])
    yield Block("logits", "decoder", "Logits", 0, OBJECTIVE, [decoder.out])


def _head_blocks(network: BiPVLSeg) -> Iterator[Block]:
    column, visual, text = network.vision.num_stages + 2, network.visual_projection, network.text_projection
    yield Block("class_head", "head", "Class head", column, DECODER, [network.class_head])
    yield Block("visual_projection", "head", "Projection", column, VISION, [visual])
    yield Block("text_projection", "head", "Projection", column, TEXT, [text])


def _loss_blocks(objective: Objective, stages: int) -> Iterator[Block]:
    """Blocks of the objective's terms; their parameters are the learnt weights."""

    def weights(*terms: str) -> list[nn.Module]:
        return [nn.ParameterList([objective.log_variances[t]]) for t in terms if t in objective.log_variances]

    column = stages + 2
    detail = "Dice + BCE" if objective.overlapping else "Dice + CE"
    yield Block("segmentation", "loss", "Segmentation", 1, OBJECTIVE, weights("segmentation"), detail)
    if "class_embedding" in objective.terms:
        modules = weights("class_embedding")
        yield Block("class_embedding", "loss", "Class embedding", column, OBJECTIVE, modules, "cross-entropy")
    if parts := [term for term in objective.terms if term.endswith("alignment")]:
        detail = "global + local" if "alignment" in parts or len(parts) > 1 else parts[0].split("_")[0]
        yield Block("alignment", "loss", "Alignment", column, FUSION, weights(*parts), detail)


def _edges(network: BiPVLSeg) -> Iterator[tuple[str, str]]:
    """Pairs of ids: a block, and a block that reads its output."""
    last = network.vision.num_stages
    yield from (("prompts", "text_0"), ("volume", "vision_0"), ("volume", "skip_0"))
    for n in range(last):
        yield from ((f"{lane}_{n}", f"{lane}_{n + 1}") for lane in ("text", "vision"))
    for n in sorted(network.fused_stages):
        direction = network.fusions[n - 1].direction
        for lane, reads in (("text", direction.text_reads), ("vision", direction.image_reads)):
            yield f"{lane}_{n}", f"fusion_{n}"
            if reads:
                yield f"fusion_{n}", f"{lane}_{n}"
    yield from ((f"vision_{c - 1}", f"skip_{c}") for c in range(1, last))
    yield from ((f"skip_{c}", f"up_{c}") for c in range(last))
    yield from ((f"vision_{last - 1}", f"up_{last}"), (f"vision_{last}", "bottleneck"))
    yield from (("bottleneck", f"up_{last}"), ("bottleneck", "class_head"))
    yield from ((f"up_{c}", f"up_{c - 1}") for c in range(last, 0, -1))
    yield from (("up_0", "logits"), ("logits", "segmentation"), ("logits", "class_embedding"))
    yield from (("class_head", "class_embedding"), ("class_head", "visual_projection"))
    yield from ((f"text_{last}", "text_projection"), ("text_projection", "alignment"))
    yield "visual_projection", "alignment"


def _shapes(
    blocks: Iterable[Block], network: BiPVLSeg, volume: Tensor, prompts: Sequence[Sequence[str]]
) -> dict[str, str]:
    """Output shapes of the blocks in a forward pass on the ``meta`` device, which computes shapes only."""
    shapes: dict[str, str] = {}

    def watch(block: Block, module: nn.Module) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            outputs = output[::-1] if isinstance(output, tuple) else (output,)  # BiFusion returns image, text
            batched = block.kind != "text"  # the text stages have no batch axis
            text = "; ".join(_shape(tensor.shape[batched:]) for tensor in outputs)
            shapes.setdefault(block.id, text)  # the released network runs the text stages twice

        return module.register_forward_hook(keep)

    hooks = [watch(block, module) for block in blocks for module in block.modules]
    tensors = [*network.named_parameters(), *network.named_buffers()]
    try:
        with torch.no_grad():
            functional_call(network, {name: t.to("meta") for name, t in tensors}, (volume, prompts))
    finally:
        for hook in hooks:
            hook.remove()
    same = {block.id: shapes["text_0"] for block in blocks if block.kind == "text"}  # a stage may be empty
    return same | shapes


def _shape(sizes: Iterable[int]) -> str:
    return " × ".join(str(size) for size in sizes)
