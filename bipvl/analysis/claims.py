"""The paper's claims, each beside what was measured here, with a verdict (METHOD.md, section 7)."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu

from bipvl.analysis.comparisons import compare, holm, nested_means, paired
from bipvl.analysis.statistics import case_means, read_runs
from bipvl.analysis.studies import Experiments, Study, study_folders
from bipvl.common.errors import BipvlError
from bipvl.data.spec import load_spec
from bipvl.engine.run import get_profile
from bipvl.engine.variants import variant_title

COLUMNS = [
    *("claim", "study", "variant", "reference", "datasets", "cohort", "profile", "seeds", "cases"),
    *("effect", "low", "high", "interval", "p", "p_holm", "verdict", "paper"),
]
OURS = "bipvlseg"
PUBMEDBERT = "text-pubmedbert"
"""BiPVL-Seg with PubMedBERT: ``OURS`` itself at a profile whose own text encoder that is."""
COMPARED = ("main", "comparison")
"""The studies of the compared networks."""
NOT_AVAILABLE = "not available here"
SUMMARY = "+2.1 to +4.7 Dice points"
"""What the paper's summary says of its gains over the compared methods."""
RULE = (
    "Supported: the 95 % interval leaves out 0 on the claimed side, and p is below 0.05. Not supported: the "
    "same on the other side. Undecided: all else."
)

Runs = Mapping[tuple[str, str, int], pd.DataFrame]
"""Rows of Dice on the scan's own grid by (dataset, variant, seed)."""


class _NotTestedError(Exception):
    """Why a claim has no measurement."""


def _difference(rows: pd.DataFrame, variant: str, resamples: int) -> dict[str, object]:
    """Variant − the other one, paired over the test cases of all datasets together."""
    (reference,) = set(rows["variant"]) - {variant}
    pooled = rows.assign(case=rows["dataset"] + "/" + rows["case"], dataset="all")
    row = compare(pooled, reference, resamples=resamples).iloc[0]
    several = np.isfinite(row["nested_low"])
    ends = "nested" if several else "difference"
    return {
        "reference": reference,
        "cases": row["cases"],
        "effect": row["difference"],
        "low": row[f"{ends}_low"],
        "high": row[f"{ends}_high"],
        "interval": "percentile over seeds and cases" if several else "BCa over cases",
        "p": row["p"],
    }


def _against_best(rows: pd.DataFrame, variant: str, resamples: int) -> dict[str, object]:
    """Variant − the one with the highest mean on each dataset.

    The choice by the same scores favours the chosen one.
    """
    others = case_means(rows[rows["variant"] != variant])
    means = others.groupby(["dataset", "variant"], sort=False)["value"].mean()
    best = [*means.groupby("dataset", sort=False).idxmax()]
    chosen = rows[pd.MultiIndex.from_frame(rows[["dataset", "variant"]]).isin(best)]
    ours = rows[rows["variant"] == variant]
    found = _difference(pd.concat([ours, chosen.assign(variant="best")]), variant, resamples)
    return found | {"reference": ", ".join(f"{name} ({dataset})" for dataset, name in best)}


def _growth(rows: pd.DataFrame, variant: str, resamples: int) -> dict[str, object]:
    """The gain on the dataset with the most classes − that on the others: independent samples of cases.

    Gains are paired differences, of which all cases of the others count alike.
    """
    (reference,) = set(rows["variant"]) - {variant}
    gains = {name: paired(group, variant, reference) for name, group in rows.groupby("dataset", sort=False)}
    classes = {name: load_spec(name).num_classes for name in gains}
    richest = [name for name in gains if classes[name] == max(classes.values())]
    others = [name for name in gains if name not in richest]
    if not others:
        raise _NotTestedError(f"{', '.join(richest)}: no data set has more classes than another")
    many, few = (np.hstack([gains[name].to_numpy() for name in names]) for names in (richest, others))
    cases = many.shape[1], few.shape[1]
    drawn = nested_means(many, resamples=resamples) - nested_means(few, resamples=resamples, seed=1)
    low, high = np.percentile(drawn, [2.5, 97.5]) if min(cases) > 1 else (np.nan, np.nan)
    told = (", ".join(f"{name} ({classes[name]} classes)" for name in names) for names in (richest, others))
    return {
        "reference": reference,
        "datasets": " against ".join(told),
        "cases": sum(cases),
        "effect": many.mean() - few.mean(),
        "low": low,
        "high": high,
        "interval": f"percentile over {'seeds and ' if len(many) > 1 else ''}cases",
        "p": mannwhitneyu(many.mean(axis=0), few.mean(axis=0)).pvalue,
    }


@dataclass(frozen=True, kw_only=True)
class Claim:
    """That ``variant`` has a higher mean Dice than its reference, or what else ``measure`` says is above 0.

    Attributes:
        text: the claim in this project's words.
        studies: the first of them that runs all these variants at the profile tests it.
        needs: what is said where none does.
        measure: (rows of the variant and its references, variant, resamples) → columns of the ledger.
        paper: the paper's own value.
    """

    text: str
    studies: tuple[str, ...]
    references: tuple[str, ...]
    variant: str = OURS
    needs: str = ""
    measure: Callable[[pd.DataFrame, str, int], dict[str, object]] = _difference
    paper: str = NOT_AVAILABLE


def _fusion(text: str, reference: str) -> Claim:
    return Claim(text=f"Fusion {text}", studies=("fusion",), references=(reference,))


def _objective(text: str, reference: str) -> Claim:
    return Claim(text=text, studies=("objective",), references=(reference,))


def _medical(name: str, variant: str) -> Claim:
    return Claim(
        text=f"A medical text encoder ({name}) is better than a general one (BERT)",
        studies=("text_encoder",),
        variant=variant,
        references=("text-bert",),
        needs="needs the hub, where these text encoders come from",
    )


ABLATIONS = (
    _fusion("in both directions is better than image → text only", "image_to_text"),
    _fusion("in both directions is better than text → image only", "text_to_image"),
    _fusion("in both directions is better than none", "no_fusion"),
    *(_fusion(f"at every stage is better than at stage {n} alone", f"stage_{n}") for n in (1, 2, 3)),
    _fusion("at every stage is better than at the last alone", "late_fusion"),
    _objective("Global and local alignment are better than global alone", "global_alignment"),
    _objective("Global and local alignment are better than local alone", "local_alignment"),
    _objective("Alignment and class embedding are better than neither", "segmentation_alone"),
    _medical("PubMedBERT", PUBMEDBERT),
    _medical("BioBERT", "text-biobert"),
    _medical("ClinicalBERT", "text-clinicalbert"),
    Claim(
        text="Prompts of concepts are better than class names",
        studies=("prompts",),
        references=("prompts-names",),
    ),
)
GROWTH = Claim(
    text="The gain over SwinUNETR-V2 is largest where classes are many",
    studies=COMPARED,
    references=("swin_unetr_v2",),
    measure=_growth,
)


def claims(experiments: Experiments) -> list[Claim]:
    """All claims: over each network of COMPARED, over the best of the study with most, and the ablations'.

    BiPVL-Seg's own variants there are no claim of the paper's.
    """
    compared = [
        tuple(name for name in _others(experiments.studies[study]) if not name.startswith(f"{OURS}-"))
        for study in COMPARED
        if study in experiments.studies
    ]
    networks = [
        Claim(
            text=f"BiPVL-Seg is better than {variant_title(name)}",
            studies=COMPARED,
            references=(name,),
            paper=SUMMARY,
        )
        for name in dict.fromkeys(name for names in compared for name in names)
    ]
    best = Claim(
        text="BiPVL-Seg is better than the best of these on each data set",
        studies=COMPARED,
        references=max(compared, key=len, default=()),
        measure=_against_best,
        paper=SUMMARY,
    )
    return [*networks, best, GROWTH, *ABLATIONS]


def ledger(scores: pd.DataFrame, experiments: Experiments, *, resamples: int = 9999) -> pd.DataFrame:
    """Every claim with what was measured.

    Args:
        scores: long (columns ``statistics.LONG``), as ``gather`` gives it.
        resamples: of each bootstrap.

    Returns:
        A row (columns COLUMNS) a claim.

        - effect, low, high: difference in mean Dice (1) on the scan's own grid, with its 95 % interval
          (``interval`` says of what kind): over seeds and cases where there are several seeds.
        - p: Wilcoxon's signed-rank test, for independent samples Mann-Whitney's; p_holm: with Holm's
          correction over all claims that are tested.
        - verdict: by RULE, or "not tested" and why; of a synthetic cohort it says so.

    Raises:
        BipvlError: scores of two cohorts; a case that one run has and another has not; a row that is there
            twice.
    """
    cohorts = [*dict.fromkeys(scores["cohort"])]
    if len(cohorts) != 1:
        raise BipvlError(
            f"the runs at profile '{experiments.profile}' mix cohorts ({', '.join(cohorts)}), and a claim is "
            "tested on one; delete the runs of the other"
        )
    dice = scores[(scores["metric"] == "dice") & (scores["grid"] == "scan")]
    runs = dict(iter(dice.groupby(["dataset", "variant", "seed"], sort=False)))
    rows = [_row(claim, experiments, runs, resamples) for claim in claims(experiments)]
    table = pd.DataFrame(rows, columns=COLUMNS).assign(cohort=cohorts[0], profile=experiments.profile)
    table = table.astype({"cases": "Int64"})  # whole numbers, though claims that are not tested have none
    table["p_holm"] = holm(table["p"].astype(float))
    table["verdict"] = [row["verdict"] or verdict(row) for _, row in table.iterrows()]
    return table


def verdict(row: pd.Series) -> str:
    """By RULE, from low, high, p_holm and cohort; NaN decide nothing."""
    word = "undecided"
    if row["p_holm"] < 0.05 and row["low"] > 0:
        word = "supported"
    if row["p_holm"] < 0.05 and row["high"] < 0:
        word = "not supported"
    return f"{word} (synthetic cohort)" if row["cohort"] == "synthetic" else word


def gather(experiments: Experiments, root: str | Path) -> pd.DataFrame:
    """The long table of all studies' runs that are there, none twice.

    Raises:
        BipvlError: not one is there.
    """
    folders: dict[str, dict[Path, None]] = {}
    for study in experiments.studies.values():
        with suppress(BipvlError):  # not one run of this study, as its claims will say
            for dataset, paths in study_folders(study, root)[0].items():
                folders.setdefault(dataset, {}).update(dict.fromkeys(paths))
    if not folders:
        raise BipvlError(
            f"{Path(root, experiments.profile)} holds no run of any study; "
            f"make them with: make reproduce PROFILE={experiments.profile}"
        )
    return read_runs({dataset: [*paths] for dataset, paths in folders.items()})


def _others(study: Study) -> tuple[str, ...]:
    """All that a study holds against its first variant, other tools by their titles."""
    return tuple(dict.fromkeys([*study.variants[1:], *(other.title for other in study.external)]))


def _row(claim: Claim, experiments: Experiments, runs: Runs, resamples: int) -> dict[str, object]:
    """A claim's row but for what depends on the other rows; a verdict only where it is not tested."""
    own_encoder = get_profile(experiments.profile)["language"]["text"]
    variant = OURS if claim.variant == PUBMEDBERT and "pubmedbert" in own_encoder else claim.variant
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
        if study and study.seeds and {variant, *claim.references} <= {study.variants[0], *_others(study)}:
            return study
    pair = " and ".join([variant, *claim.references])
    raise _NotTestedError(claim.needs or f"no study runs {pair} at profile {experiments.profile}")


def _rows(study: Study, variant: str, references: Iterable[str], runs: Runs) -> pd.DataFrame:
    """The rows of a study's runs of the variant and its references, where both are to run."""
    titles = [(other.dataset, other.title) for other in study.external]
    parts, missing = [], []
    for dataset in study.datasets:
        there = [name for name in references if name in study.variants or (dataset, name) in titles]
        for name in [variant, *there] if there else []:
            for seed in study.seeds:
                # Other tools' masks have no seeds; they stand beside each of ours.
                run = (dataset, name, 0 if (dataset, name) in titles else seed)
                if run in runs:
                    parts.append(runs[run].assign(seed=seed))
                else:
                    missing.append("{}/{}/seed{}".format(*run))
    if missing:
        rest = f" and {len(missing) - 2} more" if missing[2:] else ""
        raise _NotTestedError(f"{', '.join(missing[:2])}{rest} not run")
    if not parts:
        raise _NotTestedError(f"study '{study.name}' holds nothing against {variant}")
    return pd.concat(parts)
