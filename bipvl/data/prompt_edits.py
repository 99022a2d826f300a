"""Edits that degrade or rephrase prompts, for the study of prompt quality."""

import re
from collections.abc import Callable

import numpy as np

from bipvl.common.lookup import choose

Texts = list[list[str]]
"""N × (K + 1) short texts: each class's title, then its concepts as "Name: text"."""

VAGUE = "varies from one patient to another and may look like its neighbours"
SIDES = {"left": "right", "right": "left"}
MISTYPED = 0.25
"""Share of the longer words with two letters swapped."""


def _ambiguous(texts: Texts, random: np.random.Generator) -> Texts:
    return [[title, *(f"{text.split(':')[0]}: {VAGUE}" for text in concepts)] for title, *concepts in texts]


def _other_details(texts: Texts, random: np.random.Generator) -> Texts:
    details = [concepts for _, *concepts in texts]
    others = _derangement(len(texts), random)
    return [[title, *details[c]] for (title, *_), c in zip(texts, others, strict=True)]


def _paraphrased(texts: Texts, random: np.random.Generator) -> Texts:
    def reworded(text: str) -> str:
        name, _, value = text.partition(":")
        return f"Its {name.lower()} is as follows, {value.strip()}"

    return [[f"What this shows is: {title}", *map(reworded, concepts)] for title, *concepts in texts]


def _typing_errors(texts: Texts, random: np.random.Generator) -> Texts:
    def slip(match: re.Match) -> str:
        word = match[0]
        if random.random() >= MISTYPED:
            return word
        at = random.integers(len(word) - 1)
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]

    return [[re.sub(r"[A-Za-z]{4,}", slip, text) for text in row] for row in texts]


def _mirrored(texts: Texts, random: np.random.Generator) -> Texts:
    def other(match: re.Match) -> str:
        side = SIDES[match[0].lower()]
        return side.capitalize() if match[0][0].isupper() else side

    return [[re.sub(r"\b(left|right)\b", other, text, flags=re.IGNORECASE) for text in row] for row in texts]


EDITS: dict[str, Callable[[Texts, np.random.Generator], Texts]] = {
    "full": lambda texts, random: texts,
    "names": lambda texts, random: [row[:1] for row in texts],
    "ambiguous": _ambiguous,
    "other_details": _other_details,
    "shuffled_rows": lambda texts, random: [texts[c] for c in _derangement(len(texts), random)],
    "empty": lambda texts, random: [[""] for _ in texts],
    "paraphrased": _paraphrased,
    "typing_errors": _typing_errors,
    "mirrored": _mirrored,
}
"""Name of an edit → its function."""


def edited(texts: Texts, edit: str, *, seed: int = 0) -> Texts:
    """Apply an edit by name to a prompt table's texts (``PromptTable.segments``); deterministic in ``seed``.

    Raises:
        BipvlError: there is no such edit.
    """
    return choose("prompt edit", edit, EDITS)(texts, np.random.default_rng(seed))


def _derangement(count: int, random: np.random.Generator) -> list[int]:
    """A random order in which no position keeps its index (unless there is only one)."""
    order = np.empty(count, int)
    cycle = random.permutation(count)
    order[cycle] = np.roll(cycle, 1)
    return order.tolist()
