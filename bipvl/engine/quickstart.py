"""Return a trained run, training one first if needed (for notebooks that run alone, as on Colab)."""

from pathlib import Path

from bipvl.common.errors import BipvlError
from bipvl.data.fetch import fetch
from bipvl.data.spec import load_spec
from bipvl.engine.checkpoints import is_trained
from bipvl.engine.prepare import prepare
from bipvl.engine.profiles import load_profiles
from bipvl.engine.run import Run
from bipvl.engine.train import train
from bipvl.engine.variants import VARIANTS


def trained_run(folder: str | Path, data_root: str | Path | None = None) -> Run:
    """The trained run in a folder …/PROFILE/DATASET/VARIANT/seedK; prepared and trained first if missing.

    Args:
        data_root: folder of the real data, to which they are downloaded if they are missing; None: the
            profile's synthetic cohort.

    Raises:
        BipvlError: nothing is trained there, and the path does not say what to train; the data cannot be
            downloaded.
    """
    folder = Path(folder)
    if (folder / "config.json").is_file() and is_trained(run := Run.open(folder)):
        return run
    profile, dataset, variant, seed = _parse(folder)
    root = folder.parents[3]
    if data_root is not None and not (Path(data_root) / load_spec(dataset).folder).is_dir():
        fetch(dataset, data_root)
    if data_root is None or not (root / profile / dataset / "split.json").is_file():
        data_root = prepare(profile=profile, dataset=dataset, data_root=data_root, root=root)
    run = Run.plan(
        profile=profile, dataset=dataset, variant=variant, seed=seed, data_root=Path(data_root), root=root
    )
    train(run, data_root)
    return run


def _parse(folder: Path) -> tuple[str, str, str, int]:
    """Profile, data set, variant and seed that a run folder's path names."""
    parts = folder.parts[-4:]
    seed = parts[-1].removeprefix("seed")
    if len(parts) < 4 or not seed.isdecimal() or parts[0] not in load_profiles() or parts[2] not in VARIANTS:
        example = "runs/quick/mmwhs_ct/bipvlseg/seed0, which is trained if it is missing"
        fix = f"type `make reproduce`, or set `run` to a folder such as {example}"
        raise BipvlError("holds no trained run yet", fix, folder)
    return parts[0], parts[1], parts[2], int(seed)
