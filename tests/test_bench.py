"""The measurements of ``make bench`` and their summary."""

import re

import pytest
import torch
from score_files import measurements

from tools import bench


def test_repeats_alternate_after_a_warm_up_round(monkeypatch):
    order, clock = [], iter([100.0, 100.0, 1.0, 5.0, 2.0, 6.0, 9.0, 7.0])
    monkeypatch.setattr(bench, "_seconds", lambda run: (run(), next(clock))[1])
    medians = bench._medians([lambda: order.append("a"), lambda: order.append("b")], repeats=3)
    assert order == ["a", "b"] * 4
    assert medians == [2.0, 6.0]


def test_summary_shows_ratios_at_the_papers_size_and_the_machine():
    text = bench.summary(measurements())
    assert re.search(r"\| inference, one window \(s\) \| 2 \| 4 \| 0\.50× \|", text)
    assert "training step, all losses (s), without activation checkpointing | 3 | 4 | 0.75×" in text
    assert "crop" not in text and f"torch {torch.__version__}" in text and "threads" in text


def test_growth_settings_match_their_names():
    axes = {name.split("=")[0] for name in bench.GROWTH}
    assert axes == {"crop", "classes", "tokens"}
    for name, setting in bench.GROWTH.items():
        axis, size = name.split("=")
        assert getattr(setting, axis) == int(size)
    assert bench.Setting() == bench.AMOS and bench.AMOS.crop == 96


@pytest.mark.slow
def test_profiles_are_measured_as_they_train():
    ours, reference = bench.profile_times("smoke", "mmwhs_mr")
    assert ours > reference > 0  # language costs something
