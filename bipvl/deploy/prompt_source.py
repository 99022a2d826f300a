"""Prompts that replace a data set's: checked against a run's variant and classes, before anything slow."""

from pathlib import Path

from bipvl.common.errors import BipvlError
from bipvl.data.prompt_edits import Texts, edited
from bipvl.data.prompts import PromptTable, check_prompts, named_classes, read_prompts
from bipvl.data.spec import DatasetSpec
from bipvl.engine.variants import Variant, prompt_texts

PromptSource = str | Path | PromptTable | None
"""A prompt CSV or table; None for the data set's prompts."""


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
