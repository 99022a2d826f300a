"""The claims table on simulated scores with known verdicts."""

import shutil

import numpy as np
import pandas as pd
import pytest
from scipy.stats import mannwhitneyu, wilcoxon
from score_files import study, write_metrics

from bipvl import figures
from bipvl.analysis.claims import (
    ABLATIONS,
    COLUMNS,
    claim_texts,
    claims_table,
    gather_runs,
)
from bipvl.analysis.external import External
from bipvl.analysis.paper_values import NOT_AVAILABLE, read_paper_values
from bipvl.analysis.statistics import LONG, interval
from bipvl.analysis.studies import Experiments, load_experiments
from bipvl.analysis.tables import claims_markdown
from bipvl.common.errors import BipvlError

OURS, OTHER = "bipvlseg", "swin_unetr_v2"
NONE, TO_TEXT, TO_IMAGE, LATE = "no_fusion", "image_to_text", "text_to_image", "late_fusion"
BOTH_OVER = "Fusion in both directions is better than "


def run(values, variant, dataset="mmwhs_mr", seed=0, profile="quick", cohort="synthetic"):
    """One value per case → rows of the long table."""
    head = (cohort, profile, dataset, variant, seed)
    rows = [(*head, f"case_{i}", "aorta", "dice", "scan", float(v), "") for i, v in enumerate(values)]
    return pd.DataFrame(rows, columns=LONG)


def join(*parts):
    return pd.concat(parts, ignore_index=True)


def experiments(*studies, profile="quick"):
    return Experiments(
        profile=profile, datasets=("mmwhs_mr",), studies={s.name: s for s in studies}, external={}
    )


def fusion(*variants, datasets=("mmwhs_mr",), **changes):
    return study(datasets, name="fusion", variants=(OURS, *variants), **changes)


def row_of(table, claim):
    """The row of the one claim that ends with ``claim``."""
    (row,) = table[table["claim"].str.endswith(claim)].to_dict("records")
    return row


CASES = np.random.default_rng(0).normal(0.7, 0.1, 12)
GAPS = np.linspace(0.011, 0.049, 12)
LOW, HIGH = CASES - GAPS, CASES + GAPS
MIXED = CASES + GAPS * np.tile([1, -1], 6)
CLOSE = CASES + np.linspace(0.001, 0.005, 12) * np.tile([1, -1], 6)
PAPER_GAIN = "+2.1 to +4.7 Dice points"
SYNTHETIC = " (synthetic cohort, one seed)"


@pytest.fixture(scope="module")
def planted():
    """Ours is above no fusion, below image → text, unclear against text → image, equal to late fusion.

    Stage 1 was not run.
    """
    table = join(run(CASES, OURS), run(LOW, NONE), run(HIGH, TO_TEXT), run(MIXED, TO_IMAGE), run(CLOSE, LATE))
    return claims_table(table, experiments(fusion(NONE, TO_TEXT, TO_IMAGE, LATE, "stage_1")))


def test_known_differences_get_the_right_verdicts(planted):
    assert list(planted.columns) == COLUMNS
    verdicts = planted.set_index("claim")["verdict"]
    assert verdicts[BOTH_OVER + "none"] == "supported" + SYNTHETIC
    assert verdicts[BOTH_OVER + "image → text only"] == "contradicted" + SYNTHETIC
    assert verdicts[BOTH_OVER + "text → image only"] == "undecided" + SYNTHETIC
    assert verdicts["Fusion at every stage is better than at the last alone"] == "equivalent" + SYNTHETIC
    stage = "Fusion at every stage is better than at stage {} alone"
    assert verdicts[stage.format(1)] == "not tested: mmwhs_mr/stage_1/seed0 not run"
    assert verdicts[stage.format(2)] == "not tested: no study runs bipvlseg and stage_2 at profile quick"
    assert (
        "needs text encoders from the Hugging Face Hub"
        in verdicts["A medical text encoder (BioBERT) is better than a general one (BERT)"]
    )


def test_each_row_names_what_was_compared(planted):
    row = row_of(planted, "better than none")
    keys = ("study", "variant", "reference", "datasets", "cohort", "profile", "seeds", "cases")
    assert [row[key] for key in keys] == ["fusion", OURS, NONE, "mmwhs_mr", "synthetic", "quick", "0", 12]
    assert row["effect"] == pytest.approx(0.03)
    assert (row["low"], row["high"]) == pytest.approx(interval(np.round(CASES - LOW, 9)))
    assert row["interval"] == "BCa over cases"
    assert row["p"] == wilcoxon(CASES - LOW).pvalue == 2 / 2**12


def test_holms_correction_is_over_the_tested_claims_of_a_study():
    other = study(("mmwhs_mr",), variants=(OURS, OTHER))
    table = join(run(CASES, OURS), run(LOW, NONE), run(MIXED, TO_IMAGE), run(LOW, OTHER))
    found = claims_table(table, experiments(fusion(NONE, TO_IMAGE, TO_TEXT), other), resamples=99)
    smallest, mixed = 2 / 2**12, wilcoxon(MIXED - CASES).pvalue
    # Two claims of the study fusion are tested: its smaller p counts twice. So do both of the other study.
    assert row_of(found, "better than none")["p_holm"] == pytest.approx(2 * smallest)
    assert row_of(found, "better than text → image only")["p_holm"] == pytest.approx(mixed)
    assert row_of(found, "than SwinUNETR-V2")["p_holm"] == pytest.approx(2 * smallest)
    assert row_of(found, "on each data set")["p_holm"] == pytest.approx(2 * smallest)
    tested = found["p"].notna()
    assert found.loc[tested, "smallest_p"].tolist() == pytest.approx([2 * smallest] * 4)
    assert found.loc[~tested, ["p_holm", "smallest_p"]].isna().all(axis=None)


def test_too_few_cases_for_the_number_of_claims_cannot_decide():
    def found(cases):
        runs = join(run(CASES[:cases], OURS), run(LOW[:cases], NONE), run(LOW[:cases], TO_TEXT))
        return row_of(
            claims_table(runs, experiments(fusion(NONE, TO_TEXT)), resamples=99), "better than none"
        )

    six, seven = found(6), found(7)
    assert (six["verdict"], six["smallest_p"]) == ("cannot be decided" + SYNTHETIC, 2 * 2 / 2**6)
    assert (seven["verdict"], seven["smallest_p"]) == ("supported" + SYNTHETIC, 2 * 2 / 2**7)


def test_verdict_on_real_data_does_not_mention_the_cohort():
    table = join(*(run(v, n, seed=s, cohort="real") for n, v in ((OURS, CASES), (NONE, LOW)) for s in (0, 1)))
    row = row_of(
        claims_table(table, experiments(fusion(NONE, seeds=(0, 1))), resamples=99), "better than none"
    )
    assert row["verdict"] == "supported"


def test_effect_is_over_all_cases_of_all_data_sets():
    one, two = np.linspace(0.02, 0.05, 8), np.linspace(-0.021, 0.011, 4)
    table = join(
        *(
            run(CASES[: len(gain)] + gain, OURS, dataset)
            for dataset, gain in (("mmwhs_mr", one), ("amos22", two))
        ),
        *(run(CASES[:n], NONE, dataset) for dataset, n in (("mmwhs_mr", 8), ("amos22", 4))),
    )
    chosen = fusion(NONE, datasets=("mmwhs_mr", "amos22"))
    row = row_of(claims_table(table, experiments(chosen), resamples=99), "better than none")
    assert (row["datasets"], row["cases"]) == ("mmwhs_mr, amos22", 12)
    assert row["effect"] == pytest.approx((one.sum() + two.sum()) / 12)


def test_interval_is_over_the_seeds_of_the_study_and_cases():
    shifts = (0.0, 0.2)
    table = join(
        *(run(CASES + shift, OURS, seed=seed) for seed, shift in enumerate((*shifts, 9.0))),
        *(run(LOW, NONE, seed=seed) for seed in range(2)),
    )
    row = row_of(claims_table(table, experiments(fusion(NONE, seeds=(0, 1)))), "better than none")
    assert (row["seeds"], row["interval"]) == ("0 1", "percentile over seeds and cases")
    assert row["effect"] == pytest.approx(0.03 + 0.1)
    # With two seeds so far apart the claim is undecided, although Wilcoxon's p is small.
    assert row["low"] < 0 < row["high"]
    assert row["p_holm"] < 0.05
    assert row["verdict"] == "undecided (synthetic cohort)"  # and not "one seed"


def test_gain_on_the_data_set_with_most_classes_is_compared_with_the_others():
    random = np.random.default_rng(0)
    gains = {
        name: random.normal(mean, 0.01, 10)
        for name, mean in (("amos22", 0.06), ("mmwhs_mr", 0.02), ("msd_brain", 0.01))
    }
    parts = [run(CASES[:10] + gain, OURS, name) for name, gain in gains.items()]
    parts += [run(CASES[:10], OTHER, name) for name in gains]
    table = claims_table(join(*parts), experiments(study(gains)))
    row = row_of(table, "with the most classes")
    few = np.concatenate([gains["mmwhs_mr"], gains["msd_brain"]])
    assert row["datasets"] == "amos22 (15 classes) compared with mmwhs_mr (7 classes), msd_brain (3 classes)"
    assert row["cases"] == 30
    assert row["effect"] == pytest.approx(gains["amos22"].mean() - few.mean())
    assert row["p"] == pytest.approx(mannwhitneyu(gains["amos22"], few).pvalue)
    spread = (gains["amos22"].var() / 10 + few.var() / 20) ** 0.5
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * spread, rel=0.05)
    assert row["verdict"] == "supported" + SYNTHETIC
    assert (row["interval"], row["paper"]) == ("percentile over cases", NOT_AVAILABLE)


def test_gain_is_not_tested_on_data_sets_with_equally_many_classes():
    datasets = ("mmwhs_ct", "mmwhs_mr")
    table = join(*(run(CASES, variant, name) for variant in (OURS, OTHER) for name in datasets))
    row = row_of(claims_table(table, experiments(study(datasets)), resamples=99), "with the most classes")
    assert row["verdict"] == "not tested: mmwhs_ct, mmwhs_mr: no data set has more classes than another"


def test_method_is_compared_with_each_network_and_with_the_best_on_each_data_set():
    datasets, best = ("mmwhs_mr", "amos22"), CASES - GAPS / 3
    table = join(
        *(run(CASES, OURS, name) for name in datasets),
        *(run(v, OTHER, name) for name, v in zip(datasets, (best, LOW), strict=True)),
        *(run(v, "unet", name) for name, v in zip(datasets, (LOW, HIGH), strict=True)),
    )
    main = study(datasets, variants=(OURS, OTHER, "unet"))
    chosen = experiments(main)
    found = claims_table(table, chosen, read_paper_values(claim_texts(chosen)), resamples=99)
    assert row_of(found, "than SwinUNETR-V2")["effect"] == pytest.approx((0.01 + 0.03) / 2)
    assert row_of(found, "than SwinUNETR-V2")["paper"] == PAPER_GAIN
    row = row_of(found, "the best of these networks on each data set")
    assert row["reference"] == "swin_unetr_v2 (mmwhs_mr), unet (amos22)"
    assert row["effect"] == pytest.approx((0.01 - 0.03) / 2)
    assert (row["cases"], row["paper"]) == (24, PAPER_GAIN)


def test_first_study_that_runs_a_network_tests_its_claim():
    main = study(("mmwhs_mr", "amos22"))
    other = study(("mmwhs_mr",), name="comparison", variants=(OURS, OTHER, "unet"))
    table = join(*(run(CASES, v, d) for v in (OURS, OTHER) for d in main.datasets), run(LOW, "unet"))
    found = claims_table(table, experiments(main, other), resamples=99)
    assert row_of(found, "than SwinUNETR-V2")["datasets"] == "mmwhs_mr, amos22"
    assert row_of(found, "than UNet")["study"] == row_of(found, "on each data set")["study"] == "comparison"


def test_other_tool_is_compared_on_its_own_data_set_with_each_seed():
    tool = External(name="nnunet", title="nnU-Net", dataset="amos22", folder="predictions")
    main = study(("mmwhs_mr", "amos22"), seeds=(0, 1), external=(tool,))
    table = join(
        *(run(CASES + s / 50, v, d, s) for v in (OURS, OTHER) for d in main.datasets for s in (0, 1)),
        run(LOW, "nnU-Net", "amos22"),
    )
    found = claims_table(table, experiments(main), resamples=99)
    row = row_of(found, "than nnU-Net")
    assert (row["datasets"], row["seeds"], row["cases"]) == ("amos22", "0 1", 12)
    assert row["effect"] == pytest.approx(0.03 + 0.01)
    assert row_of(found, "on each data set")["cases"] == 24


def test_medical_encoder_is_the_method_itself_only_at_a_profile_that_uses_it():
    encoders = (OURS, "text-bert", "text-biobert")
    for profile, wanted in (("paper", "supported"), ("quick", "not tested: needs text encoders")):
        parts = [
            run(v[:8], name, profile=profile, cohort="real")
            for name, v in zip(encoders, (CASES, LOW, LOW), strict=True)
        ]
        chosen = study(("mmwhs_mr",), name="text_encoder", variants=encoders, profile=profile)
        found = claims_table(join(*parts), experiments(chosen, profile=profile), resamples=99)
        assert row_of(found, "(PubMedBERT) is better than a general one (BERT)")["verdict"].startswith(wanted)
        row = row_of(found, "(BioBERT) is better than a general one (BERT)")
        assert (row["variant"], row["reference"]) == ("text-biobert", "text-bert")
        assert (row["effect"], row["verdict"]) == (0, "equivalent (one seed)")


def test_every_claim_has_a_study_at_profile_paper():
    paper = load_experiments("paper")
    runs = {(d, v, s) for one in paper.studies.values() for d in one.datasets for v, s in one.runs(d)}
    random = np.random.default_rng(0)
    table = join(*(run(random.random(2), v, d, s, "paper", "real") for d, v, s in sorted(runs)))
    found = claims_table(table, paper, resamples=9)
    assert not found["verdict"].str.startswith("not tested").any()
    assert len(found) > len(ABLATIONS) + 10
    assert set(found.loc[found["study"] == "main", "reference"]) == {"swin_unetr_v2", "dynunet", "universal"}
    texts = set(claim_texts(paper))
    assert set(found["claim"]) < texts


def test_verdict_names_missing_runs():
    table = join(run(CASES, OURS), run(CASES, NONE))
    found = claims_table(table, experiments(fusion(NONE, seeds=(0, 1, 2))), resamples=99)
    expected = "not tested: mmwhs_mr/bipvlseg/seed1, mmwhs_mr/bipvlseg/seed2 and 2 more not run"
    assert row_of(found, "better than none")["verdict"] == expected


def test_scores_that_cannot_be_compared_are_rejected():
    chosen = experiments(fusion(NONE))
    whole = join(run(CASES, OURS), run(LOW, NONE))
    with pytest.raises(BipvlError, match=r"mix cohorts \(synthetic, real\)"):
        claims_table(join(whole, run(CASES, OURS, "amos22", cohort="real")), chosen)
    with pytest.raises(BipvlError, match="no_fusion/seed0: does not score case 'mmwhs_mr/case_11'"):
        claims_table(whole[:-1], chosen)
    with pytest.raises(BipvlError, match=r"no_fusion/seed0: dice of .* 'mmwhs_mr/case_11'.* has two rows"):
        claims_table(join(whole, whole[-1:]), chosen)


def test_runs_of_all_studies_are_read_once(tmp_path):
    for variant in (OURS, OTHER, NONE):
        write_metrics(tmp_path, "mmwhs_mr", variant, [("a", "left ventricle", "dice", 0.5)])
    chosen = experiments(study(("mmwhs_mr",)), fusion(NONE), study(("amos22",), name="comparison"))
    table = gather_runs(chosen, tmp_path)
    assert list(table.loc[table["grid"] == "scan", "variant"]) == [OURS, OTHER, NONE]
    assert set(claims_table(table, chosen, resamples=99)["verdict"]) > {"cannot be decided" + SYNTHETIC}
    wanted = "none/quick: has no run of any study; create them with: make reproduce PROFILE=quick"
    with pytest.raises(BipvlError, match=wanted):
        gather_runs(chosen, tmp_path / "none")


def test_markdown_has_effects_in_dice_points_verdicts_and_the_rule(planted):
    lines = claims_markdown(planted).splitlines()
    assert len(lines) == 2 + len(planted) + 2
    (line,) = [line for line in lines if "better than none" in line]
    row = row_of(planted, "better than none")
    effect = f"+3.0 (+{100 * row['low']:.1f} to +{100 * row['high']:.1f})"
    wanted = [
        BOTH_OVER + "none",
        "supported" + SYNTHETIC,
        NOT_AVAILABLE,
        "fusion",
        "mmwhs_mr",
        "12",
        effect,
        "0.002",
        "0.002",
    ]
    assert [cell.strip() for cell in line.strip("|").split("|")] == wanted
    (line,) = [line for line in lines if "image → text only" in line]
    assert "| −3.0 (−" in line
    assert lines[-1].startswith("Synthetic cohort, profile quick, seed 0.")
    assert "tested, 4 of 1" in lines[-1] and "Undecided: these data" in lines[-1]
    assert "real data" not in lines[-1]


def test_markdown_cites_the_source_of_the_papers_values():
    chosen = experiments(study(("mmwhs_mr",)))
    paper = read_paper_values(claim_texts(chosen))
    text = claims_markdown(claims_table(run(CASES, OURS), chosen, paper, resamples=99))
    assert f"| {PAPER_GAIN} [1] |" in text
    assert "from: [1] a machine-written summary of the paper, which names neither" in text


def test_figure_is_redrawn_from_its_csv_to_the_same_bytes(planted, tmp_path):
    figures.write("claims", planted, tmp_path)
    (tmp_path / "again").mkdir()
    shutil.copy(tmp_path / "claims.csv", tmp_path / "again")
    figures.redraw(tmp_path / "again")
    for path in (tmp_path / "again").iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()
    again = pd.read_csv(tmp_path / "claims.csv")
    assert list(again["verdict"]) == list(planted["verdict"])


def test_table_without_tested_claims_is_drawn_and_written(tmp_path):
    found = claims_table(run(CASES, OURS), experiments(fusion(NONE)))
    assert found["verdict"].str.startswith("not tested").all()
    assert figures.write("claims", found, tmp_path).is_file()
    assert "tested, 0 of " in claims_markdown(found)
