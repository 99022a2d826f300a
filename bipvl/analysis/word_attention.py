"""Attention of a prompt's word to the image: the text → image attention of each BiFusion."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialCropd, SpatialPadd
from torch import Tensor

from bipvl.common.errors import BipvlError
from bipvl.data.layouts import Case
from bipvl.data.transforms import KEYS, prepare_transform
from bipvl.engine.build import load_network
from bipvl.engine.run import Run
from bipvl.engine.variants import prompt_texts
from bipvl.model.bifusion import Attention
from bipvl.model.bipvlseg import BiPVLSeg, Prompts
from bipvl.model.tokens import PromptTokens


@dataclass(frozen=True, kw_only=True)
class AttendedWindow:
    """A window of a case around a class, and the attention to it of a word of the class's prompt.

    Attributes:
        mask: H × W × D, the class's voxels.
        affine: from voxels to mm.
        maps: attention by stage, h × w × d; each sums to 1.
    """

    class_index: int
    word: str
    mask: np.ndarray
    affine: np.ndarray
    maps: dict[int, np.ndarray]

    def inside(self, stage: int) -> float:
        """The mean attention over the class's voxels, as a multiple of uniform attention."""
        attention = self.maps[stage]
        upsampled = np.kron(attention, np.ones(np.array(self.mask.shape) // attention.shape))
        return float(upsampled[self.mask].mean() * attention.size)


def attended_windows(run: Run, case: Case, count: int = 3) -> list[AttendedWindow]:
    """The attention of a trained run's prompts in a case: the titles' head nouns of its largest classes.

    The windows have the size that the network was trained on, and the class's bounding box in the middle.

    Args:
        count: number of classes.

    Raises:
        BipvlError: the run's network has no text → image attention.
    """
    spec, texts = run.spec, prompt_texts(run.variant, run.spec)
    network = load_network(run.variant, run.model_folder).eval()
    sample = prepare_transform(spec, run.config["spacing"])(case.paths)
    if not spec.overlapping:
        numbers = torch.arange(1, spec.num_classes + 1).view(-1, 1, 1, 1)
        sample["label"] = sample["label"] == numbers  # one channel per class
    sizes = sample["label"].sum((1, 2, 3)).tolist()
    largest = sorted(range(spec.num_classes), key=lambda c: -sizes[c])[:count]
    windows = {c: window_around(sample, c, run.config["crop"]) for c in largest if sizes[c]}
    return [_attended_window(network, window, texts, c) for c, window in windows.items()]


def _attended_window(
    network: BiPVLSeg, window: Mapping[str, MetaTensor], texts: Prompts, c: int
) -> AttendedWindow:
    image, word = window["image"], head_noun(texts[c][0])
    maps = word_attention(network, image[None].as_subclass(Tensor), texts, c, word)
    return AttendedWindow(
        class_index=c,
        word=word,
        mask=window["label"][c].numpy().astype(bool),
        affine=image.affine.numpy(),
        maps={stage: attention.numpy() for stage, attention in maps.items()},
    )


def window_around(sample: Mapping[str, MetaTensor], c: int, crop: Sequence[int]) -> dict[str, MetaTensor]:
    """Crop a prepared case (MetaTensors, one label channel per class) with class c in the middle.

    At the border of the case the window is moved inwards; a case smaller than it is padded with zeros.
    """
    padded = SpatialPadd(KEYS, crop)(dict(sample))
    voxels = padded["label"][c].nonzero().as_subclass(Tensor)
    middle = (voxels.amin(0) + voxels.amax(0) + 1) // 2
    side = torch.tensor(crop)
    start = (middle - side // 2).clamp(min=0).minimum(torch.tensor(padded["label"].shape[1:]) - side)
    return SpatialCropd(KEYS, roi_start=start, roi_end=start + side)(padded)


@torch.no_grad()
def word_attention(
    network: BiPVLSeg, volume: Tensor, prompts: Prompts, class_index: int, word: str
) -> dict[int, Tensor]:
    """Attention of a word of a class's prompt to the image: by fused stage, a map h × w × d that sums to 1.

    It is the text → image attention of the block's last layer (METHOD.md, section 2, step 2), averaged over
    heads and over all tokens of the word in the prompt. The network never stores the attention matrix, so the
    word's rows are computed here from the block's projections.

    Args:
        network: in eval mode.
        volume: 1 × M × H × W × D.
        class_index: row c of the prompts.
        word: one of ``words_of``, in upper or lower case.

    Raises:
        BipvlError: the prompt has no such word, or the network has no text → image attention.
    """
    state = network.encode_prompts(prompts)
    rows = _rows(network.tokenizer, state.tokens, class_index, word)
    maps = {}
    with _record_projections(network) as recorded:
        network.predict(volume, state)
    for stage, (attention, projected) in recorded.items():
        weights = attention_weights(attention, projected["query"][:, rows], projected["key"])
        shape = [side // 2 ** (stage + 1) for side in volume.shape[2:]]
        maps[stage] = weights.mean((0, 1, 2)).unflatten(0, shape)
    return maps


def attention_weights(attention: Attention, query: Tensor, key: Tensor) -> Tensor:
    """softmax(q kᵀ / √d) of projected queries B × Q × c and keys B × P × c: B × heads × Q × P."""
    q, k = (x.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for x in (query, key))
    return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)


def words_of(tokenizer: Any, ids: Tensor) -> dict[str, list[int]]:
    """The words among L token ids in lower case, each with the positions of all its tokens."""
    tokens = tokenizer.convert_ids_to_tokens(ids.tolist())
    starts = [n for n, token in enumerate(tokens) if not token.startswith("##")]  # ## continues a word
    found: dict[str, list[int]] = {}
    for start, end in pairwise([*starts, len(tokens)]):
        word = "".join(token.removeprefix("##") for token in tokens[start:end])
        if re.fullmatch(r"\w+", word):  # neither [CLS] nor a full stop
            found.setdefault(word.lower(), []).extend(range(start, end))
    return found


def head_noun(title: str) -> str:
    """A title's last word before the first "of" or "in": "ventricle" of "Left ventricle in a CT image"."""
    words = re.findall(r"\w+", re.split(r"\b(?:of|in)\b", title)[0])
    if not words:
        problem = f"the title '{title}' does not begin with the name of a class"
        raise BipvlError(problem, "put the name of the class first")
    return words[-1].lower()


def _rows(tokenizer: Any, tokens: PromptTokens, class_index: int, word: str) -> Tensor:
    """Positions of the word among the T tokens that enter fusion."""
    words = words_of(tokenizer, tokens.ids[class_index])
    if word.lower() not in words:
        problem = f"the prompt of class {class_index} has no word '{word}'"
        raise BipvlError(problem, f"choose one of: {', '.join(words)}")
    positions = torch.tensor(words[word.lower()], device=tokens.valid.device)
    return torch.isin(tokens.valid, class_index * tokens.ids.shape[1] + positions).nonzero().squeeze(1)


@contextmanager
def _record_projections(network: BiPVLSeg) -> Iterator[dict[int, tuple[Attention, dict[str, Tensor]]]]:
    """By fused stage, its attention and the ``query`` and ``key`` that it projects inside the context."""
    stages = [n for n in sorted(network.fused_stages) if network.fusions[n - 1].direction.text_reads]
    if not stages:
        fix = "choose a network with fusion in that direction"
        raise BipvlError("this network has no text → image attention", fix)
    recorded = {n: (network.fusions[n - 1].layers[-1].cross_attn_text_to_image, {}) for n in stages}

    def record(into: dict[str, Tensor], name: str, *call: Any) -> None:
        into[name] = call[-1]  # the module's output

    hooks = [
        module.register_forward_hook(partial(record, projected, name))
        for attention, projected in recorded.values()
        for name, module in (("query", attention.q_proj), ("key", attention.k_proj))
    ]
    try:
        yield recorded
    finally:
        for hook in hooks:
            hook.remove()
