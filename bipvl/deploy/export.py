"""Export a trained run as one folder to share: weights, data set YAML, prompts and a model card."""

import shutil
from pathlib import Path
from typing import Any

import yaml

from bipvl.common.errors import BipvlError
from bipvl.common.files import atomic_path, write_json, write_text
from bipvl.data.layouts import read_json
from bipvl.data.spec import DatasetSpec
from bipvl.deploy.exported_run import RUN_FILE, SPEC_FILE, first_line
from bipvl.engine.run import Run

CARD_FILE = "README.md"
"""The model card; the Hub shows it as the repository's front page."""
PROMPTS_FILE = "prompts.csv"


def write_export(run: Run, folder: str | Path) -> None:
    """Write a run's weights, config, tokenizer, spec, prompts and model card into a new folder.

    Raises:
        BipvlError: the run is not trained or not evaluated, or the folder exists.
    """
    check_exportable(run, folder)
    with atomic_path(folder) as temporary:
        write_parts(run, temporary)


def write_parts(run: Run, folder: Path) -> None:
    """Write the files of an export into a folder that does not exist yet; the model card last."""
    from bipvl.deploy.model_card import model_card

    shutil.copytree(run.model_folder, folder, ignore=shutil.ignore_patterns(CARD_FILE))
    config = read_json(folder / "config.json")
    config.get("text_config", {}).pop("_name_or_path", None)  # a private folder of this machine
    write_json(folder / "config.json", config)
    shutil.copyfile(run.spec.prompts, folder / PROMPTS_FILE)
    write_text(folder / SPEC_FILE, spec_yaml(run.spec, prompts=PROMPTS_FILE))
    write_json(folder / RUN_FILE, run.config | {"dataset": run.spec.name})
    write_text(folder / CARD_FILE, model_card(run))


def check_exportable(run: Run, folder: str | Path) -> None:
    """Raise a BipvlError if the run is not trained or not evaluated, or if the folder exists."""
    run.check_has_network()
    if not (run.directory / "metrics.csv").is_file():
        fix = f"first type: bipvl evaluate {run.directory}"
        raise BipvlError("no scores for the model card", fix, run.directory)
    if Path(folder).exists():
        raise BipvlError("already exists", "give another name, or delete it", folder)


def spec_yaml(spec: DatasetSpec, *, prompts: str) -> str:
    """A spec as YAML that ``load_spec`` reads; ``prompts`` is the path of the prompt CSV in it.

    A split by case ids is left out, since an id may identify a patient; the YAML names a file that is not
    exported instead.
    """
    fields = _filled(spec.model_dump() | {"prompts": prompts})
    if not {"test", "val"} <= spec.split.keys() or "train" in spec.split:
        fields["split"] = "split.json"
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=110)


def _filled(value: Any) -> Any:
    """The value without empty entries of mappings, and with lists in place of tuples."""
    if isinstance(value, dict):
        return {key: _filled(v) for key, v in value.items() if v is not None and v != () and v != {}}
    return [*map(_filled, value)] if isinstance(value, tuple) else value


def check_hub(repo_id: str) -> None:
    """Raise a BipvlError if the repository's name is invalid or no token for the Hub is set."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        problem = f"'{repo_id}' is not the name of a repository on the Hub"
        raise BipvlError(problem, "give USER/NAME") from error
    if get_token() is None:
        raise BipvlError("there is no token for the Hub", "set HF_TOKEN, or first type: hf auth login")


def push_folder(folder: str | Path, repo_id: str) -> str:
    """Upload an exported folder to the Hub, which creates the repository if needed; returns its address.

    Raises:
        BipvlError: no token, no network, or no permission to write there; the folder stays as it is.
    """
    from huggingface_hub import HfApi

    check_hub(repo_id)
    try:
        HfApi().create_repo(repo_id, exist_ok=True)
        HfApi().upload_folder(repo_id=repo_id, folder_path=folder)
    except Exception as error:  # the error classes of its HTTP client change with the version
        problem = f"{folder} is complete, but its upload to the Hub failed ({first_line(error)})"
        raise BipvlError(problem, f"later, type: hf upload {repo_id} {folder}", repo_id) from error
    return f"https://huggingface.co/{repo_id}"
