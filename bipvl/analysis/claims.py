"""The paper's claims with their measured effects and verdicts (METHOD.md, section 7)."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu

from bipvl.analysis.comparisons import compare, holm, nested_means, paired
from bipvl.analysis.statistics import case_means, read_runs
from bipvl.analysis.studies import Experiments, Study, study_folders
from bipvl.common.errors import BipvlError
from bipvl.data.spec import load_spec
from bipvl.engine.profiles import get_profile, profile_name
from bipvl.engine.variants import variant_title

COLUMNS = [
    *("claim", "study", "variant", "reference", "datasets", "cohort", "profile", "seeds", "cases"),
    *("effect", "low", "high", "interval", "p", "p_holm", "verdict", "paper"),
]
OURS = "bipvlseg"
PUBMEDBERT = "text-pubmedbert"
"""BiPVL-Seg with PubMedBERT: at a profile with this text encoder it is ``OURS`` itself."""
NETWORK_STUDIES = ("main", "comparison")
NOT_AVAILABLE = "not available here"
PAPER_GAIN = "+2.1 to +4.7 Dice points"
"""The gain over the compared methods in the paper's abstract."""
RULE = (
    "Supported: the 95 % interval is above 0 and p is below 0.05. Not supported: the interval is below 0 and "
    "p is below 0.05. Undecided: all other cases."
)

Runs = Mapping[tuple[str, str, int], pd.DataFrame]
"""Rows of Dice on the scan's own grid by (data set, variant, seed)."""


class _NotTestedError(Exception):
    """The reason why a claim is not tested."""


def _difference(rows: pd.DataFrame, variant: str, resamples: int) -> dict[str, object]:
    """Variant − reference, paired over the test cases of all data sets together."""
    (reference,) = set(rows["variant"]) - {variant}
    pooled = rows.assign(case=rows["dataset"] + "/" + rows["case"], dataset="all")
    row = compare(pooled, reference, resamples=resamples).iloc[0]
    several_seeds = np.isfinite(row["nested_low"])
    interval = "nested" if several_seeds else "difference"
    return {
        "reference": reference,
        "cases": row["cases"],
        "effect": row["difference"],
        "low": row[f"{interval}_low"],
        "high": row[f"{interval}_high"],
        "interval": "percentile over seeds and cases" if several_seeds else "BCa over cases",
        "p": row["p"],
    }


def _difference_from_best(rows: pd.DataFrame, variant: str, resamples: int) -> dict[str, object]:
    """Variant − the reference with the highest mean on each data set.

    The best one is chosen by the same scores, which favours it.
    """
    others = case_means(rows[rows["variant"] != variant])
    means = others.groupby(["dataset", "variant"], sort=False)["value"].mean()
    best = [*means.groupby("dataset", sort=False).idxmax()]
    chosen = rows[pd.MultiIndex.from_frame(rows[["dataset", "variant"]]).isin(best)]
    ours = rows[rows["variant"] == variant]
    measured = _difference(pd.concat([ours, chosen.assign(variant="best")]), variant, resamples)
    return measured | {"reference": ", ".join(f"{name} ({dataset})" for dataset, name in best)}


def _gain_with_classes(rows: pd.DataFrame, variant: str, resamples: int) -> dict[str, object]:
    """The gain on the data sets with the most classes − the gain on the others.

    A gain is the mean of paired differences. The two samples of cases are independent; every case of the
    other data sets has the same weight.
    """
    (reference,) = set(rows["variant"]) - {variant}
    gains = {name: paired(group, variant, reference) for name, group in rows.groupby("dataset", sort=False)}
    classes = {name: load_spec(name).num_classes for name in gains}
    most = [name for name in gains if classes[name] == max(classes.values())]
    others = [name for name in gains if name not in most]
    if not others:
        raise _NotTestedError(f"{', '.join(most)}: no data set has more classes than another")
    many, few = (np.hstack([gains[name].to_numpy() for name in names]) for names in (most, others))
    cases = many.shape[1], few.shape[1]
    resampled = nested_means(many, resamples=resamples) - nested_means(few, resamples=resamples, seed=1)
    low, high = np.percentile(resampled, [2.5, 97.5]) if min(cases) > 1 else (np.nan, np.nan)
    groups = (", ".join(f"{name} ({classes[name]} classes)" for name in names) for names in (most, others))
    return {
        "reference": reference,
        "datasets": " compared with ".join(groups),
        "cases": sum(cases),
        "effect": many.mean() - few.mean(),
        "low": low,
        "high": high,
        "interval": f"percentile over {'seeds and ' if len(many) > 1 else ''}cases",
        "p": mannwhitneyu(many.mean(axis=0), few.mean(axis=0)).pvalue,
    }


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim that an effect is above 0; by default that ``variant`` has a higher mean Dice than a reference.

    Attributes:
        text: the claim in this project's words.
        studies: the first of these that runs all the variants at the profile tests the claim.
        measure: (rows of the variant and its references, variant, resamples) → columns of the claims table.
        paper: the paper's own value.
    """

    text: str
    studies: tuple[str, ...]
    references: tuple[str, ...]
    variant: str = OURS
    measure: Callable[[pd.DataFrame, str, int], dict[str, object]] = _difference
    paper: str = NOT_AVAILABLE


def _ablation(study: str, text: str, reference: str, variant: str = OURS) -> Claim:
    return Claim(text=text, studies=(study,), references=(reference,), variant=variant)


def _medical(name: str, variant: str) -> Claim:
    text = f"A medical text encoder ({name}) is better than a general one (BERT)"
    return _ablation("text_encoder", text, "text-bert", variant)


ABLATIONS = (
    _ablation("fusion", "Fusion in both directions is better than image → text only", "image_to_text"),
    _ablation("fusion", "Fusion in both directions is better than text → image only", "text_to_image"),
    _ablation("fusion", "Fusion in both directions is better than none", "no_fusion"),
    *(
        _ablation("fusion", f"Fusion at every stage is better than at stage {n} alone", f"stage_{n}")
        for n in (1, 2, 3)
    ),
    _ablation("fusion", "Fusion at every stage is better than at the last alone", "late_fusion"),
    _ablation("objective", "Global and local alignment are better than global alone", "global_alignment"),
    _ablation("objective", "Global and local alignment are better than local alone", "local_alignment"),
    _ablation("objective", "Alignment and class embedding are better than neither", "segmentation_alone"),
    _medical("PubMedBERT", PUBMEDBERT),
    _medical("BioBERT", "text-biobert"),
    _medical("ClinicalBERT", "text-clinicalbert"),
    _ablation("prompts", "Prompts of concepts are better than class names", "prompts-names"),
)
MORE_CLASSES = Claim(
    text="The gain over SwinUNETR-V2 is largest on the data set with the most classes",
    studies=NETWORK_STUDIES,
    references=("swin_unetr_v2",),
    measure=_gain_with_classes,
)


def list_claims(experiments: Experiments) -> list[Claim]:
    """All claims: better than each compared network, better than the best of them, and the ablations.

    Variants of BiPVL-Seg among the compared networks are left out: the paper claims nothing about them.
    """
    compared = [
        tuple(name for name in _references(experiments.studies[study]) if not name.startswith(f"{OURS}-"))
        for study in NETWORK_STUDIES
        if study in experiments.studies
    ]
    shared = {"studies": NETWORK_STUDIES, "paper": PAPER_GAIN}
    networks = [
        Claim(text=f"BiPVL-Seg is better than {variant_title(name)}", references=(name,), **shared)
        for name in dict.fromkeys(chain(*compared))
    ]
    best = Claim(
        text="BiPVL-Seg is better than the best of these networks on each data set",
        references=max(compared, key=len, default=()),
        measure=_difference_from_best,
        **shared,
    )
    return [*networks, best, MORE_CLASSES, *ABLATIONS]


def claims_table(scores: pd.DataFrame, experiments: Experiments, *, resamples: int = 9999) -> pd.DataFrame:
    """Measure every claim.

    Args:
        scores: long table (columns ``statistics.LONG``), as returned by ``gather_runs``.
        resamples: number of resamples of each bootstrap.

    Returns:
        One row (columns COLUMNS) per claim.

        - effect, low, high: difference in mean Dice (from 0 to 1) on the scan's own grid, with its 95 %
          interval (``interval`` names its kind): over seeds and cases if there are several seeds.
        - p: Wilcoxon's signed-rank test, for independent samples the Mann-Whitney test; p_holm: with Holm's
          correction over all claims that are tested.
        - verdict: by RULE, or "not tested" and the reason; it mentions a synthetic cohort.

    Raises:
        BipvlError: scores of two cohorts; a case that only some runs have; a duplicate row.
    """
    cohorts = [*dict.fromkeys(scores["cohort"])]
    if len(cohorts) != 1:
        raise BipvlError(
            f"the runs at profile '{experiments.profile}' mix cohorts ({', '.join(cohorts)})",
            "delete the runs of one of them, since a claim is tested on one cohort",
        )
    dice = scores[(scores["metric"] == "dice") & (scores["grid"] == "scan")]
    runs = dict(iter(dice.groupby(["dataset", "variant", "seed"], sort=False)))
    rows = [_row(claim, experiments, runs, resamples) for claim in list_claims(experiments)]
    origin = {"cohort": cohorts[0], "profile": profile_name(experiments.profile)}
    table = pd.DataFrame(rows, columns=COLUMNS).assign(**origin)
    table = table.astype({"cases": "Int64"})  # whole numbers, although claims that are not tested have none
    table["p_holm"] = holm(table["p"].astype(float))
    table["verdict"] = [row["verdict"] or verdict(row) for _, row in table.iterrows()]
    return table


def verdict(row: pd.Series) -> str:
    """The verdict by RULE from low, high, p_holm and cohort; "undecided" if they are NaN."""
    word = "undecided"
    if row["p_holm"] < 0.05 and (row["low"] > 0 or row["high"] < 0):
        word = "supported" if row["low"] > 0 else "not supported"
    return f"{word} (synthetic cohort)" if row["cohort"] == "synthetic" else word


def gather_runs(experiments: Experiments, root: str | Path) -> pd.DataFrame:
    """The long table of the finished runs of all studies, each once.

    Raises:
        BipvlError: there is no finished run.
    """
    folders: dict[str, dict[Path, None]] = {}
    for study in experiments.studies.values():
        with suppress(BipvlError):  # the study has no run yet, which the verdicts of its claims will report
            for dataset, paths in study_folders(study, root)[0].items():
                folders.setdefault(dataset, {}).update(dict.fromkeys(paths))
    if not folders:
        raise BipvlError(
            "has no run of any study",
            f"create them with: make reproduce PROFILE={experiments.profile}",
            Path(root, profile_name(experiments.profile)),
        )
    return read_runs({dataset: [*paths] for dataset, paths in folders.items()})


def _references(study: Study) -> tuple[str, ...]:
    """All that a study compares with its first variant, other tools by their titles."""
    return tuple(dict.fromkeys([*study.variants[1:], *(other.title for other in study.external)]))


def _row(claim: Claim, experiments: Experiments, runs: Runs, resamples: int) -> dict[str, object]:
    """A claim's row without the columns that depend on other rows; its verdict is "" if it is tested."""
    encoder = get_profile(experiments.profile).language.text
    variant = OURS if claim.variant == PUBMEDBERT and "pubmedbert" in encoder else claim.variant
    row = {"claim": claim.text, "study": claim.studies[0], "variant": variant, "verdict": ""}
    row |= {"reference": ", ".join(claim.references), "paper": claim.paper}
    try:
        study = _study(claim, variant, experiments)
        rows = _rows(study, variant, claim.references, runs)
        row |= {"study": study.name, "seeds": " ".join(map(str, study.seeds))}
        row["datasets"] = ", ".join(dict.fromkeys(rows["dataset"]))
        return row | claim.measure(rows, variant, resamples)
    except _NotTestedError as reason:
        return row | {"verdict": f"not tested: {reason}"}


def _study(claim: Claim, variant: str, experiments: Experiments) -> Study:
    """The study that tests a claim at the profile."""
    for name in claim.studies:
        study = experiments.studies.get(name)
        if study and study.seeds and {variant, *claim.references} <= {study.variants[0], *_references(study)}:
            return study
    if claim.studies == ("text_encoder",):
        raise _NotTestedError("needs text encoders from the Hugging Face Hub")
    pair = " and ".join([variant, *claim.references])
    raise _NotTestedError(f"no study runs {pair} at profile {experiments.profile}")


def _rows(study: Study, variant: str, references: Iterable[str], runs: Runs) -> pd.DataFrame:
    """The rows of a study's runs of the variant and its references, on the data sets with both."""
    titles = [(other.dataset, other.title) for other in study.external]
    parts, missing = [], []
    for dataset in study.datasets:
        here = [name for name in references if name in study.variants or (dataset, name) in titles]
        for name in [variant, *here] if here else []:
            for seed in study.seeds:
                # Other tools' predictions have no seeds; they are compared with each of ours.
                run = (dataset, name, 0 if (dataset, name) in titles else seed)
                if run in runs:
                    parts.append(runs[run].assign(seed=seed))
                else:
                    missing.append("{}/{}/seed{}".format(*run))
    if missing:
        rest = f" and {len(missing) - 2} more" if missing[2:] else ""
        raise _NotTestedError(f"{', '.join(missing[:2])}{rest} not run")
    if not parts:
        raise _NotTestedError(f"study '{study.name}' compares nothing with {variant}")
    return pd.concat(parts)
