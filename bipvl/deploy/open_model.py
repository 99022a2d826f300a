"""Open a trained run for prediction, with its own prompts or with others that are checked first."""

from pathlib import Path
from typing import Any

from bipvl.common.errors import BipvlError
from bipvl.data.prompt_edits import Texts
from bipvl.data.prompts import COLUMNS
from bipvl.deploy.exported_run import open_run
from bipvl.deploy.prompt_source import PromptSource, describe_prompts, texts_and_classes
from bipvl.engine.predict import Segmenter
from bipvl.engine.run import Run

ModelSource = str | Path | Run | Segmenter
"""A run's folder, or the run itself, loaded or not."""


def open_model(model: ModelSource, prompts: PromptSource = None) -> Segmenter:
    """Load a run and give it the prompts, which are checked before the network is loaded where possible.

    Raises:
        BipvlError: no run, no trained network, or prompts that do not fit the run, its classes or encoder.
    """
    run = run_of(model)
    texts, spec = texts_and_classes(run.spec, run.variant, prompts)  # first: loading takes longer
    segmenter = model if isinstance(model, Segmenter) else Segmenter(run=run)
    if prompts is None:
        return segmenter
    _check_lengths(texts, segmenter.network, describe_prompts(prompts))
    return segmenter.with_texts(texts, spec)


def run_of(model: ModelSource) -> Run:
    """The run behind a model."""
    if isinstance(model, Segmenter):
        return model.run
    return model if isinstance(model, Run) else open_run(model)


def _check_lengths(texts: Texts, network: Any, source: str) -> None:
    """Raise a BipvlError that names row and column if a class's texts are too long for the text encoder."""
    limit = network.text.config.max_position_embeddings - 2  # a special token at each end
    for number, row in enumerate(texts, start=1):
        tokens = network.tokenizer([f"{text}." for text in row], add_special_tokens=False, verbose=False)
        sizes = [*map(len, tokens["input_ids"])]
        if (total := sum(sizes)) > limit:
            problem = f"row {number} ('{row[0][:60]}') has {total} tokens, but the text encoder reads {limit}"
            longest = COLUMNS[sizes.index(max(sizes))]
            raise BipvlError(problem, f"shorten its column {longest} ({max(sizes)} tokens)", source)
