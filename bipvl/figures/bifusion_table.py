"""The steps of a BiFusion block (METHOD.md, section 2) as a table, read from its modules."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from torch import nn

from bipvl.common.errors import BipvlError
from bipvl.model.bifusion import Attention, BiFusion, TwoWayLayer
from bipvl.model.released import ErasingFusion, ErasingLayer

READS = {"text": "query T + E; key, value V", "image": "query V; key T + E; value T"}
"""Lane → the tokens that its cross-attention reads."""


def bifusion_table(fusion: BiFusion, stage: int, profile: str, *, variant: str = "bipvlseg") -> pd.DataFrame:
    """One row per step of the BiFusion at ``stage``, in the order of computation.

    Columns profile, variant, stage (constant); id; kind (input, step or output); lane (text or image);
    row; title; detail (T and V: current text and image tokens, E: projected text); parameters; added (id of
    the step whose output is added to the result, or empty); norm (whether a LayerNorm follows); feeds (ids of
    the steps that read the output, separated by ``;``).

    Raises:
        BipvlError: the block at this stage is not a BiFusion.
    """
    if not isinstance(fusion, BiFusion):
        problem = f"the variant '{variant}' has no BiFusion at stage {stage}"
        raise BipvlError(problem, "choose another variant or stage")
    steps = _Steps()
    projection = fusion.text_in if isinstance(fusion.text_in, nn.Linear) else None
    width = fusion.layers[0].self_attn.q_proj.in_features
    text_width = projection.in_features if projection else width
    steps.add("text", "text", "Text tokens", f"width {text_width}", kind="input")
    steps.add("image", "image", "Image tokens V", f"width {width}", kind="input")
    title = f"L2 norm, projection {text_width} → {width}" if projection else "L2 norm"
    steps.add("text", "text_in", title, modules=[fusion.text_in])
    for number, layer in enumerate(fusion.layers, start=1):
        _add_layer(steps, layer, number)
    if fusion.direction.text_reads:
        modules = fusion.final_attn_text_to_image, fusion.norm_final_attn
        steps.cross("text", "text_last", "Last cross-attention", *modules)
        if projection:
            title = f"Projection {width} → {text_width}"
            steps.add("text", "text_out", title, modules=[fusion.text_out])
    steps.level()
    for lane, reads in (("text", fusion.direction.text_reads), ("image", fusion.direction.image_reads)):
        if reads:
            added = "" if isinstance(fusion, ErasingFusion) else lane
            steps.add(lane, f"{lane}_fused", f"Fused {lane} tokens", added=added, kind="output")
    table = pd.DataFrame(steps.rows).assign(profile=profile, variant=variant, stage=stage)
    return table.assign(feeds=table["feeds"].str.join(";"))


def _add_layer(steps: "_Steps", layer: TwoWayLayer, number: int) -> None:
    """Add those of the steps 1 to 5 of METHOD.md that the layer has."""
    prompted, title = not isinstance(layer, ErasingLayer), f"Cross-attention, layer {number}"
    detail = _attention("query, key T + E; value T" if prompted else "query, key, value T", layer.self_attn)
    modules, name = [layer.self_attn, layer.norm_self_attn], f"text_self_{number}"
    steps.add("text", name, f"Self-attention, layer {number}", detail, modules, residual=prompted)
    if layer.direction.text_reads:
        modules = layer.cross_attn_text_to_image, layer.norm_text_to_image
        steps.cross("text", f"text_cross_{number}", title, *modules)
    steps.mlp("text", number, layer.mlp, layer.norm_mlp)
    if layer.direction.image_reads:
        modules = layer.cross_attn_image_to_text, layer.norm_image_to_text
        steps.cross("image", f"image_cross_{number}", title, *modules)
        steps.mlp("image", number, layer.image_mlp, layer.norm_image_mlp)


class _Steps:
    """Collects the steps. Each is placed below all that it reads; a crossing step occupies both lanes."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.ends: dict[str, dict[str, Any]] = {}
        self.free = {"text": 0, "image": 0}

    def add(
        self,
        lane: str,
        name: str,
        title: str,
        detail: str = "",
        modules: Sequence[nn.Module] = (),
        *,
        crossing: bool = False,
        residual: bool = False,
        added: str = "",
        kind: str = "step",
    ) -> None:
        """Add a step after the last one of its lane; with ``crossing`` it reads the other lane too."""
        lanes = sorted(self.free) if crossing else [lane]
        for source in (self.ends[key] for key in lanes if key in self.ends):
            source["feeds"].append(name)
        row = max(self.free[key] for key in lanes)
        self.free |= dict.fromkeys(lanes, row + 1)
        self.ends[lane] = {
            **{"id": name, "kind": kind, "lane": lane, "row": row, "title": title, "detail": detail},
            "parameters": sum(p.numel() for module in modules for p in module.parameters()),
            "added": self.ends[lane]["id"] if residual else added,
            "norm": any(isinstance(module, nn.LayerNorm) for module in modules),
            "feeds": [],
        }
        self.rows.append(self.ends[lane])

    def cross(self, lane: str, name: str, title: str, attention: Attention, norm: nn.Module) -> None:
        """Add the cross-attention with which a lane reads the other one."""
        detail = _attention(READS[lane], attention)
        self.add(lane, name, title, detail, [attention, norm], crossing=True, residual=True)

    def mlp(self, lane: str, number: int, module: nn.Sequential, norm: nn.Module) -> None:
        """Add the MLP of a layer."""
        detail = f"{module[0].in_features} → {module[0].out_features} → {module[-1].out_features}"
        name = f"{lane}_mlp_{number}"
        self.add(lane, name, f"MLP, layer {number}", detail, [module, norm], residual=True)

    def level(self) -> None:
        """Place the next step of both lanes at the same height."""
        self.free = dict.fromkeys(self.free, max(self.free.values()))


def _attention(reads: str, module: Attention) -> str:
    return f"{reads}; width {module.q_proj.out_features}, heads {module.heads}"
