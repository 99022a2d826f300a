"""Runs: what decides one result, where it lies, and what was seen while it was made."""

import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from bipvl.choices import choose
from bipvl.data.layouts import cohort_of
from bipvl.data.spec import DatasetSpec, load_spec
from bipvl.errors import BipvlError
from bipvl.files import write_json
from bipvl.variants import Variant, get_variant

PACKAGES = ("torch", "monai", "transformers", "accelerate", "numpy", "nibabel")


def load_profiles() -> dict[str, dict[str, Any]]:
    """The profiles by name."""
    return yaml.safe_load((Path(__file__).parent / "profiles.yaml").read_text(encoding="utf-8"))


def get_profile(name: str) -> dict[str, Any]:
    """A profile's settings; an unknown name is a BipvlError that lists them."""
    return choose("profile", name, load_profiles())


def dataset_settings(profile: str, spec: DatasetSpec) -> dict[str, Any]:
    """A profile's settings for one dataset: mappings from datasets to values are resolved."""
    settings = {"spacing": list(spec.spacing)} | get_profile(profile)

    def resolve(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if "default" in value:
            return value.get(spec.name, value["default"])
        return {key: resolve(inner) for key, inner in value.items()}

    return resolve(settings)


@dataclass(frozen=True)
class Run:
    """One variant on one dataset with one seed at one profile, and its directory."""

    directory: Path
    config: dict[str, Any]

    @classmethod
    def plan(
        cls,
        *,
        profile: str,
        dataset: str,
        variant: str,
        seed: int,
        data_root: Path,
        root: Path = Path("runs"),
    ) -> "Run":
        """The run that these words name; nothing is written."""
        spec = load_spec(dataset)
        settings = dataset_settings(profile, spec)
        config = {
            "dataset": str(dataset),
            "variant": get_variant(variant).name,
            "profile": profile,
            "seed": seed,
            "cohort": cohort_of(data_root),
            **{
                key: settings[key]
                for key in ("spacing", "crop", "network", "language", "training", "overlap")
            },
        }
        return cls(root / profile / spec.name / variant / f"seed{seed}", config)

    @classmethod
    def open(cls, directory: str | Path) -> "Run":
        """A run that lies on disk."""
        path = Path(directory) / "config.json"
        if not path.is_file():
            raise BipvlError(
                f"{directory} holds no run (no config.json); give a folder that `bipvl train` wrote"
            )
        return cls(Path(directory), json.loads(path.read_text(encoding="utf-8")))

    def claim(self) -> None:
        """Write the config; a directory that belongs to other settings is a BipvlError."""
        path = self.directory / "config.json"
        if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != self.config:
            changed = [k for k, v in Run.open(self.directory).config.items() if self.config.get(k) != v]
            raise BipvlError(
                f"{self.directory} holds a run with other settings ({', '.join(changed)}); "
                "delete it to train anew"
            )
        write_json(path, self.config)

    @property
    def spec(self) -> DatasetSpec:
        """The dataset's spec."""
        return load_spec(self.config["dataset"])

    @property
    def variant(self) -> Variant:
        """The variant."""
        return get_variant(self.config["variant"])

    @property
    def model_folder(self) -> Path:
        """Weights and config of the best network, for ``from_pretrained``."""
        return self.directory / "model"

    @property
    def split_path(self) -> Path:
        """The split, shared by all runs on one dataset at one profile."""
        return self.directory.parents[1] / "split.json"

    @contextmanager
    def recorded(self, phase: str) -> Iterator[None]:
        """Add a phase's seconds, peak memory and processes to manifest.json when the block ends.

        Of several processes the first alone writes.
        """
        from accelerate import PartialState

        start = time.monotonic()
        yield
        processes = PartialState()
        if not processes.is_main_process:
            return
        path = self.directory / "manifest.json"
        manifest = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        manifest |= environment()
        manifest.setdefault("phases", {})[phase] = {
            "seconds": round(time.monotonic() - start, 1),
            "peak_memory_gib": round(_peak_memory(), 2),
            "processes": processes.num_processes,
        }
        write_json(path, manifest)


def _peak_memory() -> float:
    """GiB at most so far: of the accelerator where there is one that counts, else of this process."""
    import torch

    with suppress(AttributeError, RuntimeError):  # an older torch, a device that does not count
        if torch.accelerator.is_available():
            return torch.accelerator.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def environment() -> dict[str, Any]:
    """Commit, versions and hardware of this process."""
    import torch

    return {
        "commit": _commit(),
        "python": sys.version.split()[0],
        "packages": {name: version(name) for name in PACKAGES},
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "accelerator": f"{torch.accelerator.device_count()} × {torch.accelerator.current_accelerator()}",
    }


def _commit() -> str:
    """The checkout's commit, ``-dirty`` where files differ from it, or the version where it is installed."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"version {version('bipvl')}"
