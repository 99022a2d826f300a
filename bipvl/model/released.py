"""The authors' released code: its patch merging, and their checkpoints' tensors under our names."""

import re
import warnings
from collections.abc import Mapping

import torch
from monai.networks.nets.swin_unetr import PatchMergingV2
from torch import Tensor

from bipvl.common.errors import BipvlError

from .text import PAPER_CUT

OCTANTS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1))
"""What the release reads of each 2 × 2 × 2 block: two octants twice, (1, 1, 0) and (0, 1, 1) never."""


class RepeatingMerging(PatchMergingV2):
    """Patch merging over ``OCTANTS``, as in MONAI's versions of the release's time; sides must be even."""

    def forward(self, x: Tensor) -> Tensor:
        """B × H × W × D × c → B × H/2 × W/2 × D/2 × 2c."""
        x = torch.cat([x[:, i::2, j::2, k::2] for i, j, k in OCTANTS], -1)
        return self.reduction(self.norm(x))


_RENAMED = (
    (r"swinViT\.", "vision.swin."),
    (r"encoder1\.", "decoder.input_block."),
    (r"encoder([234])\.", lambda m: f"decoder.skip_blocks.{int(m[1]) - 2}."),
    (r"encoder10\.", "decoder.bottleneck."),
    (r"decoder([1-5])\.", lambda m: f"decoder.ups.{5 - int(m[1])}."),
    (r"out\.", "decoder.out."),
    (r"cp_feats\.mlp\.", "class_head."),
    (r"text_encoder\.bert\.embeddings\.", "text.embeddings."),
    (r"text_encoder\.bert\.encoder\.layer\.(\d+)\.", lambda m: _text_layer(int(m[1]))),
    (r"bifusions\.([1-4])\.layers\.(\d+)\.", lambda m: f"fusions.{int(m[1]) - 1}.layers.{m[2]}."),
    (r"bifusions\.([1-4])\.final_attn_text_to_image\.", lambda m: f"fusions.{int(m[1]) - 1}.final."),
    (r"bifusions\.([1-4])\.norm_final_attn\.", lambda m: f"fusions.{int(m[1]) - 1}.final_norm."),
    (r"cp_layers\.([1-3])\.", lambda m: f"fusions.{int(m[1]) - 1}.text_in."),
    (r"reverse_cp_layers\.([1-3])\.", lambda m: f"fusions.{int(m[1]) - 1}.text_out."),
)
"""Their prefix → ours."""

_IN_FUSION_LAYERS = {
    "self_attn.": "text_self.",
    "cross_attn_text_to_image.": "text_to_image.",
    "cross_attn_image_to_text.": "image_to_text.",
    "mlp.lin1.": "text_mlp.0.",
    "mlp.lin2.": "text_mlp.2.",
    "mlp2.lin1.": "image_mlp.0.",
    "mlp2.lin2.": "image_mlp.2.",
    **{f"norm{i}.": f"text_norms.{i - 1}." for i in (1, 2, 3)},
    **{f"norm{i}.": f"image_norms.{i - 4}." for i in (4, 5)},
}

_WITHOUT_EFFECT = re.compile(
    r"text_encoder\.(cls|bert\.pooler)\.|bifusions\.0\.|(reverse_)?cp_layers\.0\."  # never called, or unused
    r"|.*\.(relative_position_index|position_ids|token_type_ids)$"  # constants
)

_HEADS = {"cp_feats_visual": "visual_projection", "cp_feats_text": "text_projection"}


def convert(state_dict: Mapping[str, object]) -> dict[str, Tensor]:
    """Tensors under the authors' names → under those of ``BiPVLSeg(preset="released", ...)``.

    Args:
        state_dict: their network's tensors, or the whole dict that their training saves (``model``,
            ``cp_feats_visual``, ``cp_feats_text``, ``log_sigma1`` …), read with ``weights_only=True``.

    Raises:
        BipvlError: a tensor of an unknown name.

    Warns:
        where the fusion tensors are missing, as in every file that their code saved.
    """
    if "model" in state_dict:
        heads = {
            f"{ours}.{name}": tensor
            for theirs, ours in _HEADS.items()
            for name, tensor in state_dict.get(theirs, {}).items()
        }
        return convert(state_dict["model"]) | heads
    state = {_rename(name): t for name, t in state_dict.items() if not _WITHOUT_EFFECT.match(name)}
    if not any(name.startswith("fusions.") for name in state):
        warnings.warn(
            "this checkpoint holds no BiFusion tensors: the released code kept them where neither its "
            "optimiser nor its files reach. They were random while it was trained and are lost; a model that "
            "is given the rest (load_state_dict with strict=False) fuses with other random weights than "
            "those it was trained with, and its outputs are not the authors'.",
            stacklevel=2,
        )
    return state


def _rename(name: str) -> str:
    for pattern, ours in _RENAMED:
        if match := re.match(pattern, name):
            rest = name[match.end() :]
            if pattern.endswith(r"layers\.(\d+)\."):
                rest = _in_fusion_layer(rest, name)
            return (ours(match) if callable(ours) else ours) + rest
    raise BipvlError(f"the tensor {name} is not one of the released network's; is it their checkpoint?")


def _in_fusion_layer(rest: str, name: str) -> str:
    for theirs, ours in _IN_FUSION_LAYERS.items():
        if rest.startswith(theirs):
            return ours + rest[len(theirs) :]
    raise BipvlError(f"the tensor {name} is not one of the released network's; is it their checkpoint?")


def _text_layer(number: int) -> str:
    stage = next(n for n, end in enumerate(PAPER_CUT) if number < end)
    return f"text.stages.{stage}.{number - (PAPER_CUT[stage - 1] if stage else 0)}."
