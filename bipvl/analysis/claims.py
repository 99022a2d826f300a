"""The paper's claims with their measured effects and verdicts (METHOD.md, section 7)."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pandas as pd

from bipvl.analysis.comparisons import holm
from bipvl.analysis.effects import (
    NotTestedError,
    by_classes,
    difference,
    difference_from_best,
    gain_with_classes,
)
from bipvl.analysis.paper_values import PaperValue, claim_value
from bipvl.analysis.statistics import read_runs
from bipvl.analysis.studies import Experiments, Study, study_folders
from bipvl.analysis.verdicts import verdict
from bipvl.common.errors import BipvlError
from bipvl.engine.profiles import get_profile, profile_name
from bipvl.engine.variants import VARIANTS, variant_title

COLUMNS = [
    *("claim", "study", "variant", "reference", "datasets", "cohort", "profile", "seeds", "cases"),
    *("effect", "low", "high", "low_90", "high_90", "interval", "spread"),
    *("p", "p_holm", "p_equivalence", "smallest_p", "verdict", "paper", "paper_source"),
]
OURS = "bipvlseg"
PUBMEDBERT = "text-pubmedbert"
"""BiPVL-Seg with PubMedBERT: at a profile with this text encoder it is ``OURS`` itself."""
NETWORK_STUDIES = ("main", "comparison")
COMPARED = "BiPVL-Seg is better than the compared networks"
"""In the paper's values: every claim about a compared network that has no value of its own."""
BETTER_THAN_BEST = "BiPVL-Seg is better than the best of these networks on each data set"

Runs = Mapping[tuple[str, str, int], pd.DataFrame]
"""Rows of Dice on the scan's own grid by (data set, variant, seed)."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim that an effect is above 0; by default that ``variant`` has a higher mean Dice than a reference.

    Attributes:
        text: the claim in this project's words.
        studies: the first of these that runs all the variants at the profile tests the claim.
        measure: (rows of the variant and its references, variant, resamples) → columns of the claims table.
        group: a claim that includes this one; its value in the paper is shown if this one has none.
    """

    text: str
    studies: tuple[str, ...]
    references: tuple[str, ...]
    variant: str = OURS
    measure: Callable[[pd.DataFrame, str, int], dict[str, object]] = difference
    group: str = ""


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
    measure=gain_with_classes,
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
    shared = {"studies": NETWORK_STUDIES, "group": COMPARED}
    networks = [
        Claim(text=_better_than(variant_title(name)), references=(name,), **shared)
        for name in dict.fromkeys(chain(*compared))
    ]
    best = Claim(
        text=BETTER_THAN_BEST,
        references=max(compared, key=len, default=()),
        measure=difference_from_best,
        **shared,
    )
    return [*networks, best, MORE_CLASSES, *ABLATIONS]


def claim_texts(experiments: Experiments) -> list[str]:
    """The texts of all claims at any profile, for which the paper may have a value."""
    networks = [variant_title(name) for name in VARIANTS] + [o.title for o in experiments.external.values()]
    fixed = [BETTER_THAN_BEST, MORE_CLASSES.text, *(claim.text for claim in ABLATIONS)]
    return [COMPARED, *map(_better_than, networks), *fixed]


def _better_than(title: str) -> str:
    return f"BiPVL-Seg is better than {title}"


def claims_table(
    scores: pd.DataFrame,
    experiments: Experiments,
    paper: Sequence[PaperValue] = (),
    *,
    resamples: int = 9999,
) -> pd.DataFrame:
    """Measure every claim.

    Args:
        scores: long table (columns ``statistics.LONG``), as returned by ``gather_runs``.
        paper: the paper's own values, as returned by ``read_paper_values``.
        resamples: number of resamples of each bootstrap.

    Returns:
        One row (columns COLUMNS) per claim.

        - effect, low, high: difference in mean Dice (from 0 to 1) on the scan's own grid, with its 95 %
          interval (``interval`` names its kind): over seeds and cases if there are several seeds; low_90,
          high_90: its 90 % interval.
        - spread: standard deviation over cases of the paired differences.
        - p: Wilcoxon's signed-rank test, for independent samples the Mann-Whitney test; p_holm: with Holm's
          correction over the tested claims of the same study.
        - p_equivalence: the larger p of two one-sided tests against ± 1 Dice point, without correction.
        - smallest_p: the smallest p_holm that the numbers of cases and of claims allow.
        - verdict: by ``verdicts.RULE``, or "not tested" and the reason; it mentions a synthetic cohort and a
          single seed.
        - paper, paper_source: the paper's value and where it comes from.

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
    rows = [
        _row(claim, experiments, runs, resamples) | claim_value(paper, claim.text, claim.group)
        for claim in list_claims(experiments)
    ]
    origin = {"cohort": cohorts[0], "profile": profile_name(experiments.profile)}
    table = pd.DataFrame(rows, columns=COLUMNS).assign(**origin)
    table = table.astype({"cases": "Int64"})  # whole numbers, although claims that are not tested have none
    for column, corrected in (("p", "p_holm"), ("smallest_p", "smallest_p")):
        table[corrected] = table[column].astype(float).groupby(table["study"]).transform(holm)
    table["verdict"] = [row["verdict"] or verdict(row) for _, row in table.iterrows()]
    return table


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


def planned_claims(experiments: Experiments) -> Iterator[tuple[Claim, Study, list[str]]]:
    """Each claim that a study tests at the profile, with this study and its data sets."""
    for claim in list_claims(experiments):
        with suppress(NotTestedError):
            study = _study(claim, experiments)
            datasets = [d for d in study.datasets if _references_on(study, claim.references, d)]
            if datasets and (claim.measure is not gain_with_classes or by_classes(datasets)[1]):
                yield claim, study, datasets


def _row(claim: Claim, experiments: Experiments, runs: Runs, resamples: int) -> dict[str, object]:
    """A claim's row without the columns that depend on other rows; its verdict is "" if it is tested."""
    variant = _variant(claim, experiments)
    row = {"claim": claim.text, "study": claim.studies[0], "variant": variant, "verdict": ""}
    row["reference"] = ", ".join(claim.references)
    try:
        study = _study(claim, experiments)
        rows = _rows(study, variant, claim.references, runs)
        row |= {"study": study.name, "seeds": " ".join(map(str, study.seeds))}
        row["datasets"] = ", ".join(dict.fromkeys(rows["dataset"]))
        return row | claim.measure(rows, variant, resamples)
    except NotTestedError as reason:
        return row | {"verdict": f"not tested: {reason}"}


def _variant(claim: Claim, experiments: Experiments) -> str:
    encoder = get_profile(experiments.profile).language.text
    return OURS if claim.variant == PUBMEDBERT and "pubmedbert" in encoder else claim.variant


def _study(claim: Claim, experiments: Experiments) -> Study:
    """The study that tests a claim at the profile."""
    variant = _variant(claim, experiments)
    for name in claim.studies:
        study = experiments.studies.get(name)
        if study and study.seeds and {variant, *claim.references} <= {study.variants[0], *_references(study)}:
            return study
    if claim.studies == ("text_encoder",):
        raise NotTestedError("needs text encoders from the Hugging Face Hub")
    pair = " and ".join([variant, *claim.references])
    raise NotTestedError(f"no study runs {pair} at profile {experiments.profile}")


def _references_on(study: Study, references: Iterable[str], dataset: str) -> list[str]:
    """Those of the references that the study runs on a data set."""
    titles = {other.title for other in study.external if other.dataset == dataset}
    return [name for name in references if name in {*study.variants, *titles}]


def _rows(study: Study, variant: str, references: Iterable[str], runs: Runs) -> pd.DataFrame:
    """The rows of a study's runs of the variant and its references, on the data sets with both."""
    parts, missing = [], []
    for dataset in study.datasets:
        here = _references_on(study, references, dataset)
        for name in [variant, *here] if here else []:
            for seed in study.seeds:
                # Other tools' predictions have no seeds; they are compared with each of ours.
                run = (dataset, name, seed if name in study.variants else 0)
                if run in runs:
                    parts.append(runs[run].assign(seed=seed))
                else:
                    missing.append("{}/{}/seed{}".format(*run))
    if missing:
        rest = f" and {len(missing) - 2} more" if missing[2:] else ""
        raise NotTestedError(f"{', '.join(missing[:2])}{rest} not run")
    if not parts:
        raise NotTestedError(f"study '{study.name}' compares nothing with {variant}")
    return pd.concat(parts)
