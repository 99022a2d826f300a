"""Profiles: built-in ones, your own YAML files, overrides from the command line, and the config of a run."""

import json

import pytest

from bipvl.common.errors import BipvlError
from bipvl.data.spec import dataset_names, load_spec
from bipvl.engine.profiles import (
    changed_settings,
    dataset_settings,
    get_profile,
    load_profiles,
    parent_profile,
    parse_overrides,
    profile_name,
)
from bipvl.engine.run import Run

HEART, ABDOMEN = load_spec("mmwhs_ct"), load_spec("amos22")


@pytest.fixture
def own(tmp_path):
    """(text, name) → path of your own profile."""

    def write(text, name="mine"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("profile", load_profiles())
@pytest.mark.parametrize("dataset", dataset_names())
def test_every_built_in_profile_has_valid_settings_for_every_data_set(profile, dataset):
    settings = dataset_settings(profile, load_spec(dataset))
    assert settings.keys() - {"cohort"} == {"spacing", "crop", "network", "language", "training", "overlap"}


def test_built_in_profiles_resolve_to_the_documented_settings():
    quick = dataset_settings("quick", HEART)
    assert (quick["spacing"], quick["crop"], quick["training"]["epochs"]) == ([8.0] * 3, [32, 24, 32], 10)
    abdomen = dataset_settings("quick", ABDOMEN)
    assert (abdomen["spacing"], abdomen["crop"]) == ([7.0] * 3, [48, 32, 48])
    paper = dataset_settings("paper", HEART)
    assert paper["spacing"] == list(HEART.spacing) and "cohort" not in paper
    assert paper["training"] == {
        "epochs": 300,
        "validations": 60,
        "batch_size": 1,
        "lr": 1e-4,
        "language_lr": 1e-4,
        "text_lr": 1e-4,
        "warmup": 0.0,
        "weight_decay": 1e-5,
        "max_grad_norm": None,
        "rarity_power": 0.0,
        "mixed_precision": "fp16",
        "checkpointing": False,
        "workers": 4,
        "deterministic": False,
    }
    assert paper["overlap"] == {"validation": 0.25, "test": 0.75}


def test_an_own_profile_changes_the_one_that_it_extends(own):
    path = own("extends: quick\ntitle: Mine\ntraining:\n  epochs: 5\n  lr: 1e-3\n")
    changed, quick = dataset_settings(path, HEART), dataset_settings("quick", HEART)
    assert changed["training"] == quick["training"] | {"epochs": 5, "lr": 0.001}
    assert changed | {"training": None} == quick | {"training": None}
    assert dataset_settings(path, ABDOMEN)["training"]["epochs"] == 5  # also where quick has its own value
    assert (profile_name(path), parent_profile(path)) == ("mine", "quick")
    assert get_profile(path).title == "Mine" and parent_profile("paper") == "paper"


def test_an_own_profile_has_settings_for_single_data_sets(own):
    path = own("extends: laptop\ndata_sets:\n  mmwhs_ct:\n    training:\n      epochs: 2\n")
    assert dataset_settings(path, HEART)["training"]["epochs"] == 2
    assert dataset_settings(path, ABDOMEN) == dataset_settings("laptop", ABDOMEN)


def test_a_run_of_an_own_profile_is_in_a_folder_of_its_name(own, tmp_path):
    run = Run.plan(
        profile=own("extends: smoke"),
        dataset="mmwhs_ct",
        variant="unet",
        seed=1,
        data_root=None,
        root=tmp_path,
    )
    assert run.directory == tmp_path / "mine" / "mmwhs_ct" / "unet" / "seed1"
    assert (run.config["profile"], run.config["cohort"]) == ("mine", "synthetic")


@pytest.mark.parametrize(
    ("text", "name", "problem", "fix"),
    [
        ("extends: quik", "mine", "'extends': there is no profile 'quik'", "choose one of: quick"),
        ("extends: quick", "laptop", "'laptop' is the name of a built-in profile", "another name"),
        ("epochs: 3", "mine", "there is no key 'epochs'", "use one of"),
        ("extends: quick\ntraining: {epoch: 3}", "mine", "no key 'training.epoch'", "use one of: epochs"),
        ("extends: quick\ntraining: {lr: fast}", "mine", "'training.lr' is 'fast'", "a number above 0"),
        ("extends: quick\ncrop: [32, 32]", "mine", "'crop' is [32, 32]", "three whole numbers"),
        ("training: {epochs: 3}", "mine", "'network.depths' is missing", "set it to a list"),
        ("extends: quick\ndata_sets: [amos22]", "mine", "'data_sets' does not map", "NAME: {KEY: VALUE}"),
        (
            "extends: quick\ndata_sets: {amos22: {crap: 1}}",
            "mine",
            "data_sets.amos22: there is no key",
            "crop",
        ),
        (
            "extends: quick\nnetwork: {depths: [2]}",
            "mine",
            "needs as many 'depths' as 'num_heads'",
            "per stage",
        ),
        (
            "extends: quick\nnetwork: {num_heads: [3, 5]}",
            "mine",
            "do not divide the channels",
            "feature_size",
        ),
        ("[quick]", "mine", "holds no mapping", "key: value"),
    ],
)
def test_a_wrong_own_profile_is_refused(own, text, name, problem, fix):
    path = own(text, name)
    with pytest.raises(BipvlError) as caught:
        dataset_settings(path, HEART)
    assert str(caught.value.file).startswith(str(path)), caught.value
    assert problem in str(caught.value) and fix in caught.value.fix, caught.value


def test_a_missing_own_profile_is_named(tmp_path):
    with pytest.raises(BipvlError, match=r"none\.yaml: file not found; check its path"):
        get_profile(tmp_path / "none.yaml")


def test_overrides_come_last_and_are_yaml():
    overrides = parse_overrides(["training.lr=1e-3", "crop=[16, 16, 8]", "training.mixed_precision=no"])
    assert overrides["crop"] == [16, 16, 8]
    settings = dataset_settings("quick", HEART, overrides)
    assert settings["training"]["lr"] == 0.001 and settings["training"]["mixed_precision"] == "no"
    assert settings["crop"] == [16, 16, 8]
    cleared = dataset_settings("quick", HEART, parse_overrides(["training.max_grad_norm=null"]))
    assert cleared["training"]["max_grad_norm"] is None


@pytest.mark.parametrize(
    ("assignment", "problem", "fix"),
    [
        ("training.lr", "'training.lr' is no setting", "KEY=VALUE"),
        ("=3", "'=3' is no setting", "KEY=VALUE"),
        ("crop=[16", "the value of 'crop=[16' is not YAML", "syntax"),
        ("training.epoch=3", "there is no key 'training.epoch'", "use one of: epochs"),
        ("cohort.size=3", "there is no key 'cohort'", "use one of"),
        ("training.epochs=0", "'training.epochs' is 0", "a whole number from 1"),
        ("training.epochs=2.5", "'training.epochs' is 2.5", "a whole number from 1"),
        ("training.lr=-1", "'training.lr' is -1", "a number above 0"),
        ("training.lr=.inf", "'training.lr' is inf", "a number above 0"),
        ("training.checkpointing=maybe", "'training.checkpointing' is 'maybe'", "true or false"),
        ("training=3", "'training' is 3", "must be"),
        ("overlap.test=1", "'overlap.test' is 1", "below 1"),
        ("crop=[20, 20, 20]", "crops of 20 x 20 x 20 voxels", "multiples of 8"),
    ],
)
def test_a_wrong_override_is_refused(assignment, problem, fix):
    with pytest.raises(BipvlError) as caught:
        dataset_settings("quick", HEART, parse_overrides([assignment]))
    assert problem in str(caught.value) and fix in caught.value.fix, caught.value


def test_the_assignments_that_a_manifest_records_give_the_same_settings():
    base, overrides = dataset_settings("quick", HEART), ["training.lr=1e-05", "language.fusion_heads=4"]
    settings = dataset_settings("quick", HEART, parse_overrides(overrides))
    assert changed_settings(base, settings) == ["language.fusion_heads=4", "training.lr=1e-05"]
    assert dataset_settings("quick", HEART, parse_overrides(changed_settings(base, settings))) == settings


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda c: c.pop("crop"), "'crop' is missing"),
        (lambda c: c["training"].pop("language_lr"), "'training.language_lr' is missing"),
        (lambda c: c["training"].update(precision="no"), "there is no key 'training.precision'"),
        (lambda c: c.update(seed="0"), "'seed' is '0'"),
    ],
)
def test_a_config_of_an_older_layout_is_refused(tmp_path, change, problem):
    run = Run.plan(profile="smoke", dataset="mmwhs_ct", variant="unet", seed=0, data_root=None, root=tmp_path)
    change(run.config)
    run.claim()
    with pytest.raises(BipvlError) as caught:
        Run.open(run.directory)
    assert caught.value.file == run.directory / "config.json"
    assert caught.value.problem == f"{problem}, so the file is of an older layout or was edited"
    assert caught.value.fix == f"delete {run.directory} and train the run again"


def test_a_directory_of_other_settings_is_refused(tmp_path):
    where = {"profile": "smoke", "dataset": "mmwhs_ct", "variant": "unet", "seed": 0, "root": tmp_path}
    run = Run.plan(**where, data_root=None)
    run.claim()
    Run.plan(**where, data_root=None).claim()  # the same settings again
    other = Run.plan(**where, data_root=None, overrides={"training": {"epochs": 7}})
    before = (run.directory / "config.json").read_bytes()
    with pytest.raises(BipvlError, match=r"seed0: holds a run with other settings \(training\); delete it"):
        other.claim()
    assert (run.directory / "config.json").read_bytes() == before
    assert json.loads(before)["training"]["epochs"] == 2


def test_the_spec_is_read_once_per_run(tmp_path, monkeypatch):
    run = Run.plan(profile="smoke", dataset="mmwhs_ct", variant="unet", seed=0, data_root=None, root=tmp_path)
    assert run.spec is run.spec
