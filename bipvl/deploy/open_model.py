"""Open a trained run for prediction, with its own prompts or with others that are checked first."""

from pathlib import Path
from typing import Any

from bipvl.common.errors import BipvlError
from bipvl.data.prompt_edits import Texts, edited
from bipvl.data.prompts import COLUMNS, PromptTable, check_prompts, named_classes, read_prompts
from bipvl.data.spec import DatasetSpec
from bipvl.deploy.exported_run import open_run
from bipvl.engine.predict import Segmenter
from bipvl.engine.run import Run
from bipvl.engine.variants import Variant, prompt_texts

ModelSource = str | Path | Run | Segmenter
"""A run's folder, or the run itself, loaded or not."""
PromptSource = str | Path | PromptTable | None
"""A prompt CSV or table; None for the data set's prompts."""


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


def texts_and_classes(
    spec: DatasetSpec, variant: Variant, prompts: PromptSource
) -> tuple[Texts, DatasetSpec]:
    """The texts that a network reads, and the spec whose classes are its output channels.

    Channel c is ``spec.classes[c]`` of the returned spec, with the code ``spec.decoded_codes[c]``. With the
    prompted head, the prompt rows define the classes; with all others, the rows must match the data set's
    classes in order, and its own spec is returned.

    Raises:
        BipvlError: the variant reads no prompts, or they do not fit the classes.
    """
    if prompts is None:
        return prompt_texts(variant, spec), spec
    if not variant.language:
        raise BipvlError(f"the variant '{variant.name}' reads no prompts", "leave them out")
    table = prompts if isinstance(prompts, PromptTable) else read_prompts(prompts)
    if variant.options.get("head") == "prompted":
        spec = spec.model_copy(update={"classes": named_classes(table, spec, describe_prompts(prompts))})
    else:
        check_prompts(table, spec, describe_prompts(prompts))
    return edited(table.segments(), variant.prompts), spec


def describe_prompts(prompts: PromptSource) -> str:
    """Where prompts come from, for messages and results."""
    if isinstance(prompts, PromptTable):
        return f"the prompt table '{prompts.name}'"
    return str(prompts) if prompts is not None else "the dataset's own"


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
