"""Fixtures of several tests; ``tiny_…`` build small random networks, prompts and tokens."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock


def pytest_configure() -> None:
    """One thread for each test process, before torch is imported: they share the cores."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def tiny_text_config() -> Callable[..., dict[str, Any]]:
    """(family, layers, **fields) → config (a dict) of a text encoder with width 32 and 64 words."""

    def build(family: str = "bert", layers: int = 4, **fields: Any) -> dict[str, Any]:
        sizes = {"vocab_size": 64, "max_position_embeddings": 64}
        if family == "distilbert":
            sizes |= {"dim": 32, "n_layers": layers, "n_heads": 2, "hidden_dim": 48}
        else:
            sizes |= {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2}
            sizes |= {"intermediate_size": 48}
        return {"model_type": family} | sizes | fields

    return build


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """A BERT tokenizer with a few words; fits the vocabulary of ``tiny_text_config``."""
    from transformers import BertTokenizer

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = "spleen liver heart left right kidney in a ct image shape : location round flat above below ."
    return BertTokenizer(vocab={word: i for i, word in enumerate([*special, *words.split()])})


@pytest.fixture(scope="session")
def tiny_tokens() -> Callable[..., Any]:
    """(classes, texts, words, pad, seed) → PromptTokens of random words.

    Each text of class c has ``words + c % 3`` words; ``pad`` more columns hold words that the mask hides.
    """
    import torch

    from bipvl.model.tokens import PromptTokens

    def build(classes: int = 3, texts: int = 3, words: int = 2, pad: int = 0, seed: int = 0) -> PromptTokens:
        random = torch.Generator().manual_seed(seed)
        lengths = [2 + texts * (words + c % 3) for c in range(classes)]
        shape = (classes, max(lengths))
        ids = torch.randint(5, 64, shape, generator=random)
        mask, segment = torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
        for c, length in enumerate(lengths):
            mask[c, :length] = 1
            segment[c, 1 : length - 1] = torch.arange(texts).repeat_interleave(words + c % 3)
        junk = torch.randint(5, 64, (classes, pad), generator=random)
        hidden, none = torch.zeros_like(junk), torch.full_like(junk, -1)
        return PromptTokens.of(
            torch.cat([ids, junk], 1), torch.cat([mask, hidden], 1), torch.cat([segment, none], 1)
        )

    return build


@pytest.fixture(scope="session")
def tiny_bipvlseg(tiny_text_config: Callable[..., dict[str, Any]]) -> Callable[..., Any]:
    """(seed, **overrides) → BiPVLSeg in eval mode: 3 classes, 2 stages, crops divisible by 8."""
    import torch

    from bipvl.model.bipvlseg import BiPVLSeg
    from bipvl.model.released import network_class

    def build(seed: int = 0, deviations: Any = "paper", **overrides: Any) -> BiPVLSeg:
        settings = {
            "in_channels": 1,
            "num_classes": 3,
            "text_config": tiny_text_config(),
            "feature_size": 12,
            "depths": (1, 1),
            "num_heads": (2, 4),
            "window_size": 4,
            "fusion_layers": 2,
            "fusion_width": 32,
        }
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return network_class(deviations)(**settings | overrides).eval()

    return build


@pytest.fixture(scope="session")
def smoke_runs(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Two variants, trained and evaluated once on a tiny synthetic heart cohort, for all tests of a session.

    Parallel test processes share these runs.
    """
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "smoke"
    smoke = SimpleNamespace(
        profile="smoke",
        dataset="mmwhs_ct",
        data_root=root / "data",
        runs=root / "runs",
        figures=root / "figures",
    )
    root.mkdir(exist_ok=True)
    with FileLock(root / "lock"):
        if not (root / "made").exists():
            _make_smoke_runs(smoke)
            (root / "made").touch()
    return smoke


@pytest.fixture
def trained_run(smoke_runs: SimpleNamespace) -> Callable[[str], Any]:
    """(variant) → the trained and evaluated Run of ``smoke_runs``."""
    from bipvl.engine.run import Run

    return lambda variant: Run.open(
        smoke_runs.runs / smoke_runs.profile / smoke_runs.dataset / variant / "seed0"
    )


@pytest.fixture
def new_run(smoke_runs: SimpleNamespace, tmp_path: Any) -> Callable[..., Any]:
    """(variant, folder, **changes of the config) → an untrained Run below a new folder, with a split."""
    from bipvl.engine.run import Run

    def build(variant: str = "bipvlseg", folder: str = "runs", **changes: Any) -> Run:
        where = {"profile": smoke_runs.profile, "dataset": smoke_runs.dataset, "variant": variant, "seed": 0}
        run = Run.plan(**where, data_root=smoke_runs.data_root, root=tmp_path / folder)
        run.config.update(changes)
        run.split_path.parent.mkdir(parents=True, exist_ok=True)
        for name in ("split.json", "data.json"):
            source = smoke_runs.runs / smoke_runs.profile / smoke_runs.dataset / name
            shutil.copy2(source, run.split_path.parent)
        return run

    return build


@pytest.fixture(scope="session")
def warm_kernel_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a server of warm kernels, which ends with the session and leaves nothing behind."""
    from tools import warm_kernels

    folder = tmp_path_factory.mktemp("warm") / "k"
    folder.mkdir()
    warm_kernels.write_kernelspec(folder)
    command = [sys.executable, warm_kernels.__file__, "serve", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "2", "TQDM_DISABLE": "1"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as process:
        yield folder
        process.stdin.close()
        assert process.wait(timeout=20) == 0 and not folder.exists()


@pytest.fixture
def warm_kernels(warm_kernel_server: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Notebooks run in warm kernels of the server in this folder."""
    monkeypatch.setenv("JUPYTER_PATH", str(warm_kernel_server))
    return warm_kernel_server


def _make_smoke_runs(smoke: SimpleNamespace) -> None:
    from bipvl.data.synthetic import synthesize
    from bipvl.engine.evaluate import evaluate
    from bipvl.engine.prepare import prepare
    from bipvl.engine.profiles import get_profile
    from bipvl.engine.run import Run
    from bipvl.engine.train import train

    cohort = get_profile(smoke.profile).cohort
    synthesize(smoke.dataset, smoke.data_root, cases=cohort.cases, size=tuple(cohort.size), progress=False)
    where = {
        "profile": smoke.profile,
        "dataset": smoke.dataset,
        "data_root": smoke.data_root,
        "root": smoke.runs,
    }
    prepare(**where, progress=False)
    for variant in ("bipvlseg", "swin_unetr_v2"):
        run = Run.plan(**where, variant=variant, seed=0)
        train(run, smoke.data_root, progress=False)
        evaluate(run, smoke.data_root, progress=False)
