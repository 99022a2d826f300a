"""Many runs: as jobs of a Slurm cluster, and in parallel on one machine."""

import json
import os
import re
from pathlib import Path

import pytest
import yaml
from test_workflow import ROOT, snakemake, write_data_notebook, write_experiments, write_notebook

PROFILE = ROOT / "notebooks" / "slurm" / "config.yaml"


def test_the_slurm_profile_has_two_values_to_edit():
    places = re.findall(r"^ *(\w+): (YOUR_\w+) # (\d)\.", PROFILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert places == [("slurm_account", "YOUR_ACCOUNT", "1"), ("slurm_partition", "YOUR_PARTITION", "2")]
    content = yaml.safe_load(PROFILE.read_text(encoding="utf-8"))
    assert content["executor"] == "slurm"


@pytest.mark.slow
def test_every_notebook_is_a_job_of_the_cluster(tmp_path):
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    flags = ("--dry-run", "--profile", "notebooks/slurm")
    code, output = snakemake(tmp_path, *flags, PROFILE="paper", STUDY="main")
    assert code == 0, output
    jobs = re.findall(r"^rule (\w+):\n.*?^    resources: (.*?)$", output, re.MULTILINE | re.DOTALL)
    assert len(jobs) > 50 and {"prepare_amos22", "run_amos22", "study"} <= {rule for rule, _ in jobs}
    for rule, resources in jobs:
        for name in ("slurm_account=", "slurm_partition=", "runtime=1440", "cpus_per_task=8"):
            assert name in resources, rule
        assert ("gpu=1" in resources) == rule.startswith("run_"), rule


@pytest.mark.slow
def test_jobs_are_submitted_with_the_profiles_account_and_partition(tmp_path, monkeypatch):
    """Slurm's commands are replaced by scripts that log their arguments; sbatch fails."""
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    bin = tmp_path / "bin"
    bin.mkdir()
    for command in ("sbatch", "sacct", "squeue", "scontrol", "sacctmgr", "sshare", "sinfo"):
        (bin / command).write_text(
            f"#!/bin/sh\necho {command} $* >> {tmp_path}/calls\n[ {command} != sbatch ]\n"
        )
        (bin / command).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin}:{os.environ['PATH']}")
    prepared = tmp_path / "runs" / "quick" / "mmwhs_mr"
    for name in ("data.ipynb", "split.json", "mean_atlas/seed0/metrics.csv"):
        (prepared / name).parent.mkdir(parents=True, exist_ok=True)
        (prepared / name).touch()
    flags = ("--profile", "notebooks/slurm", "--retries", "0", "--rerun-triggers", "mtime")
    flags += ("--slurm-init-seconds-before-status-checks", "1")
    code, output = snakemake(tmp_path, *flags, PROFILE="quick", STUDY="fusion")
    assert code != 0
    calls = [line for line in (tmp_path / "calls").read_text().splitlines() if line.startswith("sbatch")]
    assert calls, output
    for call in calls:
        for option in ("-A YOUR_ACCOUNT", "-p YOUR_PARTITION", "-t 1440", "--gpus=1", "--cpus-per-task=8"):
            assert option in call


@pytest.mark.slow
def test_parallel_notebooks_share_the_cores_equally(tmp_path):
    """Eight cores for JOBS=3: two torch threads each, and at most three notebooks at the same time."""
    notebooks, common = tmp_path / "notebooks", {"profile": "", "runs": "", "data_root": None}
    write_data_notebook(notebooks, **common)
    write_notebook(
        notebooks / "02_run.ipynb",
        "import json, time\n"
        "from pathlib import Path\n"
        "import torch\n"
        "start = time.time()\n"
        "time.sleep(2)\n"
        "folder = Path(runs, profile, dataset, variant, f'seed{seed}')\n"
        "(folder / 'seen.json').write_text(json.dumps([start, time.time(), torch.get_num_threads()]))\n"
        "(folder / 'metrics.csv').touch()",
        **common,
        dataset="",
        variant="",
        seed=None,
    )
    for name in ("03_main_table", "11_claims"):
        write_notebook(notebooks / f"{name}.ipynb", "", **common, study="", figures="")
    write_experiments(notebooks, seeds={"quick": [0, 1, 2, 3]})
    code, output = snakemake(tmp_path, "--cores", "8", PROFILE="quick", JOBS=3)
    assert code == 0, output
    seen = [json.loads(path.read_text()) for path in Path(tmp_path).rglob("seen.json")]
    assert [threads for _, _, threads in seen] == [2] * 4
    running = [sum(start <= moment < end for start, end, _ in seen) for moment, _, _ in seen]
    assert max(running) <= 3
