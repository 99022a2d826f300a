"""What a profile says is settled for each dataset."""

import pytest

from bipvl.data.spec import load_spec
from bipvl.engine.run import dataset_settings, load_profiles


def mappings(value):
    """Every mapping with a default, however deep."""
    if not isinstance(value, dict):
        return []
    if "default" in value:
        return [value]
    return [found for inner in value.values() for found in mappings(inner)]


@pytest.mark.parametrize("profile", load_profiles())
def test_a_profile_names_datasets_that_there_are(profile):
    for mapping in mappings(load_profiles()[profile]):
        for name in mapping.keys() - {"default"}:
            load_spec(name)  # else a BipvlError


def test_a_value_is_the_datasets_own_or_the_default(monkeypatch):
    training = {"lr": {"mmwhs_ct": 2, "default": 3}}
    monkeypatch.setattr("bipvl.engine.run.get_profile", lambda name: {"training": training})
    specs = map(load_spec, ("mmwhs_ct", "msd_brain"))
    assert [dataset_settings("any", spec)["training"]["lr"] for spec in specs] == [2, 3]
