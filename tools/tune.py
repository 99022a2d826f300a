"""Tune the learning rate of every network at a profile and write ``bipvl/engine/learning_rates.csv``.

python -m tools.tune PROFILE=laptop STUDY=main JOBS=2 DATA_ROOT=data

Run it again to resume: trainings that are complete are kept, in ``runs/PROFILE/DATASET/VARIANT/tuning-RATE``.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pandas as pd

from bipvl import figures
from bipvl.analysis.studies import load_experiments
from bipvl.common.errors import BipvlError
from bipvl.common.files import write_csv
from bipvl.engine.data_root import check_data_root
from bipvl.engine.learning_rates import PATH, RATES, SHARE, is_tuned, rate_settings
from bipvl.engine.prepare import prepare
from bipvl.engine.profiles import get_profile, profile_name
from bipvl.engine.run import Run
from tools.make_variables import check

KEYS = ["profile", "dataset", "variant"]
SEED = 0


def tuned_networks(profile: str, study: str) -> list[tuple[str, str]]:
    """Data set and variant of every network that the studies at a profile need tuned."""
    studies = load_experiments(profile).select(study)
    pairs = [(dataset, v) for s in studies for dataset in s.datasets for v in s.variants if is_tuned(v)]
    return list(dict.fromkeys(pairs))


def plan_training(profile: str, dataset: str, variant: str, rate: float, data_root: Path) -> Run:
    """The run that trains a variant with one rate for a third of the profile's epochs."""
    training = get_profile(profile, dataset).training
    shorter = {"epochs": max(1, training.epochs // SHARE)}
    run = Run.plan(
        profile=profile,
        dataset=dataset,
        variant=variant,
        seed=SEED,
        data_root=data_root,
        overrides={"training": rate_settings(profile, dataset, rate) | shorter},
    )
    return replace(run, directory=run.directory.with_name(f"tuning-{rate:g}"))


def train_run(run: Run, data_root: Path, threads: int) -> dict[str, object]:
    """Train one run of the grid (or keep it, if it is complete) and return its row of the table."""
    import torch

    from bipvl.engine.train import train

    torch.set_num_threads(threads)
    run.claim()
    train(run, data_root)
    history, config = pd.read_csv(run.directory / "history.csv"), run.config
    return {
        **{key: config[key] for key in (*KEYS, "cohort", "seed")},
        "steps": len(history),
        "lr": config["training"]["lr"],
        "val_dice": round(history["val_dice"].max(), 6),
    }


def train_grid(
    networks: Sequence[tuple[str, str]], profile: str, data_root: Path, jobs: int
) -> Iterator[pd.DataFrame]:
    """The rows of each network as soon as all its rates are trained; ``jobs`` trainings at the same time."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:

        def start(dataset: str, variant: str, rate: float) -> Future[dict[str, object]]:
            run = plan_training(profile, dataset, variant, rate, data_root)
            return pool.submit(train_run, run, data_root, threads)

        for futures in [[start(*network, rate) for rate in RATES] for network in networks]:
            rows = pd.DataFrame([future.result() for future in futures])
            yield rows.assign(chosen=rows.index == rows["val_dice"].idxmax())  # the lower rate if equal


def tune(profile: str, study: str, data_root: str | None, jobs: int) -> None:
    """Train the grid and write the table, network by network, then the figure.

    Raises:
        BipvlError: no or wrong data, or a training of the grid has other settings.
    """
    networks = tuned_networks(profile, study)
    datasets = list(dict.fromkeys(dataset for dataset, _ in networks))
    check_data_root(profile, data_root, datasets)
    if not networks:
        raise BipvlError(f"study '{study}' has no network to tune", "choose a study with data sets")
    for dataset in datasets:
        root = prepare(profile=profile, dataset=dataset, data_root=data_root)  # the same for all of them
    for rows in train_grid(networks, profile, root, jobs):
        table = pd.concat([pd.read_csv(PATH), rows], ignore_index=True)
        table = table.drop_duplicates([*KEYS, "lr"], keep="last").sort_values([*KEYS, "lr"])
        write_csv(PATH, table)
        best = rows[rows["chosen"]].iloc[0]
        found = f"{best.lr:g} (validation Dice {best.val_dice:.3f})"
        print(f"{best.dataset} · {best.variant}: {found}", flush=True)
    name = profile_name(profile)
    table = pd.read_csv(PATH)
    print(figures.write("learning_rates", table[table["profile"] == name], Path("figures", name)))


if __name__ == "__main__":
    try:
        defaults = {"PROFILE": "laptop", "STUDY": "all", "JOBS": "2", "DATA_ROOT": ""}
        values = defaults | dict(argument.split("=", 1) for argument in sys.argv[1:])
        root = values.pop("DATA_ROOT") or None
        check(values)
        tune(values["PROFILE"], values["STUDY"], root, int(values["JOBS"]))
    except BipvlError as error:
        sys.exit(f"bipvl: {error}")
