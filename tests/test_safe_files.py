"""Reading a file never runs code from it: no pickle, no code that comes with a model, no YAML objects."""

import ast
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from monai.data import PersistentDataset

import bipvl
from bipvl.common.errors import BipvlError
from bipvl.data.crops import prepared
from bipvl.data.layouts import list_cases
from bipvl.engine.predict import Segmenter
from bipvl.engine.run import Run
from bipvl.engine.train import train
from bipvl.model.text import load_backbone, load_tokenizer, text_config

PACKAGE = Path(bipvl.__file__).parent
ROOT = PACKAGE.parent
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "notebooks").glob("*.py")])
UNSAFE = {"torch.load", "pickle.load", "pickle.loads", "joblib.load", "yaml.unsafe_load", "yaml.full_load"}
UNSAFE |= {"eval", "exec", "os.system", "np.load", "numpy.load", "pd.read_pickle"}
ARGUMENTS = {"trust_remote_code": True, "weights_only": False, "allow_pickle": True, "sanitize_html": False}
SAFE_LOADERS = {"_StrictLoader"}


def unsafe_calls(source: str) -> list[str]:
    """The calls in a source file that could run code from a file."""
    found = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name, arguments = ast.unparse(call.func), {k.arg: ast.unparse(k.value) for k in call.keywords}
        arrays = arguments.get("allow_pickle") == "False"  # np.load of plain arrays
        unsafe = (name in UNSAFE and not arrays) or (
            name == "yaml.load" and arguments.get("Loader") not in SAFE_LOADERS
        )
        if unsafe or any(arguments.get(key) == str(value) for key, value in ARGUMENTS.items()):
            found.append(ast.unparse(call))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_runs_code_from_a_file(path):
    assert unsafe_calls(path.read_text(encoding="utf-8")) == []


def test_unsafe_calls_are_found():
    calls = ["torch.load(f)", "yaml.load(f)", "yaml.load(f, Loader=yaml.Loader)", "f(trust_remote_code=True)"]
    assert unsafe_calls("\n".join(calls)) == calls
    assert unsafe_calls("yaml.safe_load(f)\nf(trust_remote_code=False)\nnp.load(f, allow_pickle=False)") == []


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_code_that_comes_with_a_text_encoder_is_not_run(tmp_path):
    folder, sprung = tmp_path / "encoder", tmp_path / "sprung"
    folder.mkdir()
    (folder / "own.py").write_text(f"from pathlib import Path\nPath({str(sprung)!r}).touch()\n")
    own = {"AutoConfig": "own.C", "AutoModel": "own.M", "AutoTokenizer": ["own.T", None]}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": own}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T", "auto_map": own}))
    for load in (load_backbone, load_tokenizer):
        with pytest.raises(BipvlError, match="holds no complete transformers model"):
            load(str(folder))
    text_config(str(folder))
    assert not sprung.exists()


def test_a_text_encoder_with_pickled_code_is_refused(tmp_path, tiny_text_config):
    config = tiny_text_config()
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save({"x": Trap(tmp_path / "sprung")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(BipvlError, match="holds no complete transformers model"):
        load_backbone(str(tmp_path))
    assert not (tmp_path / "sprung").exists()


def test_a_pickled_network_is_not_read(tmp_path, trained_run):
    shutil.copytree(trained_run("swin_unetr_v2").directory, folder := tmp_path / "seed0")
    (folder / "model" / "model.safetensors").unlink()
    torch.save({"x": Trap(tmp_path / "sprung")}, folder / "model" / "pytorch_model.bin")
    with pytest.raises(BipvlError, match=r"model: no network of SwinUNETR-V2 can be loaded"):
        Segmenter(run=Run.open(folder))
    assert not (tmp_path / "sprung").exists()


def test_a_prepared_case_with_pickled_code_is_not_read(smoke_runs, tmp_path, trained_run):
    run = trained_run("swin_unetr_v2")
    cases = prepared(
        run.spec, list_cases(run.spec, smoke_runs.data_root)[:1], (10, 10, 10), tmp_path / "cache"
    )
    assert isinstance(cases, PersistentDataset) and cases[0]["image"].ndim == 4
    (kept,) = (tmp_path / "cache").rglob("*.pt")
    torch.save({"image": Trap(tmp_path / "sprung")}, kept)
    with pytest.warns(UserWarning, match="Corrupt cache file detected"):  # and prepared again
        assert cases[0]["image"].ndim == 4
    assert not (tmp_path / "sprung").exists()


def test_a_saved_state_with_pickled_code_is_not_read(smoke_runs, tmp_path, new_run, trained_run):
    run = new_run("swin_unetr_v2")
    state = run.directory / "state" / "step-00000001"
    state.mkdir(parents=True)
    shutil.copy(trained_run("swin_unetr_v2").directory / "history.csv", state)
    for name in ("optimizer.bin", "random_states_0.pkl"):
        torch.save({"x": Trap(tmp_path / "sprung")}, state / name)
    with pytest.raises(Exception):  # noqa: B017 - accelerate raises different ones
        train(run, smoke_runs.data_root, progress=False)
    assert not (tmp_path / "sprung").exists()


def test_a_yaml_object_is_not_created(tmp_path):
    from bipvl.analysis.studies import load_experiments

    path = tmp_path / "experiments.yaml"
    path.write_text(f"datasets: !!python/object/apply:pathlib.Path.touch [{tmp_path / 'sprung'}]")
    with pytest.raises(BipvlError, match="not readable as YAML"):
        load_experiments("quick", path)
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load(path.read_text())
    assert not (tmp_path / "sprung").exists()
