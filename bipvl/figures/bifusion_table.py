"""One BiFusion block as a table of its steps (METHOD.md, section 2), read from its modules."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from torch import nn

from bipvl.common.errors import BipvlError
from bipvl.model.bifusion import Attention, BiFusion, TwoWayLayer


def bifusion_table(fusion: BiFusion, stage: int, profile: str, *, variant: str = "bipvlseg") -> pd.DataFrame:
    """A row a step of the BiFusion at ``stage``, in the order of its computation.

    Columns profile, variant, stage; id; kind: input, step or output; lane: text or image; row; title;
    detail; parameters; added: id of what is added to the step's result (none: empty); norm: whether a
    LayerNorm follows; feeds: ids of the steps that read it, separated by ``;``. In the words T and V are the
    text's and the image's tokens as far as they have come, E the projected text.

    Raises:
        BipvlError: what stands at the stage is no BiFusion.
    """
    if not isinstance(fusion, BiFusion):
        raise BipvlError(f"the variant '{variant}' has no BiFusion at stage {stage}; draw another one")
    steps = _Steps()
    projection = fusion.text_in if isinstance(fusion.text_in, nn.Linear) else None
    width = fusion.layers[0].text_self.q_proj.in_features
    text_width = projection.in_features if projection else width
    steps.add("text", "text", "Text tokens", f"width {text_width}", kind="input")
    steps.add("image", "image", "Image tokens V", f"width {width}", kind="input")
    title = f"L2 norm, projection {text_width} → {width}" if projection else "L2 norm"
    steps.add("text", "text_in", title, modules=[fusion.text_in])
    for number, layer in enumerate(fusion.layers, start=1):
        _add_layer(steps, layer, number)
    if fusion.direction.text_reads:
        detail = _attention("query T + E; key, value V", fusion.final)
        modules = [fusion.final, fusion.final_norm]
        steps.add("text", "text_last", "Last cross-attention", detail, modules, crossing=True, residual=True)
        if projection:
            title = f"Projection {width} → {text_width}"
            steps.add("text", "text_out", title, modules=[fusion.text_out])
    steps.level()
    for lane, reads in (("text", fusion.direction.text_reads), ("image", fusion.direction.image_reads)):
        if reads:
            added = lane if fusion.residual else ""
            steps.add(lane, f"{lane}_fused", f"Fused {lane} tokens", added=added, kind="output")
    return steps.table().assign(profile=profile, variant=variant, stage=stage)


def _add_layer(steps: "_Steps", layer: TwoWayLayer, number: int) -> None:
    """The steps 1 to 5 of METHOD.md, those of them that the layer has."""
    prompted, norms, of = layer.first_residual, layer.text_norms, f"layer {number}"
    detail = _attention("query, key T + E; value T" if prompted else "query, key, value T", layer.text_self)
    modules = [layer.text_self, norms[0]]
    steps.add("text", f"text_self_{number}", f"Self-attention, {of}", detail, modules, residual=prompted)
    if layer.direction.text_reads:
        detail = _attention("query T + E; key, value V", layer.text_to_image)
        modules, name = [layer.text_to_image, norms[1]], f"text_cross_{number}"
        steps.add("text", name, f"Cross-attention, {of}", detail, modules, crossing=True, residual=True)
    modules, name = [layer.text_mlp, norms[-1]], f"text_mlp_{number}"
    steps.add("text", name, f"MLP, {of}", _mlp(layer.text_mlp), modules, residual=True)
    if layer.direction.image_reads:
        detail = _attention("query V; key T + E; value T", layer.image_to_text)
        modules, name = [layer.image_to_text, layer.image_norms[0]], f"image_cross_{number}"
        steps.add("image", name, f"Cross-attention, {of}", detail, modules, crossing=True, residual=True)
        modules, name = [layer.image_mlp, layer.image_norms[1]], f"image_mlp_{number}"
        steps.add("image", name, f"MLP, {of}", _mlp(layer.image_mlp), modules, residual=True)


class _Steps:
    """The table while it grows: each step stands below all that it reads, one that crosses beside a gap."""

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
        """A step after the lane's last one; ``crossing``: it reads the other lane too."""
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
        """What comes next stands at one height in both lanes."""
        self.free = dict.fromkeys(self.free, max(self.free.values()))

    def table(self) -> pd.DataFrame:
        """The steps so far."""
        return pd.DataFrame(self.rows).assign(feeds=[";".join(row["feeds"]) for row in self.rows])


def _attention(reads: str, module: Attention) -> str:
    return f"{reads}; width {module.q_proj.out_features}, heads {module.heads}"


def _mlp(module: nn.Sequential) -> str:
    return f"{module[0].in_features} → {module[0].out_features} → {module[-1].out_features}"
