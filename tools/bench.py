"""Time and memory of BiPVL-Seg compared with SwinUNETR-V2 alone, at the paper's size and at small profiles.

python tools/bench.py figures/bench

At the paper's size: MONAI's own network, random weights, fp32, batch size 1. At a profile: both variants as
they are trained. Runs on Accelerate's device. Times are medians of repeats that alternate between the
networks; each peak memory is measured in a new process.
"""

import multiprocessing
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from bipvl import figures as plots
from bipvl.analysis.tables import markdown
from bipvl.common.errors import BipvlError
from bipvl.common.files import write_text
from bipvl.data.prompts import default_prompts
from bipvl.data.spec import load_spec
from bipvl.engine.variants import ALL_TERMS

INFERENCE = "inference, one window (s)"
TRAINING = "training step, all losses (s)"
MEMORY = "peak memory of the training step (GiB)"

REPEATS = 3
PROFILE_REPEATS = 9
PLAIN = "without activation checkpointing"
PROFILES = (("quick", "amos22"), ("quick", "mmwhs_mr"), ("laptop", "msd_hippocampus"))
"""Small profiles and data sets whose training steps are measured too."""


@dataclass(frozen=True)
class Setting:
    """One configuration to measure."""

    crop: int = 96  # voxels per side
    classes: int = 15
    tokens: int | None = None  # per prompt; None: the prompts of AMOS22
    checkpointing: bool = True
    language: bool = True


AMOS = Setting()
GROWTH = {
    **{f"crop={n}": replace(AMOS, crop=n) for n in (64, 96, 128)},
    **{f"classes={n}": replace(AMOS, classes=n, tokens=80) for n in (1, 15, 60)},
    **{f"tokens={n}": replace(AMOS, tokens=n) for n in (20, 80, 320)},
}
"""Case → setting: cost as a function of crop size, number of classes, and tokens per prompt."""


class Subject:
    """The network of a setting, with one window for inference or training."""

    def __init__(self, setting: Setting) -> None:
        from monai.losses import DiceCELoss
        from monai.networks.nets import SwinUNETR

        from bipvl.engine.train import Learner
        from bipvl.model.bipvlseg import BiPVLSeg
        from bipvl.model.checkpointing import checkpoint_activations
        from bipvl.model.losses import Objective

        torch.manual_seed(0)
        device, side = Accelerator().device, (setting.crop,) * 3
        self.volume = torch.randn(1, 1, *side, device=device)
        self.target = torch.randint(0, setting.classes + 1, (1, 1, *side), device=device).float()
        if setting.language:
            bert_base = {"model_type": "bert"}
            network = BiPVLSeg(in_channels=1, num_classes=setting.classes, text_config=bert_base)
            self.prompts = _tokens(setting).to(device)
            objective = Objective(terms=ALL_TERMS, overlapping=False)
            self.learner = Learner(network=network, objective=objective)
            self.learner.to(memory_format=torch.channels_last_3d)
            self.volume = self.volume.contiguous(memory_format=torch.channels_last_3d)
            if setting.checkpointing:
                checkpoint_activations(network)
        else:
            self.learner = SwinUNETR(
                in_channels=1, out_channels=setting.classes + 1, feature_size=48, use_v2=True
            )
            self.loss = DiceCELoss(to_onehot_y=True, softmax=True)
        self.learner.to(device)
        self.language = setting.language
        self.optimizer = torch.optim.AdamW(self.learner.parameters(), lr=1e-4, weight_decay=1e-5)

    def prepare_inference(self) -> Callable[[], Any]:
        """A function that predicts one window; everything independent of the image is computed here."""
        self.learner.eval()
        if not self.language:
            return torch.inference_mode()(lambda: self.learner(self.volume))
        network = self.learner.network
        with torch.inference_mode():
            state = network.encode_prompts(self.prompts)
        return torch.inference_mode()(lambda: network.predict(self.volume, state))

    def train_step(self) -> None:
        """One training step: forward pass, all losses, backward pass, optimiser step."""
        self.learner.train()
        if self.language:
            loss, _ = self.learner(self.volume, self.target, self.prompts)
        else:
            loss = self.loss(self.learner(self.volume), self.target)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def profile_step(profile: str, dataset: str, variant: str) -> Callable[[], Any]:
    """A function that does one training step of a variant, as at a profile but on random crops."""
    from bipvl.engine.build import build_network, build_objective
    from bipvl.engine.optimizer import make_optimizer
    from bipvl.engine.profiles import dataset_settings
    from bipvl.engine.train import Learner
    from bipvl.engine.variants import get_variant, prompt_texts

    torch.manual_seed(0)
    chosen, spec, device = get_variant(variant), load_spec(dataset), Accelerator().device
    settings = dataset_settings(profile, spec)
    network, batch = build_network(chosen, spec, settings), settings["training"]["batch_size"]
    learner = Learner(network=network, objective=build_objective(chosen, spec)).to(device).train()
    learner.to(memory_format=torch.channels_last_3d)
    optimizer = make_optimizer(learner, settings["training"])
    prompts = network.training_prompts(prompt_texts(chosen, spec)) if chosen.language else None
    volume = torch.randn(batch, len(spec.channels), *settings["crop"], device=device)
    volume = volume.contiguous(memory_format=torch.channels_last_3d)
    target = torch.randint(0, spec.out_channels, (batch, 1, *settings["crop"]), device=device).float()

    def step() -> None:
        learner(volume, target, prompts)[0].backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), settings["training"]["max_grad_norm"])
        optimizer.step()
        optimizer.zero_grad()

    return step


def _tokens(setting: Setting) -> Any:
    """Token ids in BERT's vocabulary: the prompts of AMOS22, or random words, six texts per prompt."""
    from bipvl.model.text import load_tokenizer
    from bipvl.model.tokens import PromptTokens, tokenize

    if setting.tokens is None:
        return tokenize(load_tokenizer("minilm"), default_prompts(load_spec("amos22")).segments())
    shape = (setting.classes, setting.tokens)
    segment = (torch.arange(setting.tokens) * 6 // setting.tokens).expand(shape)
    return PromptTokens.of(torch.randint(1000, 30000, shape), torch.ones(shape, dtype=torch.long), segment)


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    if Accelerator().device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


def _medians(runs: list[Callable[[], Any]], repeats: int) -> list[float]:
    """Median seconds of each function; repeats alternate, after one warm-up round."""
    rounds = [[_seconds(run) for run in runs] for _ in range(repeats + 1)][1:]
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


def inference_times(settings: list[Setting], repeats: int) -> list[float]:
    """Seconds per window for each setting."""
    return _medians([Subject(setting).prepare_inference() for setting in settings], repeats)


def training_times(settings: list[Setting], repeats: int) -> list[float]:
    """Seconds per training step for each setting."""
    return _medians([Subject(setting).train_step for setting in settings], repeats)


def profile_times(profile: str, dataset: str) -> list[float]:
    """Seconds per training step of BiPVL-Seg and of SwinUNETR-V2 at a profile."""
    steps = [profile_step(profile, dataset, variant) for variant in ("bipvlseg", "swin_unetr_v2")]
    return _medians(steps, PROFILE_REPEATS)


def training_memory(setting: Setting, steps: int) -> float:
    """Peak memory in GiB of the network, its optimiser and its training steps.

    On a CPU: growth of the process, from before the network exists.
    """
    if Accelerator().device.type != "cpu":
        subject = Subject(setting)
        for _ in range(steps):
            subject.train_step()
        return torch.accelerator.max_memory_allocated() / 2**30
    before = _resident_memory()
    subject = Subject(setting)
    for _ in range(steps):
        subject.train_step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20 - before


def _resident_memory() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**30


def _in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result, computed in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def bench() -> pd.DataFrame:
    """All measurements: a table with the columns case, quantity, ours, reference and ratio."""
    rows: list[tuple[str, str, float, float]] = []
    alone = replace(AMOS, language=False)
    plain = replace(AMOS, checkpointing=False)
    rows.append(("paper", INFERENCE, *_in_process(inference_times, [AMOS, alone], REPEATS)))
    ours, without, reference = _in_process(training_times, [AMOS, plain, alone], REPEATS)
    rows += [("paper", TRAINING, ours, reference), (PLAIN, TRAINING, without, reference)]
    ours, without, reference = (_in_process(training_memory, setting, 2) for setting in (AMOS, plain, alone))
    rows += [("paper", MEMORY, ours, reference), (PLAIN, MEMORY, without, reference)]
    for profile, dataset in PROFILES:
        times = _in_process(profile_times, profile, dataset)
        rows.append((f"{load_spec(dataset).title} at {profile}", TRAINING, *times))
    for case, setting in tqdm(GROWTH.items(), "cost over size", unit="case"):
        alone = replace(setting, language=False)
        rows.append((case, INFERENCE, *_in_process(inference_times, [setting, alone], 1)))
        rows.append((case, MEMORY, *(_in_process(training_memory, s, 1) for s in (setting, alone))))
    table = pd.DataFrame(rows, columns=["case", "quantity", "ours", "reference"])
    return table.assign(ratio=table["ours"] / table["reference"])


def machine() -> str:
    """Processor or GPU, threads and torch version, for the note below the table."""
    device = Accelerator().device
    if device.type != "cpu":
        return f"{torch.get_device_module(device).get_device_name()}, torch {torch.__version__}"
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    name = names[0] if names else platform.machine()
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def summary(table: pd.DataFrame) -> str:
    """The table in docs/cost.md: the paper's size, small profiles, and the machine."""
    shown = table[~table["case"].str.contains("=")]
    header = ("At the paper's size, if nothing else is said", "BiPVL-Seg", "SwinUNETR-V2 alone", "ratio")
    rows = [
        (
            row.quantity + ("" if row.case == "paper" else f", {row.case}"),
            f"{row.ours:.3g}",
            f"{row.reference:.3g}",
            f"{row.ratio:.2f}×",
        )
        for row in shown.itertuples()
    ]
    return (
        f"{markdown(header, rows)}\n\nMedians of {REPEATS} alternating repeats (at a profile "
        f"{PROFILE_REPEATS}), fp32, on {machine()}.\n"
    )


if __name__ == "__main__":
    try:
        folder = Path(sys.argv[1])
        measured = bench()
        plots.write("bench", measured, folder)
        write_text(folder / "bench.md", summary(measured))
    except BipvlError as error:
        sys.exit(f"bipvl: {error}")
