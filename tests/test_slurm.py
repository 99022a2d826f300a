"""Many runs: as jobs of a Slurm cluster, and side by side on one machine."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml
from test_workflow import ROOT, snakemake, write_experiments, write_notebook

PROFILE = ROOT / "notebooks" / "slurm" / "config.yaml"


def test_the_profile_is_edited_in_two_places():
    places = re.findall(r"^ *(\w+): (YOUR_\w+) # (\d)\.", PROFILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert places == [("slurm_account", "YOUR_ACCOUNT", "1"), ("slurm_partition", "YOUR_PARTITION", "2")]
    content = yaml.safe_load(PROFILE.read_text(encoding="utf-8"))
    assert content["executor"] == "slurm"


@pytest.mark.skipif(
    importlib.util.find_spec("snakemake_executor_plugin_slurm") is None,
    reason="snakemake-executor-plugin-slurm is not installed",
)
def test_every_notebook_would_be_a_job_of_the_cluster(tmp_path):
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    code, told = snakemake(
        tmp_path, "--dry-run", "--profile", "notebooks/slurm", PROFILE="paper", STUDY="main"
    )
    assert code == 0, told
    jobs = dict(re.findall(r"^rule (\w+):\n(.*?)^\n", told, re.MULTILINE | re.DOTALL))
    assert {"prepare_amos22", "run_amos22", "study"} <= jobs.keys()
    for rule, job in jobs.items():
        words = re.search(r"resources: (.*)", job)[1]
        for word in ("slurm_account=YOUR_ACCOUNT", "slurm_partition=YOUR_PARTITION", "runtime=", "mem_mb="):
            assert word in words, rule
        assert ("gpu=1" in words) == rule.startswith("run_"), rule


def test_notebooks_that_run_at_once_have_equal_shares_of_the_cores(tmp_path):
    """Eight cores for JOBS=3: two threads each, as torch sees them, and never a fourth at once."""
    notebooks, common = tmp_path / "notebooks", {"profile": "", "runs": "", "data_root": None}
    write_notebook(
        notebooks / "01_data.ipynb",
        "from pathlib import Path\n"
        "folder = Path(runs, profile, dataset)\n"
        "(folder / 'mean_atlas' / 'seed0').mkdir(parents=True, exist_ok=True)\n"
        "(folder / 'mean_atlas' / 'seed0' / 'metrics.csv').touch()\n"
        "(folder / 'split.json').touch()",
        **common,
        dataset="",
        figures="",
    )
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
    code, told = snakemake(tmp_path, "--cores", "8", PROFILE="quick", JOBS=3)
    assert code == 0, told
    seen = [json.loads(path.read_text()) for path in Path(tmp_path).rglob("seen.json")]
    assert [threads for _, _, threads in seen] == [2] * 4
    at_once = [sum(start <= moment < end for start, end, _ in seen) for moment, _, _ in seen]
    assert max(at_once) <= 3
