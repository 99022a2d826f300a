"""What the findings are measured on: small networks, the package's own prompts, random volumes."""

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bipvl.data.prompts import default_prompts
from bipvl.data.spec import load_spec
from bipvl.engine.variants import ALL_TERMS
from bipvl.model.bipvlseg import BiPVLSeg
from bipvl.model.losses import Objective
from bipvl.model.released import network_class, objective_class
from bipvl.model.tokens import PromptTokens, tokenize

DATASET = "mmwhs_ct"
VISION = {"feature_size": 12, "depths": (1, 1), "num_heads": (2, 4), "window_size": 4, "fusion_width": 32}
TEXT = {"model_type": "bert", "vocab_size": 1024, "max_position_embeddings": 128}
TEXT |= {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 48}
CROP = (24, 24, 16)


class HashedWords:
    """A tokenizer without a vocabulary: the id of a word is its checksum. Counts its calls."""

    pad_token_id, cls_token_id, sep_token_id = 0, 1, 2

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, text: str, add_special_tokens: bool = False) -> dict[str, list[int]]:
        self.calls += 1
        return {"input_ids": [3 + zlib.crc32(word.encode()) % 1021 for word in text.lower().split()]}


def texts(dataset: str = DATASET) -> list[list[str]]:
    """The package's prompts of a data set: N classes with K + 1 texts each."""
    return default_prompts(load_spec(dataset)).segments()


def tokens(prompts: Sequence[Sequence[str]] | None = None) -> PromptTokens:
    """Prompts (by default those of ``texts()``) as tokens of the small networks."""
    return tokenize(HashedWords(), prompts or texts(), separate=True)


def volume(batch: int = 1, seed: int = 0, size: Sequence[int] = CROP) -> Tensor:
    """Random B × 1 × H × W × D."""
    return torch.randn(batch, 1, *size, generator=torch.Generator().manual_seed(seed))


def network(preset: str | Sequence[str] = "paper", *, seed: int = 0, **changes: Any) -> BiPVLSeg:
    """A small random network in eval mode: the heart's classes, two stages, a text encoder of width 32."""
    settings = {"in_channels": 1, "num_classes": len(texts()), "text_config": TEXT, **VISION}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = network_class(preset)(**settings | changes).eval()
    model.tokenizer = HashedWords()
    return model


def pretrained(preset: str | Sequence[str]) -> BiPVLSeg:
    """The same vision encoder with 15 AMOS classes and a trained text encoder (all-MiniLM-L6-v2)."""
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(0)
        return network_class(preset).create(text="minilm", in_channels=1, num_classes=15, **VISION).eval()


def objective(preset: str | Sequence[str] = "paper") -> Objective:
    """All terms for one label per voxel, without noise, so that two values can be compared."""
    return objective_class(preset)(terms=ALL_TERMS, overlapping=False, noise=0)


def with_both(name: str, measure: Callable[[str], Any]) -> dict[str, Any]:
    """A measurement with both presets: NAME_released and NAME_right."""
    return {f"{name}_released": measure("released"), f"{name}_right": measure("paper")}


def error_of(kind: type[Exception], call: Callable[..., Any], *arguments: Any) -> str:
    """The message of the error that a call raises; "" if it raises none."""
    try:
        call(*arguments)
    except kind as error:
        return str(error)
    return ""


def largest_difference(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference; infinite if a value is NaN."""
    return float((a - b).detach().abs().nan_to_num(math.inf).max())


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the progress bars and reports of transformers while a checkpoint loads."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
