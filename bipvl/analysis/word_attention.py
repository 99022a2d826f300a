"""Where a word of a prompt looks in the image: the text → image attention of each BiFusion."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialCropd, SpatialPadd
from torch import Tensor, nn

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
class Look:
    """A window of a case around a class, and where a word of the class's prompt looks in it.

    ``mask`` H × W × D, the class's voxels; ``affine`` leads from voxels to mm; ``maps`` by stage, h × w × d,
    each of sum 1.
    """

    class_index: int
    word: str
    mask: np.ndarray
    affine: np.ndarray
    maps: dict[int, np.ndarray]

    def inside(self, stage: int) -> float:
        """The mean attention over the class's own voxels, as a multiple of one that is even."""
        attention = self.maps[stage]
        finer = np.kron(attention, np.ones(np.array(self.mask.shape) // attention.shape))
        return float(finer[self.mask].mean() * attention.size)


def looks(run: Run, case: Case, count: int = 3) -> list[Look]:
    """Where a trained run's prompts look in a case: of its ``count`` largest classes the titles' head nouns.

    A window is of the size that the network was trained on, its middle that of the class's box.

    Raises:
        BipvlError: no text reads the image in the run's network.
    """
    spec, texts = run.spec, prompt_texts(run.variant, run.spec)
    network = load_network(run.variant, run.model_folder).eval()
    prepare = prepare_transform(spec, run.config["spacing"])
    sample = prepare(case.paths)
    if not spec.overlapping:
        numbers = torch.arange(1, spec.num_classes + 1).view(-1, 1, 1, 1)
        sample["label"] = sample["label"] == numbers  # one channel a class
    sizes = sample["label"].sum((1, 2, 3)).tolist()
    largest = sorted(range(spec.num_classes), key=lambda c: -sizes[c])[:count]
    windows = {c: window_around(sample, c, run.config["crop"]) for c in largest if sizes[c]}
    return [_look(network, window, texts, c) for c, window in windows.items()]


def _look(network: BiPVLSeg, window: Mapping[str, MetaTensor], texts: Prompts, c: int) -> Look:
    image, word = window["image"], head_noun(texts[c][0])
    maps = word_attention(network, image[None].as_subclass(Tensor), texts, c, word)
    return Look(
        class_index=c,
        word=word,
        mask=window["label"][c].numpy().astype(bool),
        affine=image.affine.numpy(),
        maps={stage: attention.numpy() for stage, attention in maps.items()},
    )


def window_around(sample: Mapping[str, MetaTensor], c: int, crop: Sequence[int]) -> dict[str, MetaTensor]:
    """A prepared case (MetaTensors, one label channel a class) cut to a crop with class c in its middle.

    At the border of the case the window is moved inwards; a case smaller than it gets a border of zeros.
    """
    padded = SpatialPadd(KEYS, crop)(dict(sample))
    places = padded["label"][c].nonzero().as_subclass(Tensor)
    middle = (places.amin(0) + places.amax(0) + 1) // 2
    start = [
        min(max(0, int(m) - side // 2), size - side)
        for m, side, size in zip(middle, crop, padded["label"].shape[1:], strict=True)
    ]
    end = [a + side for a, side in zip(start, crop, strict=True)]
    return SpatialCropd(KEYS, roi_start=start, roi_end=end)(padded)


@torch.no_grad()
def word_attention(
    network: BiPVLSeg, volume: Tensor, prompts: Prompts, class_index: int, word: str
) -> dict[int, Tensor]:
    """Where a word of a class's prompt looks: of each fused stage a map h × w × d whose values sum to 1.

    The text → image attention of the block's last layer (METHOD.md, section 2, step 2), mean over its heads
    and over the tokens of the word wherever it stands in the prompt. The network never holds such a matrix;
    the word's few rows of it are computed here from the block's own projections.

    Args:
        network: in eval mode.
        volume: 1 × M × H × W × D.
        class_index: row c of the prompts.
        word: one of ``words_of``, in any case.

    Raises:
        BipvlError: the prompt has no such word, or no text reads the image in this network.
    """
    state = network.encode_prompts(prompts)
    rows = _rows(network.tokenizer, state.tokens, class_index, word)
    maps = {}
    with _projections(network) as seen:
        network.predict(volume, state)
    for stage, (attention, found) in seen.items():
        weights = attention_weights(attention, found["query"][:, rows], found["key"])
        shape = [side // 2 ** (stage + 1) for side in volume.shape[2:]]
        maps[stage] = weights.mean((0, 1, 2)).unflatten(0, shape)
    return maps


def attention_weights(attention: Attention, query: Tensor, key: Tensor) -> Tensor:
    """softmax(q kᵀ / √d) of projected queries B × Q × c and keys B × P × c: B × heads × Q × P."""
    q, k = (x.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for x in (query, key))
    return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)


def words_of(tokenizer: Any, ids: Tensor) -> dict[str, list[int]]:
    """The words among L token ids in lower case, each with the places of all its tokens."""
    words: list[tuple[str, list[int]]] = []
    for place, piece in enumerate(tokenizer.convert_ids_to_tokens(ids.tolist())):
        if piece.startswith("##"):  # goes on with the word before it
            word, places = words.pop()
            words.append((word + piece.removeprefix("##"), [*places, place]))
        else:
            words.append((piece, [place]))
    found: dict[str, list[int]] = {}
    for word, places in words:
        if re.fullmatch(r"\w+", word):  # neither [CLS] nor a full stop
            found.setdefault(word.lower(), []).extend(places)
    return found


def head_noun(title: str) -> str:
    """A title's last word before the first "of" or "in": "ventricle" of "Left ventricle in a CT image"."""
    words = re.findall(r"\w+", re.split(r"\b(?:of|in)\b", title)[0])
    if not words:
        raise BipvlError(f"the title '{title}' does not begin with the name of a class; give it one")
    return words[-1].lower()


def _rows(tokenizer: Any, tokens: PromptTokens, class_index: int, word: str) -> Tensor:
    """Which of the T tokens that fusion sees are the word's."""
    words = words_of(tokenizer, tokens.ids[class_index])
    if word.lower() not in words:
        raise BipvlError(
            f"the prompt of class {class_index} has no word '{word}'; its words are: {', '.join(words)}"
        )
    places = torch.tensor(words[word.lower()], device=tokens.valid.device)
    return torch.isin(tokens.valid, class_index * tokens.ids.shape[1] + places).nonzero().squeeze(1)


@contextmanager
def _projections(network: BiPVLSeg) -> Iterator[dict[int, tuple[Attention, dict[str, Tensor]]]]:
    """By fused stage its attention, and the ``query`` and ``key`` that it projects in a forward inside."""
    reading = [n for n in sorted(network.fused_stages) if network.fusions[n - 1].direction.text_reads]
    if not reading:
        raise BipvlError("no text reads the image in this network; give one that is fused in that direction")
    seen = {n: (network.fusions[n - 1].layers[-1].cross_attn_text_to_image, {}) for n in reading}
    handles = [
        module.register_forward_hook(partial(_keep, found, name))
        for attention, found in seen.values()
        for name, module in (("query", attention.q_proj), ("key", attention.k_proj))
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _keep(
    found: dict[str, Tensor], name: str, module: nn.Module, inputs: tuple[Tensor], output: Tensor
) -> None:
    found[name] = output
