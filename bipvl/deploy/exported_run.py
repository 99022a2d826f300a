"""An exported run: the folder that ``bipvl export`` writes, opened like a trained run."""

from dataclasses import dataclass
from pathlib import Path

from bipvl.common.errors import BipvlError
from bipvl.data.layouts import read_json
from bipvl.data.prompt_edits import Texts
from bipvl.data.spec import DatasetSpec, load_spec
from bipvl.engine.run import Run
from bipvl.engine.variants import prompt_texts

RUN_FILE = "run.json"
"""The run's configuration; a folder that holds this file is an export."""
SPEC_FILE = "dataset.yaml"
"""The data set's YAML, beside its prompts."""


@dataclass(frozen=True)
class Export(Run):
    """A run as ``bipvl export`` wrote it: one folder with everything that segmenting a scan needs."""

    @property
    def spec(self) -> DatasetSpec:
        """The data set's spec, from the export itself."""
        return load_spec(self.directory / SPEC_FILE)

    @property
    def model_folder(self) -> Path:
        """Weights and config, for ``from_pretrained``."""
        return self.directory

    @property
    def texts(self) -> Texts:
        """The N × (K + 1) texts that the network was trained with."""
        return prompt_texts(self.variant, self.spec)


def open_export(source: str | Path) -> Export:
    """Open an exported run: its folder, or the id of a repository on the Hub, which is downloaded.

    Raises:
        BipvlError: no such folder or repository, or a folder that is not an export.
    """
    folder = Path(source) if Path(source).is_dir() else _download(str(source))
    if not (folder / RUN_FILE).is_file():
        fix = "write one with: bipvl export RUN FOLDER"
        raise BipvlError(f"not an exported run (no {RUN_FILE})", fix, source)
    return Export(folder, read_json(folder / RUN_FILE))


def open_run(folder: str | Path) -> Run:
    """Open a run on disk, trained or exported."""
    return open_export(folder) if Path(folder, RUN_FILE).is_file() else Run.open(folder)


def _download(repo_id: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo_id))
    except Exception as error:  # invalid name, no network, no such repository: a different class for each
        problem = f"neither a folder nor a repository on the Hub that can be reached ({first_line(error)})"
        fix = "check the path, the repository's name and your network"
        raise BipvlError(problem, fix, repo_id) from error


def first_line(error: Exception) -> str:
    """The first line of an error's message, without its full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
