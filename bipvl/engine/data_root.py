"""Where a profile's data are: the folder that you give, or the profile's synthetic cohort."""

from collections.abc import Sequence
from pathlib import Path

from bipvl.common.errors import BipvlError
from bipvl.data.spec import load_spec
from bipvl.engine.profiles import get_profile, load_profiles, profile_name
from bipvl.engine.run import Run


def check_data_root(profile: str | Path, data_root: str | Path | None, datasets: Sequence[str] = ()) -> None:
    """Check a data root before anything slow starts.

    Args:
        datasets: names of the data sets that it must hold.

    Raises:
        BipvlError: an unknown profile; a folder that is missing or empty, or lacks a data set; none for a
            profile on real data.
    """
    if data_root is None:
        if get_profile(profile).cohort is None:
            raise _needs_real_data(profile, datasets)
        return
    check_folder(data_root)
    for name in datasets:
        if not (Path(data_root) / (folder := load_spec(name).folder)).is_dir():
            fix = f"fetch it with: bipvl fetch {name} --data-root {data_root}"
            raise BipvlError(f"holds no folder {folder}, with the data set {name}", fix, data_root)


def check_folder(data_root: str | Path) -> None:
    """Check that a data root is a folder with something in it; else raise a BipvlError."""
    if not Path(data_root).is_dir():
        raise BipvlError("the data root is not a folder", "give the folder with the data sets", data_root)
    if not any(Path(data_root).iterdir()):
        raise BipvlError("the data root is empty", "put the data sets there, or leave it out", data_root)


def synthetic_root(profile: str | Path) -> Path:
    """The folder of a profile's synthetic cohorts."""
    return Path("data", f"synthetic-{profile_name(profile)}")


def synthetic_cohort(profile: str | Path, dataset: str, progress: bool = True) -> Path:
    """Return the folder of a profile's synthetic cohorts; write that of a data set if it is missing.

    Raises:
        BipvlError: the profile runs on real data.
    """
    from bipvl.data.synthetic import synthesize

    cohort, root = get_profile(profile, load_spec(dataset).name).cohort, synthetic_root(profile)
    if cohort is None:
        raise _needs_real_data(profile)
    synthesize(dataset, root, cases=cohort.cases, size=tuple(cohort.size), progress=progress)
    return root


def data_root_of(run: Run) -> Path:
    """The folder of the synthetic cohort that a run was trained on; it is written if it is missing.

    Raises:
        BipvlError: the run was trained on real data, or on a cohort of your own profile that is missing.
    """
    profile, root = run.config["profile"], synthetic_root(run.config["profile"])
    if run.config["cohort"] != "synthetic":
        raise BipvlError("was trained on real data", "give their folder with --data-root", run.directory)
    if profile in load_profiles():
        return synthetic_cohort(profile, run.config["dataset"])
    if not root.is_dir():
        fix = "prepare the data set again with the profile's file, or give --data-root"
        raise BipvlError(f"its synthetic cohort {root} is missing", fix, run.directory)
    return root


def _needs_real_data(profile: str | Path, datasets: Sequence[str] = ()) -> BipvlError:
    problem = f"profile '{profile_name(profile)}' runs on real data"
    if not datasets:
        return BipvlError(problem, "give the folder with the data sets as the data root")
    commands = " and ".join(f"`bipvl fetch {name}`" for name in datasets)
    return BipvlError(problem, f"fetch them into the folder data with {commands}, then add DATA_ROOT=data")
