"""An exported run: the folder that ``bipvl export`` writes, opened like a trained one."""

from dataclasses import dataclass
from pathlib import Path

from bipvl.common.errors import BipvlError
from bipvl.data.layouts import read_json
from bipvl.data.prompt_edits import Texts
from bipvl.data.spec import DatasetSpec, load_spec
from bipvl.engine.run import Run
from bipvl.engine.variants import prompt_texts

RUN, SPEC, PROMPTS, CARD = "run.json", "dataset.yaml", "prompts.csv", "README.md"


@dataclass(frozen=True)
class Export(Run):
    """A run as ``bipvl export`` wrote it: all that segments a scan lies in one folder."""

    @property
    def spec(self) -> DatasetSpec:
        """The dataset's spec, with the prompts beside it."""
        return load_spec(self.directory / SPEC)

    @property
    def model_folder(self) -> Path:
        """Weights and config, for ``from_pretrained``."""
        return self.directory

    @property
    def texts(self) -> Texts:
        """N × (K + 1) texts that the network was trained with."""
        return prompt_texts(self.variant, self.spec)


def open_export(source: str | Path) -> Export:
    """An exported run: its folder, or the id of a repository on the Hub, which is downloaded.

    Raises:
        BipvlError: no such folder or repository, or another kind of folder.
    """
    folder = Path(source) if Path(source).is_dir() else _download(str(source))
    if not (folder / RUN).is_file():
        raise BipvlError(
            f"{source} holds no exported run (no {RUN}); write one with: bipvl export RUN FOLDER"
        )
    return Export(folder, read_json(folder / RUN))


def open_run(folder: str | Path) -> Run:
    """A run that lies on disk, as it was trained or as it was exported."""
    return open_export(folder) if Path(folder, RUN).is_file() else Run.open(folder)


def _download(repo_id: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo_id))
    except Exception as error:  # a path that is none, no network, no such repository: each another kind
        raise BipvlError(
            f"{repo_id} is neither a folder nor a repository on the Hub that can be reached from here "
            f"({first_line(error)})"
        ) from error


def first_line(error: Exception) -> str:
    """The first line of an error's message, without its full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
