"""Check what ``bipvl segment`` is asked to do as far as that needs neither torch nor MONAI."""

from pathlib import Path

from bipvl.deploy.inputs import ScanFiles, scans_at, targets_of
from bipvl.deploy.prompt_source import PromptSource, texts_and_classes
from bipvl.engine.run import Run


def check_request(
    image: str | Path, run: Run, output: str | Path, prompts: PromptSource
) -> tuple[list[ScanFiles], list[Path]]:
    """The scans at a path and the label map to write for each.

    Raises:
        BipvlError: no scan, an output that would overwrite a scan, or prompts that do not fit the run.
    """
    scans = scans_at(image, len(run.spec.channels))
    targets = targets_of(image, scans, output)
    texts_and_classes(run.spec, run.variant, prompts)
    return scans, targets
