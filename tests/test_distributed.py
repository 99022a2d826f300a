"""Several processes that share a batch, or the test cases, give the same result as one process."""

import socket
from multiprocessing import Process
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from sharing import train_and_evaluate
from warm_processes import start

from bipvl.common.errors import BipvlError
from bipvl.common.files import write_json
from bipvl.data.layouts import list_cases
from bipvl.data.spec import load_spec
from bipvl.data.splits import Split, write_split
from bipvl.data.synthetic import synthesize
from bipvl.engine.checkpoints import Progress
from bipvl.engine.checksums import case_checksums
from bipvl.engine.run import Run
from bipvl.engine.variants import ALL_TERMS
from bipvl.model.losses import Objective

VARIANTS = ("bipvlseg", "segmentation_alone")
"""The second's objective does not use all parameters of its network."""


def start_all(folder: Path, data_root: Path, processes: int) -> list[Process]:
    """Start the processes of one training."""
    cases = [f"ct_train_{number}" for number in range(1001, 1007)]
    split = Split("mmwhs_ct", 0, train=tuple(cases[:2]), val=(cases[2],), test=tuple(cases[3:]))
    write_split(split, folder / "smoke" / "mmwhs_ct" / "split.json")
    data = list_cases(load_spec("mmwhs_ct"), data_root)
    write_json(folder / "smoke" / "mmwhs_ct" / "data.json", case_checksums(data))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    common = (processes, port, data_root, folder, VARIANTS)
    return [start(train_and_evaluate, rank, *common) for rank in range(processes)]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Variant → its runs with one and with two processes; two training, one validation, three test cases."""
    root = tmp_path_factory.mktemp("distributed")
    synthesize("mmwhs_ct", root / "data", cases=6, size=(32, 32, 32), progress=False)
    one, two = (start_all(root / str(processes), root / "data", processes) for processes in (1, 2))
    for process in [*one, *two]:
        process.join()
        assert process.exitcode == 0
    home = {processes: root / str(processes) / "smoke" / "mmwhs_ct" for processes in (1, 2)}
    return {v: [Run.open(home[processes] / v / "seed0") for processes in (1, 2)] for v in VARIANTS}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_train_as_one_with_the_same_global_batch(both, variant):
    alone, shared = (pd.read_csv(run.directory / "history.csv") for run in both[variant])
    assert len(alone) == 3 and alone["total"].is_unique
    pd.testing.assert_frame_equal(alone, shared, rtol=0, atol=1e-5)
    mine, other = (load_file(run.model_folder / "model.safetensors") for run in both[variant])
    assert mine.keys() == other.keys()
    assert max(float((mine[name] - other[name]).abs().max()) for name in mine) < 1e-5


@pytest.mark.slow
def test_two_processes_score_each_of_three_cases_once(both):
    alone, shared = (run.directory for run in both["bipvlseg"])
    tables = [pd.read_csv(folder / "metrics.csv", keep_default_na=False) for folder in (alone, shared)]
    assert tables[0]["case"].nunique() == 3
    pd.testing.assert_frame_equal(*tables, rtol=0, atol=1e-5)
    assert {path.name for path in (alone / "predictions").iterdir()} == {
        path.name for path in (shared / "predictions").iterdir()
    }


@pytest.mark.slow
def test_the_manifest_records_the_number_of_processes(both):
    for processes, run in zip((1, 2), both["bipvlseg"], strict=True):
        phases = pd.read_json(run.directory / "manifest.json", typ="series")["phases"]
        assert {name: phase["processes"] for name, phase in phases.items()} == {
            "train": processes,
            "evaluate": processes,
        }


def test_a_training_resumes_only_with_the_same_number_of_processes(tmp_path):
    run = Run(tmp_path, {})
    for name in ("random_states_0.pkl", "random_states_1.pkl"):
        path = tmp_path / "state" / "step-00000004" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with pytest.raises(BipvlError, match=r"by 2 process\(es\) so far and now there are 3; resume with 2"):
        Progress.resume(run, SimpleNamespace(num_processes=3))


# The reason: a training network draws nothing at random, and a loss is a mean over samples.


def test_a_sample_has_the_same_output_in_any_batch(tiny_bipvlseg, tiny_tokens):
    network = tiny_bipvlseg().train()
    volumes = torch.randn(3, 1, 16, 16, 24)
    together = network(volumes, tiny_tokens())
    for k in range(3):
        alone = network(volumes[k : k + 1], tiny_tokens())
        for name in ("logits", "class_logits", "visual", "text"):
            assert torch.allclose(getattr(together, name)[k], getattr(alone, name)[0], atol=1e-4), name


@pytest.mark.parametrize("dataset", ["mmwhs_ct", "msd_brain"])
def test_the_loss_of_a_batch_is_the_mean_over_its_samples(dataset):
    spec = load_spec(dataset)
    classes, channels = spec.num_classes, spec.out_channels
    objective = Objective(
        terms=ALL_TERMS, overlapping=spec.overlapping, class_weights=torch.rand(channels) + 0.1
    )
    random = torch.Generator().manual_seed(0)
    shapes = {
        "logits": (3, channels, 8, 8, 8),
        "class_logits": (3, channels, 27),
        "visual": (3, classes, 16),
        "text": (3, classes, 6, 16),
    }
    output = {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}
    if spec.overlapping:
        target = torch.randint(0, 2, (3, channels, 8, 8, 8), generator=random)
    else:  # another mixture of classes in each sample
        target = torch.stack([torch.randint(0, 2 + 2 * k, (1, 8, 8, 8), generator=random) for k in range(3)])

    def loss(rows):
        torch.manual_seed(1)
        return objective(SimpleNamespace(**{n: t[rows] for n, t in output.items()}), target[rows])

    total, losses = loss(slice(None))
    each = [loss(slice(k, k + 1)) for k in range(3)]
    assert total.item() == pytest.approx(sum(t.item() for t, _ in each) / 3, abs=1e-6)
    for name, value in losses.items():
        assert value.item() == pytest.approx(sum(one[name].item() for _, one in each) / 3, abs=1e-6), name
