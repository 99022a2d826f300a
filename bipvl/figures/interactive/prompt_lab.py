"""Ask a trained network with other texts: their effect on masks, similarities and word attention."""

from collections.abc import Mapping
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bipvl.analysis.word_attention import window_around, word_attention, words_of
from bipvl.common.errors import BipvlError
from bipvl.common.lookup import choose
from bipvl.data.labels import innermost
from bipvl.data.layouts import Case
from bipvl.data.prompt_edits import Texts, edited
from bipvl.data.prompts import COLUMNS
from bipvl.data.transforms import prepare_transform
from bipvl.engine.build import load_network
from bipvl.engine.metrics import class_masks, dice_scores
from bipvl.engine.predict import to_labels
from bipvl.engine.run import Run
from bipvl.engine.snapshots import Snapshot
from bipvl.engine.variants import prompt_texts
from bipvl.figures.slice_tables import LIST, as_seen, pixel_table
from bipvl.figures.word_attention import STAGE, rescaled, times
from bipvl.model.losses import TEMPERATURE
from bipvl.model.tokens import tokenize

TRAINED = "as trained"
SHOWN_EDITS = ("paraphrased", "ambiguous", "other_details", "mirrored", "typing_errors")
"""Edits of ``bipvl.data.prompt_edits`` that keep each concept in its place; the first keeps its meaning."""


@dataclass(frozen=True, kw_only=True)
class ClassWindow:
    """A crop of a case at working spacing, centred on a class.

    ``image`` M × H × W × D; ``truth`` N × H × W × D, one mask per class; ``affine`` from voxels to mm.
    """

    case: str
    class_index: int
    image: Tensor
    truth: Tensor
    affine: np.ndarray

    @property
    def slice(self) -> int:
        """The axial slice with most of the class."""
        return int(self.truth[self.class_index].sum((0, 1)).argmax())


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The output of a network for a window and texts.

    ``masks`` N × H × W × D, one per class; ``dice`` of the window's class; ``similarity`` N, cosines of its
    global text vector with each class's visual vector; ``attention`` to a word by stage, h × w × d, in
    multiples of uniform attention, empty if the class's texts lack the word.
    """

    masks: Tensor
    dice: float
    similarity: np.ndarray
    attention: dict[int, np.ndarray]


class Lab:
    """A trained run to ask with any texts; ``texts`` N × (K + 1) are those of its training.

    Raises:
        BipvlError: the run is not trained, or its network reads no prompts.
    """

    def __init__(self, *, run: Run, device: torch.device | None = None) -> None:
        if not run.variant.language:
            problem = f"is a run of {run.variant.title}, which reads no prompts"
            raise BipvlError(problem, "give a run of a variant that does", run.directory)
        run.check_has_network()
        from accelerate import Accelerator

        self.run, self.spec = run, run.spec
        self.texts = prompt_texts(run.variant, run.spec)
        self.device = device or Accelerator().device
        self.network = load_network(run.variant, run.model_folder).eval().to(self.device)

    def window(self, case: Case, class_index: int) -> ClassWindow:
        """The part of a case around a class, of the size of the network's training crops.

        Raises:
            BipvlError: the case cannot be read, or has no voxel of the class.
        """
        prepare = prepare_transform(self.spec, self.run.config["spacing"])
        sample = prepare(case.paths)
        sample["label"] = class_masks(sample["label"], self.spec)
        present = [c.name for c, mask in zip(self.spec.classes, sample["label"], strict=True) if mask.any()]
        if (name := self.spec.classes[class_index].name) not in present:
            raise BipvlError(f"the case {case.id} has no {name}", f"choose one of: {', '.join(present)}")
        crop = window_around(sample, class_index, self.run.config["crop"])
        return ClassWindow(
            case=case.id,
            class_index=class_index,
            image=crop["image"].as_subclass(Tensor),
            truth=crop["label"].as_subclass(Tensor) > 0,
            affine=crop["image"].affine.numpy(),
        )

    def words(self, texts: Texts, class_index: int) -> list[str]:
        """The words of a class's texts that ``ask`` accepts."""
        tokenizer = self.network.tokenizer
        return list(words_of(tokenizer, tokenize(tokenizer, texts).ids[class_index]))

    @torch.no_grad()
    def ask(self, window: ClassWindow, texts: Texts, word: str) -> Answer:
        """Run the network on a window with texts, N × (K + 1).

        Raises:
            BipvlError: a text is too long for the text encoder, or no text reads the image in this network.
        """
        volume, c = window.image[None].to(self.device), window.class_index
        output = self.network(volume, texts)
        labels = to_labels(output.logits[0].cpu(), overlapping=self.spec.overlapping)
        masks = class_masks(labels, self.spec)
        vectors = Snapshot(step=0, cases=1, visual=output.visual[0].cpu(), text=output.text[0].cpu())
        temperature = self.run.variant.objective.get("temperature", TEMPERATURE)
        known = word.lower() in self.words(texts, c)
        maps = word_attention(self.network, volume, texts, c, word) if known else {}
        return Answer(
            masks=masks,
            dice=dice_scores(masks, window.truth)[c].item(),
            similarity=vectors.similarity(temperature)[c].numpy(),
            attention={stage: share.numel() * share.cpu().numpy() for stage, share in maps.items()},
        )

    def table(self, window: ClassWindow, asked: Mapping[str, Texts], word: str, concept: str) -> pd.DataFrame:
        """Answers to named texts on the window's axial slice with most of the class, as ``pixel_table``s.

        Columns: the facts; ``row``; ``pixel``; ``image`` (0…255); ``truth`` and ``prediction`` (number of the
        class, 0 background, of nested classes the innermost); ``stage_n``, the word's attention in per cent
        of uniform attention. The facts include ``similarity_c`` with each class c (from 1) and ``changed``,
        the number of voxels in the window whose classes differ from the first answer.

        Args:
            concept: the column of the prompts whose text becomes a fact.

        Raises:
            BipvlError: no text has the word; otherwise as for ``ask`` and ``column``.
        """
        place = column(self.texts, concept)
        if not any(word.lower() in self.words(texts, window.class_index) for texts in asked.values()):
            known = ", ".join(self.words(self.texts, window.class_index))
            raise BipvlError(f"no prompt of this class has the word '{word}'", f"choose one of: {known}")
        answers = {name: self.ask(window, texts, word) for name, texts in asked.items()}
        first = next(iter(answers.values()))
        parts = []
        for name, answer in answers.items():
            facts = self._facts(window, word, concept) | {
                "edit": name,
                "text": asked[name][window.class_index][place],
                "dice": answer.dice,
                "changed": int((answer.masks != first.masks).any(0).sum()),
                **{f"similarity_{c}": float(s) for c, s in enumerate(answer.similarity, start=1)},
                **{f"grid_{stage}": times(m.shape) for stage, m in answer.attention.items()},
            }
            parts.append(pixel_table(facts, self._layers(window, answer)))
        table = pd.concat(parts, ignore_index=True)
        pixels = ["row", "pixel", "image", "truth", "prediction"]
        last = [*pixels, *(name for name in table.columns if name.startswith(STAGE))]
        return table[[*(name for name in table.columns if name not in last), *last]]

    def attention_image(self, window: ClassWindow, answer: Answer, stage: int) -> nib.Nifti1Image:
        """A word's attention at a stage, as an image for ``viewer.view``."""
        attention = answer.attention[stage]
        affine = rescaled(window.affine, np.divide(window.image.shape[1:], attention.shape))
        return nib.Nifti1Image(attention.astype(np.float32), affine)

    def _facts(self, window: ClassWindow, word: str, concept: str) -> dict[str, object]:
        config, spacing = self.run.config, np.linalg.norm(window.affine[:3, :3], axis=0)
        return {
            **{key: config[key] for key in ("cohort", "profile", "variant")},
            "seeds": str(config["seed"]),
            "dataset": self.spec.name,
            "case": window.case,
            "class": self.spec.classes[window.class_index].name,
            "class_number": window.class_index + 1,
            "classes": LIST.join(c.name for c in self.spec.classes),
            "channel": self.spec.channels[0],
            "word": word.lower(),
            "concept": concept,
            "window": times(window.image.shape[1:]),
            "pixel_height_mm": spacing[1],
            "pixel_width_mm": spacing[0],
        }

    def _layers(self, window: ClassWindow, answer: Answer) -> dict[str, np.ndarray]:
        """The pictures of the window's slice."""
        volumes = {
            "image": _grey(window.image[0].numpy()),
            "truth": innermost(self.spec, window.truth),
            "prediction": innermost(self.spec, answer.masks),
        }
        for stage, attention in answer.attention.items():
            block = np.ones(np.array(window.image.shape[1:]) // attention.shape)
            volumes[f"{STAGE}{stage}"] = np.rint(100 * np.kron(attention, block)).astype(int)
        return {name: as_seen(volume[..., window.slice]) for name, volume in volumes.items()}


def column(texts: Texts, concept: str) -> int:
    """The index of the title or of a concept among a class's K + 1 texts.

    Raises:
        BipvlError: the prompts have no such column, or the network was trained without it.
    """
    place = choose("column of the prompts", concept, {name: k for k, name in enumerate(COLUMNS)})
    if place >= len(texts[0]):
        raise BipvlError(f"this network was trained with titles only, without '{concept}'", "edit the Title")
    return place


def with_text(texts: Texts, class_index: int, concept: str, text: str) -> Texts:
    """Replace the text of a concept (or the Title) of a class.

    Raises:
        BipvlError: the text is empty; otherwise as for ``column``.
    """
    place = column(texts, concept)
    if not text.strip():
        raise BipvlError(f"the text of '{concept}' is empty", "write at least one word")
    full = text.strip() if concept == COLUMNS[0] else f"{concept}: {text.strip()}"
    return _replaced(texts, class_index, place, full)


def some_edits(texts: Texts, class_index: int, concept: str) -> dict[str, Texts]:
    """The trained texts, then each edit that changes one concept of one class."""
    place, found = column(texts, concept), {TRAINED: texts}
    for name in SHOWN_EDITS:
        text = edited(texts, name)[class_index][place]
        if text != texts[class_index][place]:
            found[name.replace("_", " ")] = _replaced(texts, class_index, place, text)
    return found


def _replaced(texts: Texts, class_index: int, place: int, text: str) -> Texts:
    changed = [list(row) for row in texts]
    changed[class_index][place] = text
    return changed


def _grey(image: np.ndarray) -> np.ndarray:
    """Grey values 0…255 from the 1st to the 99.5th percentile of the foreground; the background is black."""
    content = image != 0
    low, high = np.percentile(image[content], [1, 99.5])
    grey = 255 * (np.clip(image, low, high) - low) / ((high - low) or 1)
    return np.rint(grey * content).astype(np.uint8)
