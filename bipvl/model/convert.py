"""The tensors of a checkpoint of the authors' released code, under the names of this package."""

import re
import warnings
from collections.abc import Mapping

from torch import Tensor

from bipvl.common.errors import BipvlError
from bipvl.model.text import PAPER_CUT

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
    (
        r"bifusions\.([1-4])\.(?=final_attn_text_to_image|norm_final_attn)",
        lambda m: f"fusions.{int(m[1]) - 1}.",
    ),
    (r"cp_layers\.([1-3])\.", lambda m: f"fusions.{int(m[1]) - 1}.text_in."),
    (r"reverse_cp_layers\.([1-3])\.", lambda m: f"fusions.{int(m[1]) - 1}.text_out."),
)
"""Prefix of the authors' names → prefix of ours."""

_IN_FUSION_LAYERS = {
    "mlp.lin1.": "mlp.0.",
    "mlp.lin2.": "mlp.2.",
    "mlp2.lin1.": "image_mlp.0.",
    "mlp2.lin2.": "image_mlp.2.",
    "norm1.": "norm_self_attn.",
    "norm2.": "norm_text_to_image.",
    "norm3.": "norm_mlp.",
    "norm4.": "norm_image_to_text.",
    "norm5.": "norm_image_mlp.",
    **{name: name for name in ("self_attn.", "cross_attn_text_to_image.", "cross_attn_image_to_text.")},
}
"""Inside a layer of BiFusion: the authors' name → ours."""

_WITHOUT_EFFECT = re.compile(
    r"text_encoder\.(cls|bert\.pooler)\.|bifusions\.0\.|(reverse_)?cp_layers\.0\."  # never called, or unused
    r"|.*\.(relative_position_index|position_ids|token_type_ids)$"  # constants
)

_HEADS = {"cp_feats_visual": "visual_projection", "cp_feats_text": "text_projection"}


def convert(state_dict: Mapping[str, object]) -> dict[str, Tensor]:
    """Rename the authors' tensors to those of ``bipvl.model.released.ReleasedBiPVLSeg``.

    Args:
        state_dict: the tensors of their network, or the whole dict that their training saves (``model``,
            ``cp_feats_visual``, ``cp_feats_text``, ``log_sigma1`` …), read with ``weights_only=True``.

    Raises:
        BipvlError: a tensor has an unknown name.

    Warns:
        The fusion tensors are missing, as in every file that the released code saved.
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
            "this checkpoint holds no BiFusion tensors: neither the optimiser nor the saved files of the "
            "released code include them. They were random during training and are lost. A model that loads "
            "the rest (load_state_dict with strict=False) fuses with other random weights, so its outputs "
            "are not the authors'.",
            stacklevel=2,
        )
    return state


def _rename(name: str) -> str:
    for pattern, ours in _RENAMED:
        if match := re.match(pattern, name):
            prefix, rest = ours(match) if callable(ours) else ours, name[match.end() :]
            if not pattern.endswith(r"layers\.(\d+)\."):
                return prefix + rest
            for theirs, own in _IN_FUSION_LAYERS.items():
                if rest.startswith(theirs):
                    return prefix + own + rest.removeprefix(theirs)
    raise BipvlError(
        f"the tensor {name} does not belong to the released network", "give a checkpoint of the authors' code"
    )


def _text_layer(number: int) -> str:
    stage = next(n for n, end in enumerate(PAPER_CUT) if number < end)
    return f"text.stages.{stage}.{number - (PAPER_CUT[stage - 1] if stage else 0)}."
