"""Tokenised prompts: one token sequence per class, with its texts as segments."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bipvl.common.errors import BipvlError


@dataclass(frozen=True)
class PromptTokens:
    """Tokenised prompts of N classes with K + 1 texts each, one sequence of L tokens per class.

    Attributes:
        ids: token ids N × L.
        mask: N × L, true for a token, false for padding.
        segment: N × L, the number k of the text that a token belongs to, −1 for none.
        valid: positions of the T tokens that are not padding, in the flattened N · L.
        texts: K + 1.
        concepts: the N · (K + 1) short texts as sequences of their own; only the released code reads them.
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
        """Tokens from ids, mask and segments N × L (default: one text per class), without a tokenizer."""
        segment = mask.long() - 1 if segment is None else segment
        valid, texts = mask.flatten().nonzero().squeeze(1), int(segment.max()) + 1
        return cls(ids, mask.bool(), segment, valid, texts, concepts)

    def to(self, device: torch.device) -> "PromptTokens":
        """The same tokens on another device."""
        tensors = (self.ids, self.mask, self.segment, self.valid)
        concepts = self.concepts.to(device) if self.concepts else None
        return PromptTokens(*(t.to(device) for t in tensors), texts=self.texts, concepts=concepts)

    def unmasked(self) -> "PromptTokens":
        """The same with padding counted as tokens, as the released code does after text stage 0."""
        valid = torch.arange(self.mask.numel(), device=self.mask.device)
        return replace(self, mask=torch.ones_like(self.mask), valid=valid)

    def without_padding(self, hidden: Tensor) -> Tensor:
        """Token states of all classes as one sequence: B × N × L × d → B × T × d."""
        return hidden.flatten(1, 2).index_select(1, self.valid)

    def with_padding(self, words: Tensor, hidden: Tensor) -> Tensor:
        """The inverse: words B × T × d into the token states B × N × L × d, whose padding stays."""
        flat = hidden.flatten(1, 2)  # B × N·L × d
        return flat.index_copy(1, self.valid, words.to(flat.dtype)).view_as(hidden)

    def pool_texts(self, hidden: Tensor) -> Tensor:
        """Mean token state of each text of each class: B × N × L × d → B × N × (K + 1) × d."""
        number = torch.arange(self.texts, device=hidden.device)
        member = (self.segment[:, None, :] == number[:, None]).to(hidden.dtype)  # N × (K + 1) × L
        weight = member / member.sum(-1, keepdim=True).clamp(min=1)
        return torch.einsum("bnld,nkl->bnkd", hidden, weight)


def tokenize(
    tokenizer: Any, prompts: Sequence[Sequence[str]], *, max_length: int = 512, separate: bool = False
) -> PromptTokens:
    """Tokenise N classes of K + 1 texts each: one sequence per class, its texts as segments 0 … K.

    Args:
        max_length: tokens that the text encoder can read.
        separate: also tokenise each text as a sequence of its own (``concepts``).

    Raises:
        BipvlError: the classes do not have equally many texts, or the texts of a class are too long;
            nothing is truncated.
    """
    if any(isinstance(texts, str) for texts in prompts) or len({len(texts) for texts in prompts}) != 1:
        fix = "write [[title, concept, …], [title, concept, …], …]"
        raise BipvlError("the classes do not have equally many texts", fix)
    ids, segments = [], []
    for texts in prompts:
        pieces = [tokenizer(f"{text}.", add_special_tokens=False)["input_ids"] for text in texts]
        body = [i for piece in pieces for i in piece]
        ids.append([tokenizer.cls_token_id, *body, tokenizer.sep_token_id])
        segments.append([-1, *(k for k, piece in enumerate(pieces) for _ in piece), -1])
        if len(ids[-1]) > max_length:
            raise BipvlError(
                f"the prompt that begins with {texts[0]!r} has {len(ids[-1])} tokens, and the text encoder "
                f"reads {max_length}",
                "shorten it",
            )
    mask = _pad([[1] * len(row) for row in ids], 0)
    alone = [[text] for texts in prompts for text in texts]
    concepts = tokenize(tokenizer, alone, max_length=max_length) if separate else None
    return PromptTokens.of(_pad(ids, tokenizer.pad_token_id), mask, _pad(segments, -1), concepts)


def _pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Rows of different lengths as one tensor."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)
