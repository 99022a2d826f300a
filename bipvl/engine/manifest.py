"""manifest.json: what a run was made from, by what, and what came out, to be traced and verified."""

import hashlib
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bipvl.common.errors import BipvlError
from bipvl.common.files import write_json
from bipvl.data.layouts import Case, read_json
from bipvl.data.splits import split_cases
from bipvl.engine.checksums import data_digest, digest, fingerprints, read_fingerprints, sha256
from bipvl.engine.lock import launch
from bipvl.engine.run import Run
from bipvl.engine.variants import prompt_texts

PACKAGES = ("torch", "monai", "transformers", "accelerate", "numpy", "scipy", "nibabel", "safetensors")
OUTPUTS = {
    "train": ("history.csv", "model/**/*", "embeddings/*"),
    "evaluate": ("metrics.csv", "predictions/*"),
}
"""Phase → patterns of the files that it leaves."""


@contextmanager
def recorded(run: Run, phase: str, cases: Sequence[Case]) -> Iterator[None]:
    """Add a phase to manifest.json when the block ends. Of several processes the first alone writes.

    Args:
        cases: whose files the phase reads; they must be as they were when the dataset was prepared.

    Raises:
        BipvlError: they are not, or there is a manifest that cannot be added to.
    """
    start, processes = time.monotonic(), launch()
    data = data_digest(cases, run.data_path)
    path = run.directory / "manifest.json"
    manifest = {"phases": _phases(path)} if path.is_file() else {"phases": {}}
    yield
    if not processes.is_main_process:
        return
    manifest["phases"][phase] = {
        "command": _command(run, phase),
        **environment(),
        "processes": processes.num_processes,
        "seconds": round(time.monotonic() - start, 1),
        "peak_memory_gib": round(_peak_memory(), 2),
        "inputs": {"data": data} | _inputs(run, phase),
        "outputs": outputs(run, phase),
    }
    write_json(path, manifest)


def environment() -> dict[str, Any]:
    """Commit, versions and hardware of this process."""
    import torch

    return {
        "commit": _commit(),
        "python": sys.version.split()[0],
        "packages": {name: version(name) for name in PACKAGES},
        "hardware": {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "accelerator": f"{torch.accelerator.device_count()} × {torch.accelerator.current_accelerator()}",
        },
        "threads": torch.get_num_threads(),
    }


def outputs(run: Run, phase: str) -> dict[str, str]:
    """SHA-256 of every file that a phase has left, by its path in the run's folder."""
    found = sorted({path for pattern in OUTPUTS[phase] for path in run.directory.glob(pattern)})
    return {str(path.relative_to(run.directory)): sha256(path) for path in found if path.is_file()}


@dataclass(frozen=True)
class Finding:
    """What ``verify`` found: something "differs", is "not checked", or was made by "another" version."""

    kind: str
    what: str


def verify(run: Run, data_root: str | Path | None) -> Iterator[Finding]:
    """Hold a run against its manifest: inputs and outputs by content, then versions.

    Args:
        data_root: where its data lie; None: the data are not checked.

    Raises:
        BipvlError: no manifest there, or one of an older layout.
    """
    for phase, known in _phases(run.directory / "manifest.json").items():
        now = _inputs(run, phase)
        for name, was in known["inputs"].items():
            if name == "data":
                yield from _verify_data(run, phase, data_root)
            elif now.get(name) is None:
                yield Finding("not checked", f"{phase}: {name}, which cannot be had here")
            elif now[name] != was:
                yield Finding("differs", f"{phase}: {name} is not what it was made from")
        files = outputs(run, phase)
        for name in sorted(known["outputs"].keys() | files.keys()):
            if name not in files or name not in known["outputs"]:
                yield Finding("differs", f"{phase}: {name} is {'new' if name in files else 'gone'}")
            elif files[name] != known["outputs"][name]:
                yield Finding("differs", f"{phase}: {name} has changed")
        yield from _versions(phase, known)


def _phases(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise BipvlError(f"{path} is missing; train the run first, which writes it")
    phases = read_json(path).get("phases")
    if not (isinstance(phases, dict) and phases and all(map(_is_phase, phases, phases.values()))):
        raise BipvlError(
            f"{path} is not whole or of an older layout; delete {path.parent} and make the run anew"
        )
    return phases


def _is_phase(name: str, phase: Any) -> bool:
    mappings = ("packages", "inputs", "outputs")
    return (
        name in OUTPUTS
        and isinstance(phase, dict)
        and {"commit", "python"} <= phase.keys()
        and all(isinstance(phase.get(key), dict) for key in mappings)
    )


def _verify_data(run: Run, phase: str, data_root: str | Path | None) -> Iterator[Finding]:
    if data_root is None:
        yield Finding("not checked", f"{phase}: the data; say where they are with --data-root")
        return
    train, val, test = split_cases(run.split_path, run.spec, data_root)
    cases = [*train, *val] if phase == "train" else test
    known = read_fingerprints(run.data_path)
    for case_id, files in fingerprints(cases).items():
        for key, found in files.items():
            if found != known.get(case_id, {}).get(key):
                yield Finding("differs", f"{phase}: the {key} of {case_id} has changed")


def _versions(phase: str, known: Mapping[str, Any]) -> Iterator[Finding]:
    now = environment()
    pairs = {"commit": (known["commit"], now["commit"]), "python": (known["python"], now["python"])}
    pairs |= {name: (was, now["packages"].get(name)) for name, was in known["packages"].items()}
    for name, (was, found) in pairs.items():
        if was != found:
            yield Finding("another", f"{phase}: {name} was {was}, here it is {found}")


def _inputs(run: Run, phase: str) -> dict[str, str | None]:
    """Digests of all that a phase starts from but the data; None of what cannot be had here."""
    files = {"config": run.directory / "config.json", "split": run.split_path}
    if phase == "evaluate":
        files["model"] = run.model_folder / "model.safetensors"
    found = {name: sha256(path) if path.is_file() else None for name, path in files.items()}
    if "external" not in run.config and run.variant.language:
        found["prompts"] = digest(prompt_texts(run.variant, run.spec))
        if phase == "train":
            found["text_encoder"] = _text_encoder(run)
    return found


def _text_encoder(run: Run) -> str | None:
    """SHA-256 over the pretrained text encoder's tensors; None where it cannot be loaded."""
    from bipvl.model.text import load_backbone

    source, found = (run.config["language"] | run.variant.options)["text"], hashlib.sha256()
    with suppress(BipvlError):
        for name, tensor in sorted(load_backbone(source).state_dict().items()):
            found.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return found.hexdigest()
    return None


def _command(run: Run, phase: str) -> str:
    """What gives the same again."""
    config = run.config
    if phase == "evaluate":
        return f"bipvl evaluate {run.directory}"
    words = f"bipvl train {config['dataset']} {config['variant']} --profile {config['profile']}"
    return f"{words} --seed {config['seed']} --runs {run.directory.parents[3]}"


def _peak_memory() -> float:
    """GiB at most so far: of the accelerator where there is one that counts, else of this process."""
    import torch

    with suppress(AttributeError, RuntimeError):  # an older torch, a device that does not count
        if torch.accelerator.is_available():
            return torch.accelerator.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _commit() -> str:
    """The checkout's commit, ``-dirty`` where files differ from it, or the version where it is installed."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"version {version('bipvl')}"
