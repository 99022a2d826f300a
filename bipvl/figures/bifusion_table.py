"""The steps of a BiFusion block (METHOD.md, section 2) as a table, read from its modules."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from torch import nn

from bipvl.common.errors import BipvlError
from bipvl.model.bifusion import Attention, BiFusion, TwoWayLayer
from bipvl.model.released import ErasingFusion, ErasingLayer


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
        raise BipvlError(problem, "choose another variant or stage", None)
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
        detail = _attention("query T + E; key, value V", fusion.final_attn_text_to_image)
        modules = [fusion.final_attn_text_to_image, fusion.norm_final_attn]
        steps.add("text", "text_last", "Last cross-attention", detail, modules, crossing=True, residual=True)
        if projection:
            title = f"Projection {width} → {text_width}"
            steps.add("text", "text_out", title, modules=[fusion.text_out])
    steps.level()
    for lane, reads in (("text", fusion.direction.text_reads), ("image", fusion.direction.image_reads)):
        if reads:
            added = "" if isinstance(fusion, ErasingFusion) else lane
            steps.add(lane, f"{lane}_fused", f"Fused {lane} tokens", added=added, kind="output")
    return steps.table().assign(profile=profile, variant=variant, stage=stage)


def _add_layer(steps: "_Steps", layer: TwoWayLayer, number: int) -> None:
    """Add those of the steps 1 to 5 of METHOD.md that the layer has."""
    prompted, of = not isinstance(layer, ErasingLayer), f"layer {number}"
    detail = _attention("query, key T + E; value T" if prompted else "query, key, value T", layer.self_attn)
    modules = [layer.self_attn, layer.norm_self_attn]
    steps.add("text", f"text_self_{number}", f"Self-attention, {of}", detail, modules, residual=prompted)
    if layer.direction.text_reads:
        detail = _attention("query T + E; key, value V", layer.cross_attn_text_to_image)
        modules, name = [layer.cross_attn_text_to_image, layer.norm_text_to_image], f"text_cross_{number}"
        steps.add("text", name, f"Cross-attention, {of}", detail, modules, crossing=True, residual=True)
    modules, name = [layer.mlp, layer.norm_mlp], f"text_mlp_{number}"
    steps.add("text", name, f"MLP, {of}", _mlp(layer.mlp), modules, residual=True)
    if layer.direction.image_reads:
        detail = _attention("query V; key T + E; value T", layer.cross_attn_image_to_text)
        modules, name = [layer.cross_attn_image_to_text, layer.norm_image_to_text], f"image_cross_{number}"
        steps.add("image", name, f"Cross-attention, {of}", detail, modules, crossing=True, residual=True)
        modules, name = [layer.image_mlp, layer.norm_image_mlp], f"image_mlp_{number}"
        steps.add("image", name, f"MLP, {of}", _mlp(layer.image_mlp), modules, residual=True)


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
            "id": name,
            "kind": kind,
            "lane": lane,
            "row": row,
            "title": title,
            "detail": detail,
            "parameters": sum(p.numel() for module in modules for p in module.parameters()),
            "added": self.ends[lane]["id"] if residual else added,
            "norm": any(isinstance(module, nn.LayerNorm) for module in modules),
            "feeds": [],
        }
        self.rows.append(self.ends[lane])

    def level(self) -> None:
        """Place the next step of both lanes at the same height."""
        self.free = dict.fromkeys(self.free, max(self.free.values()))

    def table(self) -> pd.DataFrame:
        """All steps as a table."""
        return pd.DataFrame(self.rows).assign(feeds=[";".join(row["feeds"]) for row in self.rows])


def _attention(reads: str, module: Attention) -> str:
    return f"{reads}; width {module.q_proj.out_features}, heads {module.heads}"


def _mlp(module: nn.Sequential) -> str:
    return f"{module[0].in_features} → {module[0].out_features} → {module[-1].out_features}"
