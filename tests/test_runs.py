"""What a profile says is settled for each dataset and variant."""

import pytest

from bipvl.data.spec import load_spec
from bipvl.runs import Run, dataset_settings, load_profiles
from bipvl.variants import VARIANTS


def mappings(value):
    """Every mapping with a default, however deep."""
    if not isinstance(value, dict):
        return []
    if "default" in value:
        return [value]
    return [found for inner in value.values() for found in mappings(inner)]


@pytest.mark.parametrize("profile", load_profiles())
def test_a_profile_names_datasets_and_variants_that_there_are(profile):
    for mapping in mappings(load_profiles()[profile]):
        for name in mapping.keys() - {"default"} - VARIANTS.keys():
            load_spec(name)  # else a BipvlError


def test_a_value_is_the_variants_own_then_the_datasets_then_the_default(monkeypatch):
    training = {"lr": {"unet": 1, "mmwhs_ct": 2, "default": 3}}
    monkeypatch.setattr("bipvl.runs.get_profile", lambda name: {"training": training})
    heart, brain = load_spec("mmwhs_ct"), load_spec("msd_brain")
    found = [
        dataset_settings("any", spec, variant)["training"]["lr"]
        for spec, variant in ((heart, "unet"), (brain, "unet"), (heart, "bipvlseg"), (heart, ""), (brain, ""))
    ]
    assert found == [1, 1, 2, 2, 3]


def test_a_runs_config_holds_its_variants_value(tmp_path):
    plan = {"profile": "quick", "dataset": "mmwhs_mr", "seed": 0, "data_root": tmp_path}
    rates = load_profiles()["quick"]["training"]["lr"]
    for variant in ("universal", "bipvlseg"):
        found = Run.plan(variant=variant, **plan).config["training"]["lr"]
        assert found == rates.get(variant, rates["default"])
