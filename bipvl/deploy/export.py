"""A trained run as one folder to share: weights, data set, prompts and a model card."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from bipvl.common.errors import BipvlError
from bipvl.common.files import atomic_path, write_json, write_text
from bipvl.data.layouts import read_json
from bipvl.data.spec import DatasetSpec
from bipvl.deploy.exported_run import CARD, PROMPTS, RUN, SPEC, first_line
from bipvl.engine.run import Run


def write_export(run: Run, folder: str | Path) -> None:
    """Write a run's weights, config, tokenizer, spec, prompts and model card into a new folder.

    Raises:
        BipvlError: the run is not trained or not evaluated; the folder is there already.
    """
    check_exportable(run, folder)
    with atomic_path(folder) as temporary:
        write_parts(run, temporary)


def write_parts(run: Run, folder: Path) -> None:
    """What an export holds, into a folder that is not there yet; the card last, as ``README.md``."""
    from bipvl.deploy.model_card import model_card

    shutil.copytree(run.model_folder, folder, ignore=shutil.ignore_patterns(CARD))
    write_json(folder / "config.json", _placeless(read_json(folder / "config.json")))
    shutil.copyfile(run.spec.prompts, folder / PROMPTS)
    write_text(folder / SPEC, spec_yaml(run.spec, prompts=PROMPTS))
    write_json(folder / RUN, run.config | {"dataset": run.spec.name})
    write_text(folder / CARD, model_card(run))


def check_exportable(run: Run, folder: str | Path) -> None:
    """Before anything is written: the run must be whole, the folder new; else a BipvlError."""
    if not run.model_folder.is_dir():
        raise BipvlError(f"{run.directory} holds no trained network (no model folder); train it first")
    if not (run.directory / "metrics.csv").is_file():
        raise BipvlError(
            f"{run.directory} has no scores for its model card; type first: bipvl evaluate {run.directory}"
        )
    if Path(folder).exists():
        raise BipvlError(f"{folder} is there already; give another name, or delete it")


def spec_yaml(spec: DatasetSpec, *, prompts: str) -> str:
    """A spec as the YAML that it could be read from; ``prompts`` is the path of its prompt CSV there.

    Of a split by case ids the YAML names a file alone, which is not there: an id may tell who a patient is.
    """
    fields = _filled(asdict(spec) | {"prompts": prompts})
    if not {"test", "val"} <= spec.split.keys() or "train" in spec.split:
        fields["split"] = "split.json"
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=110)


def _placeless(config: dict[str, Any]) -> dict[str, Any]:
    """A network's config without the folder that its text encoder was loaded from."""
    text = {key: value for key, value in config.get("text_config", {}).items() if key != "_name_or_path"}
    return config | ({"text_config": text} if text else {})


def _filled(value: Any) -> Any:
    """Mappings without what is empty, which a spec's YAML leaves out; tuples as lists."""
    if isinstance(value, dict):
        return {key: _filled(v) for key, v in value.items() if v is not None and v != () and v != {}}
    return [*map(_filled, value)] if isinstance(value, tuple) else value


def check_hub(repo_id: str) -> None:
    """Before all that is slow: a repository's name as the Hub wants it, and a token; else a BipvlError."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise BipvlError(f"'{repo_id}' is no name of a repository on the Hub; give USER/NAME") from error
    if get_token() is None:
        raise BipvlError("there is no token for the Hub here; set HF_TOKEN, or type first: hf auth login")


def push_folder(folder: str | Path, repo_id: str) -> str:
    """Upload an exported folder to the Hub, into a repository that is made where missing; its address.

    Raises:
        BipvlError: no token, no network, or no right to write there; the folder stays as it is.
    """
    from huggingface_hub import HfApi

    check_hub(repo_id)
    try:
        HfApi().create_repo(repo_id, exist_ok=True)
        HfApi().upload_folder(repo_id=repo_id, folder_path=folder)
    except Exception as error:  # its HTTP client's own errors change with the version
        raise BipvlError(
            f"{repo_id} could not be written on the Hub ({first_line(error)}); {folder} is whole: "
            f"later, type: hf upload {repo_id} {folder}"
        ) from error
    return f"https://huggingface.co/{repo_id}"
