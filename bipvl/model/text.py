"""A BERT-family text encoder cut into stages (paper, network); wraps transformers' models."""

import copy
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
from safetensors import SafetensorError
from torch import Tensor, nn

from bipvl.common.errors import BipvlError
from bipvl.model.text_sources import OFFLINE, REVISIONS, assumed_config, source_path
from bipvl.model.tokens import PromptTokens

LAYERS = {"bert": "encoder.layer", "distilbert": "transformer.layer"}
"""Model family → its transformer layers. Only these families can be cut into stages."""

PAPER_CUT = (1, 6, 8, 10, 12)
"""The paper's cut of 12 layers: stage 0 = the embeddings and layer 1, stage 4 ends with layer 12."""


def cut_layers(num_layers: int, num_stages: int, late: int | None = None) -> list[int]:
    """Number of layers up to the end of each of the stages 0 … num_stages, by default in the paper's shares.

    Each stage has at least one layer, as long as there are enough.

    Args:
        late: layers of each stage from stage 2 on; the others come before the first fusion.
    """
    shares = np.interp(np.linspace(0, 4, num_stages + 1), range(5), PAPER_CUT) / PAPER_CUT[-1]
    ends = np.floor(shares * num_layers + 0.5).astype(int)
    if late is not None:
        ends[1:] = num_layers - late * np.arange(num_stages - 1, -1, -1)
    for n in range(num_stages + 1):  # at least one layer here, and one left for each later stage
        low = ends[n - 1] + 1 if n else 1
        ends[n] = min(max(ends[n], low), max(num_layers - (num_stages - n), 1))
    return [int(min(e, num_layers)) for e in ends]


class TextEncoder(nn.Module):
    """Text stages 0 … S on token states; ``config`` is a transformers config as a dict.

    ``late_layers`` is the number of layers of each stage from stage 2 on (default: the paper's shares).

    There is no dropout: each step reads the same few prompts, and the same prompt gives the same states for
    every sample of a batch, on one process or several. It also lets attention use torch's fused kernels.
    """

    def __init__(self, *, config: dict[str, Any], num_stages: int, late_layers: int | None = None) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModel

        family = config.get("model_type", "?")
        if family not in LAYERS:
            raise BipvlError(
                f"text encoders of type {family!r} cannot be cut into stages",
                f"choose one of the types {', '.join(LAYERS)}",
            )
        own = ("model_type", "dtype", "torch_dtype")  # also a half-precision file makes a float32 network
        fields = {k: v for k, v in config.items() if k not in own}
        self.config = AutoConfig.for_model(family, **fields)
        for name in filter(lambda name: "dropout" in name, self.config.to_dict()):
            setattr(self.config, name, 0.0)
        backbone = AutoModel.from_config(self.config, attn_implementation="sdpa")
        self.embeddings = backbone.embeddings
        layers = backbone.get_submodule(LAYERS[family])
        ends = cut_layers(len(layers), num_stages, late_layers)
        starts = [0, *ends[:-1]]
        self.stages = nn.ModuleList(nn.ModuleList(layers[a:b]) for a, b in zip(starts, ends, strict=True))
        self.dim = self.config.hidden_size

    def embed(self, tokens: PromptTokens) -> Tensor:
        """Embeddings and stage 0: N × L token ids → N × L × d."""
        return self.stage(0, self.embeddings(tokens.ids), tokens.mask)

    def stage(self, n: int, hidden: Tensor, mask: Tensor) -> Tensor:
        """Stage n on token states A × L × d with their mask A × L (true for a token)."""
        attend = mask[:, None, None, :].bool()
        for layer in self.stages[n]:
            hidden = layer(hidden, attention_mask=attend)
        return hidden

    def load_backbone(self, backbone: nn.Module) -> None:
        """Copy the weights of a transformers model of the same family and size."""
        self.embeddings.load_state_dict(backbone.embeddings.state_dict())
        mine = [layer for stage in self.stages for layer in stage]
        theirs = backbone.get_submodule(LAYERS[self.config.model_type])
        for own, other in zip(mine, theirs, strict=True):
            own.load_state_dict(other.state_dict())


def _safely(path: str) -> dict[str, Any]:
    """Load the pinned commit, and run no code that comes with it."""
    return {"revision": REVISIONS.get(path), "trust_remote_code": False}


def text_config(source: str) -> tuple[dict[str, Any], str]:
    """A text encoder's config, read without network and weights, and a note if it is only assumed.

    One that is not on this machine is assumed to have BERT's base size (``clinicalbert``: DistilBERT's).
    """
    from transformers import AutoConfig, BertConfig, DistilBertConfig

    path = source_path(source)
    try:
        found = AutoConfig.from_pretrained(path, **_safely(path), local_files_only=True)
    except (OSError, ValueError):
        name = assumed_config(path)
        config = {"BERT": BertConfig, "DistilBERT": DistilBertConfig}[name]()
        return config.to_dict(), f"{name} of base size for {path}"
    return found.to_dict(), ""


def load_backbone(source: str) -> nn.Module:
    """Load a pretrained transformers model.

    Raises:
        BipvlError: it cannot be found, or tensors are missing or have another shape.
    """
    from transformers import AutoModel

    path = source_path(source)
    try:
        backbone, info = AutoModel.from_pretrained(
            path, **_safely(path), output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError, UnpicklingError) as error:
        raise _not_loadable(source) from error
    missing = [k for k in info["missing_keys"] if not k.startswith("pooler.")]
    misfits = info["mismatched_keys"]
    if missing or misfits:
        raise BipvlError(
            f"the text encoder lacks {len(missing)} tensors, and {len(misfits)} have another shape "
            f"(first: {[*missing, *misfits][0]})",
            "give a complete checkpoint",
            source,
        )
    return backbone


def _random(backbone: nn.Module) -> nn.Module:
    from transformers import AutoModel

    return AutoModel.from_config(backbone.config)


def _bag_of_words(backbone: nn.Module) -> nn.Module:
    """No layers and no positions: only the words of a text count, not their order."""
    config = copy.deepcopy(backbone.config)
    setattr(config, "n_layers" if hasattr(config, "n_layers") else "num_hidden_layers", 0)
    bag = type(backbone)(config)
    bag.embeddings.load_state_dict(backbone.embeddings.state_dict())
    nn.init.zeros_(bag.embeddings.position_embeddings.weight).requires_grad_(False)
    return bag


WEIGHTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "pretrained": lambda backbone: backbone,
    "random": _random,
    "bag_of_words": _bag_of_words,
}
"""Name → what it does to a pretrained text encoder."""


def load_tokenizer(source: str) -> Any:
    """The tokenizer of a hub id or folder.

    Raises:
        BipvlError: it cannot be found, or has no vocabulary.
    """
    from transformers import AutoTokenizer

    path = source_path(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **_safely(path))
    except (OSError, ValueError) as error:
        raise _not_loadable(source) from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # what transformers makes of a missing file
        raise BipvlError("the text encoder has no tokenizer", "add its tokenizer.json or vocab.txt", source)
    return tokenizer


def _not_loadable(source: str) -> BipvlError:
    if Path(source).exists():
        return BipvlError(
            "the folder holds no complete transformers model (config.json, weights, tokenizer)",
            "add what is missing",
            source,
        )
    return BipvlError(
        f"the text encoder {source} is neither a folder nor a hub model that can be reached from here",
        f"give a folder, or use '{OFFLINE}', which needs no network",
    )
