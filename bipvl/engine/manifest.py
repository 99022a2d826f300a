"""manifest.json: a run's inputs, software, hardware and the checksums of its results."""

import os
import platform
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from bipvl.common.errors import BipvlError
from bipvl.common.files import write_json
from bipvl.data.layouts import Case, read_json
from bipvl.data.splits import split_cases
from bipvl.engine.checksums import case_checksums, data_checksum, json_checksum, read_checksums, sha256
from bipvl.engine.lock import process_group
from bipvl.engine.profiles import Settings, changed_settings, dataset_settings, load_profiles
from bipvl.engine.run import Run
from bipvl.engine.variants import prompt_texts

PACKAGES = ("torch", "monai", "transformers", "accelerate", "numpy", "scipy", "nibabel", "safetensors")
OUTPUTS = {
    "train": ("history.csv", "model/**/*", "embeddings/*"),
    "evaluate": ("metrics.csv", "predictions/*"),
}
"""Phase → patterns of the files that it writes."""


@contextmanager
def recorded(run: Run, phase: str, cases: Sequence[Case]) -> Iterator[None]:
    """Add a phase to manifest.json when the block ends. With several processes, only the first one writes.

    Args:
        cases: those that the phase reads; their files must be as they were when the data set was prepared.

    Raises:
        BipvlError: a file has changed since, or the present manifest is not readable.
    """
    start, processes = time.monotonic(), process_group()
    data = data_checksum(cases, run.data_path)
    path = run.directory / "manifest.json"
    phases = _read_phases(path) if path.is_file() else {}
    yield
    if not processes.is_main_process:
        return
    phases[phase] = {
        "command": _command(run, phase),
        **environment(),
        "processes": processes.num_processes,
        "seconds": round(time.monotonic() - start, 1),
        "peak_memory_gib": round(_peak_memory(), 2),
        "inputs": {"data": data} | _inputs(run, phase),
        "outputs": outputs(run, phase),
    }
    write_json(path, {"phases": phases})


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
    """SHA-256 of every file that a phase wrote, by its path in the run's folder."""
    found = sorted({path for pattern in OUTPUTS[phase] for path in run.directory.glob(pattern)})
    return {str(path.relative_to(run.directory)): sha256(path) for path in found if path.is_file()}


class VerifyMessage(NamedTuple):
    """One result of ``verify``; ``kind`` is "differs", "not checked" or "another" (version)."""

    kind: str
    text: str


def verify(run: Run, data_root: str | Path | None) -> Iterator[VerifyMessage]:
    """Compare a run with its manifest: checksums of inputs and outputs, then versions.

    Args:
        data_root: folder of its data; None: the data are not checked.

    Raises:
        BipvlError: no manifest there, or one of an older layout.
    """
    for phase, known in _read_phases(run.directory / "manifest.json").items():
        yield from _verify_inputs(run, phase, known["inputs"], data_root)
        was, now = known["outputs"], outputs(run, phase)
        for name in sorted(was.keys() | now.keys()):
            if was.get(name) != now.get(name):
                change = "is new" if name not in was else "has changed" if name in now else "is missing"
                yield VerifyMessage("differs", f"{phase}: {name} {change}")
        yield from _verify_versions(phase, known)


def _read_phases(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise BipvlError("file not found", "train the run first, which writes it", path)
    phases = read_json(path).get("phases")
    if not (isinstance(phases, dict) and phases and all(map(_is_phase, phases, phases.values()))):
        fix = f"delete {path.parent} and train the run again"
        raise BipvlError("is incomplete or of an older layout", fix, path)
    return phases


def _is_phase(name: str, phase: Any) -> bool:
    if name not in OUTPUTS or not isinstance(phase, dict) or not {"commit", "python"} <= phase.keys():
        return False
    return all(isinstance(phase.get(key), dict) for key in ("packages", "inputs", "outputs"))


def _verify_inputs(
    run: Run, phase: str, known: Mapping[str, Any], data_root: str | Path | None
) -> Iterator[VerifyMessage]:
    now = _inputs(run, phase)
    for name, was in known.items():
        if name == "data" and data_root is None:
            yield VerifyMessage("not checked", f"{phase}: the data; give their folder with --data-root")
        elif name == "data":
            yield from _verify_data(run, phase, data_root)
        elif now.get(name) is None:
            yield VerifyMessage("not checked", f"{phase}: {name}, which is not on this machine")
        elif now[name] != was:
            yield VerifyMessage("differs", f"{phase}: {name} has changed since")


def _verify_data(run: Run, phase: str, data_root: str | Path) -> Iterator[VerifyMessage]:
    train, val, test = split_cases(run.split_path, run.spec, data_root)
    known = read_checksums(run.data_path)
    for case_id, files in case_checksums([*train, *val] if phase == "train" else test).items():
        for key, found in files.items():
            if found != known.get(case_id, {}).get(key):
                yield VerifyMessage("differs", f"{phase}: the {key} of {case_id} has changed")


def _verify_versions(phase: str, known: Mapping[str, Any]) -> Iterator[VerifyMessage]:
    here = environment()
    now = {"commit": here["commit"], "python": here["python"], **here["packages"]}
    for name, was in {"commit": known["commit"], "python": known["python"], **known["packages"]}.items():
        if was != now.get(name):
            yield VerifyMessage("another", f"{phase}: {name} was {was}, here it is {now.get(name)}")


def _inputs(run: Run, phase: str) -> dict[str, str | None]:
    """Checksums of all inputs of a phase except the data; None for what is not on this machine."""
    files = {"config": run.directory / "config.json", "split": run.split_path}
    if phase == "evaluate":
        files["model"] = run.model_folder / "model.safetensors"
    found = {name: sha256(path) if path.is_file() else None for name, path in files.items()}
    if "external" not in run.config and run.variant.language:
        found["prompts"] = json_checksum(prompt_texts(run.variant, run.spec))
        if phase == "train":
            found["text_encoder"] = _text_encoder(run)
    return found


def _text_encoder(run: Run) -> str | None:
    """Checksum of the pretrained text encoder's weights; None if they are not on this machine."""
    from bipvl.model.text_sources import weight_files

    with suppress(BipvlError, ValueError):  # a package that is not installed, a folder of another machine
        files = weight_files((run.config["language"] | run.variant.options)["text"])
        if len(files) > 1:
            return json_checksum({path.name: sha256(path) for path in files})
        return sha256(files[0]) if files else None
    return None


def _command(run: Run, phase: str) -> str:
    """The command that gives the same result again."""
    if phase == "evaluate":
        return f"bipvl evaluate {run.directory}"
    config, profile, overrides = run.config, run.config["profile"], []
    if profile in load_profiles():
        settings = {key: config[key] for key in Settings.model_fields}
        overrides = changed_settings(dataset_settings(profile, run.spec), settings)
    else:
        profile += ".yaml"
    words = ["bipvl", "train", config["dataset"], config["variant"], "--profile", profile]
    words += ["--seed", str(config["seed"]), "--runs", str(run.directory.parents[3])]
    return shlex.join(words + [word for override in overrides for word in ("--set", override)])


def _peak_memory() -> float:
    """Peak memory so far, GiB: of the accelerator if it counts its memory, else of this process."""
    import torch

    with suppress(AttributeError, RuntimeError):  # an older torch, or a device that does not count
        if torch.accelerator.is_available():
            return torch.accelerator.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _commit() -> str:
    """The repository's commit (``-dirty`` if files differ from it), or the installed version."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"version {version('bipvl')}"
