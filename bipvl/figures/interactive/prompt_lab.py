"""A trained network asked with other texts: what a class's mask, similarities and word attention become."""

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
from bipvl.figures.slice_tables import LIST
from bipvl.figures.word_attention import rescaled
from bipvl.model.losses import TEMPERATURE
from bipvl.model.tokens import tokenize

TRAINED = "as trained"
SHOWN_EDITS = ("paraphrased", "ambiguous", "other_details", "mirrored", "typing_errors")
"""Of ``bipvl.data.prompt_edits`` those that leave a concept its place; the first keeps what it says."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """A crop of a case on the working grid with a class in its middle.

    ``image`` M × H × W × D; ``truth`` N × H × W × D, one mask a class; ``affine`` from voxels to mm.
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
    """What a network makes of a window with some texts.

    ``masks`` N × H × W × D, one a class; ``dice`` of the window's class; ``similarity`` N, cosines of its
    global text vector with each class's visual vector; ``attention`` of a word by stage, h × w × d, as
    multiples of an even one, without a stage where the class's texts lack the word.
    """

    masks: Tensor
    dice: float
    similarity: np.ndarray
    attention: dict[int, np.ndarray]


class Lab:
    """A trained run that can be asked with any texts; ``texts`` N × (K + 1) are those it was trained with.

    Raises:
        BipvlError: the run is not trained, or its network reads no prompts.
    """

    def __init__(self, *, run: Run, device: torch.device | None = None) -> None:
        if not run.variant.language:
            raise BipvlError(
                f"{run.directory} is a run of {run.variant.title}, which reads no prompts; give one that does"
            )
        if not run.model_folder.is_dir():
            raise BipvlError(f"{run.directory} holds no trained network (no model folder); train it first")
        from accelerate import Accelerator

        self.run, self.spec = run, run.spec
        self.texts = prompt_texts(run.variant, run.spec)
        self.device = device or Accelerator().device
        self.network = load_network(run.variant, run.model_folder).eval().to(self.device)

    def window(self, case: Case, class_index: int) -> Window:
        """The part of a case around a class, as large as the network's training crops.

        Raises:
            BipvlError: the case cannot be read, or has no voxel of the class.
        """
        prepare = prepare_transform(self.spec, self.run.config["spacing"])
        sample = prepare(case.paths)
        sample["label"] = class_masks(sample["label"], self.spec)
        present = [c.name for c, mask in zip(self.spec.classes, sample["label"], strict=True) if mask.any()]
        if (name := self.spec.classes[class_index].name) not in present:
            raise BipvlError(f"the case {case.id} has no {name}; choose one of: {', '.join(present)}")
        crop = window_around(sample, class_index, self.run.config["crop"])
        return Window(
            case=case.id,
            class_index=class_index,
            image=crop["image"].as_subclass(Tensor),
            truth=crop["label"].as_subclass(Tensor) > 0,
            affine=crop["image"].affine.numpy(),
        )

    def words(self, texts: Texts, class_index: int) -> list[str]:
        """The words of a class's texts, as ``ask`` takes them."""
        return list(
            words_of(self.network.tokenizer, tokenize(self.network.tokenizer, texts).ids[class_index])
        )

    @torch.no_grad()
    def ask(self, window: Window, texts: Texts, word: str) -> Answer:
        """What the network makes of a window with these texts, N × (K + 1).

        Raises:
            BipvlError: a text too long for the text encoder, or no text reads the image in this network.
        """
        volume, c = window.image[None].to(self.device), window.class_index
        output = self.network(volume, texts)
        labels = to_labels(output.logits[0].cpu(), overlapping=self.spec.overlapping)
        masks = class_masks(labels, self.spec)
        vectors = Snapshot(step=0, cases=1, visual=output.visual[0].cpu(), text=output.text[0].cpu())
        temperature = self.run.variant.objective.get("temperature", TEMPERATURE)
        maps = {}
        if word.lower() in self.words(texts, c):
            maps = word_attention(self.network, volume, texts, c, word)
        return Answer(
            masks=masks,
            dice=dice_scores(masks, window.truth)[c].item(),
            similarity=vectors.similarity(temperature)[c].numpy(),
            attention={
                stage: attention.numel() * attention.cpu().numpy() for stage, attention in maps.items()
            },
        )

    def table(self, window: Window, asked: Mapping[str, Texts], word: str, concept: str) -> pd.DataFrame:
        """Answers to texts by name, each on the window's axial slice with most of the class, a pixel a row.

        Columns: what is said of the answer, in its first row alone; ``row`` (from the patient's front),
        ``pixel`` (from the patient's right); ``image`` (0…255); ``truth`` and ``prediction`` (number of the
        class, 0 background, of nested classes the innermost); ``stage_n``, the word's attention in per cent
        of an even one. Among what is said: ``similarity_c`` with each class c (from 1), and ``changed``, the
        voxels of the window with other classes than in the first answer.

        Args:
            concept: of the prompts' columns, the one whose text is said of each answer.

        Raises:
            BipvlError: as ``ask`` and ``column`` do, or no text has the word.
        """
        place = column(self.texts, concept)
        if not any(word.lower() in self.words(texts, window.class_index) for texts in asked.values()):
            raise BipvlError(
                f"no prompt of this class has the word '{word}'; its words are: "
                f"{', '.join(self.words(self.texts, window.class_index))}"
            )
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
                **{f"grid_{stage}": _times(m.shape) for stage, m in answer.attention.items()},
            }
            parts.append(pd.concat([pd.DataFrame(facts, index=[0]), self._pixels(window, answer)], axis=1))
        table = pd.concat(parts, ignore_index=True)
        pixels = ["row", "pixel", "image", "truth", "prediction"]
        last = [*pixels, *(name for name in table.columns if name.startswith("stage_"))]
        return table[[*(name for name in table.columns if name not in last), *last]]

    def attention_image(self, window: Window, answer: Answer, stage: int) -> nib.Nifti1Image:
        """A word's attention at a stage, as ``viewer.view`` takes it."""
        attention = answer.attention[stage]
        affine = rescaled(window.affine, np.divide(window.image.shape[1:], attention.shape))
        return nib.Nifti1Image(attention.astype(np.float32), affine)

    def _facts(self, window: Window, word: str, concept: str) -> dict[str, object]:
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
            "window": _times(window.image.shape[1:]),
            "pixel_height_mm": spacing[1],
            "pixel_width_mm": spacing[0],
        }

    def _pixels(self, window: Window, answer: Answer) -> pd.DataFrame:
        """A row a pixel of the window's slice."""

        def picture(volume: np.ndarray) -> np.ndarray:
            return np.flip(volume[..., window.slice].T)

        layers = {
            "image": picture(_grey(window.image[0].numpy())),
            "truth": picture(innermost(self.spec, window.truth)),
            "prediction": picture(innermost(self.spec, answer.masks)),
        }
        for stage, attention in answer.attention.items():
            block = np.ones(np.array(window.image.shape[1:]) // attention.shape)
            layers[f"stage_{stage}"] = np.rint(100 * picture(np.kron(attention, block))).astype(int)
        row, pixel = (grid.ravel() for grid in np.indices(layers["image"].shape))
        return pd.DataFrame({"row": row, "pixel": pixel} | {name: v.ravel() for name, v in layers.items()})


def column(texts: Texts, concept: str) -> int:
    """Which of a class's K + 1 texts is the title, or a concept's.

    Raises:
        BipvlError: no such column of the prompts, or the network was trained without it.
    """
    place = choose("column of the prompts", concept, {name: k for k, name in enumerate(COLUMNS)})
    if place >= len(texts[0]):
        raise BipvlError(f"this network was trained with titles alone, without '{concept}'; edit the Title")
    return place


def with_text(texts: Texts, class_index: int, concept: str, text: str) -> Texts:
    """The texts with another one for a concept (or the Title) of a class.

    Raises:
        BipvlError: an empty text, and what ``column`` raises.
    """
    place = column(texts, concept)
    if not text.strip():
        raise BipvlError(f"the text of '{concept}' is empty; write at least a word")
    said = text.strip() if concept == COLUMNS[0] else f"{concept}: {text.strip()}"
    return _replaced(texts, class_index, place, said)


def some_edits(texts: Texts, class_index: int, concept: str) -> dict[str, Texts]:
    """The texts as they are, then with one concept of one class edited in each way that changes it."""
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
    """The 1st to 99.5th percentile of what is not background, as 0…255; the background, 0, is black."""
    content = image != 0
    low, high = np.percentile(image[content], [1, 99.5])
    grey = 255 * (np.clip(image, low, high) - low) / ((high - low) or 1)
    return np.rint(grey * content).astype(np.uint8)


def _times(sides: tuple[int, ...]) -> str:
    return " × ".join(map(str, sides))
