"""Tables as Markdown and LaTeX."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bipvl.analysis.convergence import RISE
from bipvl.analysis.statistics import provenance
from bipvl.analysis.verdicts import RULE
from bipvl.data.spec import dataset_title
from bipvl.engine.variants import MEAN_ATLAS, variant_title

HEADER = ("Data set", "Method", "Dice ↑", "HD95 (mm) ↓", "Surface Dice ↑", "Missed", "Cases")
CLAIMS_HEADER = ("Claim", "Verdict", "Paper's value", "Study", "Data sets")
CLAIMS_HEADER += ("Cases", "Effect (Dice points)", "p", "Smallest p")
DIGITS = {"dice": 3, "hd95_mm": 1, "nsd": 3}
MARK = " †"
"""Behind a method with a training that had not stopped improving (``convergence.with_convergence``)."""


def main_table_markdown(table: pd.DataFrame) -> str:
    """Markdown of ``statistics.main_table``: each data set's best network in bold, with a note."""
    return f"{markdown(_header(table), _cells(table, bold='**{}**'), words=2)}\n\n{_note(table)}\n"


def _header(table: pd.DataFrame) -> tuple[str, ...]:
    return (*HEADER, "Paper's values") if "paper" in table else HEADER


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """A Markdown table whose first ``words`` columns are text, the others numbers."""
    rule = "|" + ":--|" * words + "--:|" * (len(header) - words)
    return "\n".join([_line(header), rule, *map(_line, rows)])


def claims_markdown(table: pd.DataFrame) -> str:
    """Markdown of ``claims.claims_table``: effects in Dice points, with a note."""
    rows = []
    numbers = _source_numbers(table)
    for row in table.itertuples():
        cells = [row.claim, row.verdict, _cited(row, numbers), row.study]
        if pd.isna(row.effect):
            rows.append([*cells, *[""] * 5])
        else:
            p = ["" if pd.isna(value) else f"{value:.2g}" for value in (row.p_holm, row.smallest_p)]
            rows.append([*cells, row.datasets, str(row.cases), effect_points(row), *p])
    return f"{markdown(CLAIMS_HEADER, rows, words=5)}\n\n{claims_note(table)}{_sources(table)}\n"


def effect_points(row: Any) -> str:
    """Effect and interval of a row of ``claims_table`` in Dice points, such as "+1.2 (−0.3 to +2.7)"."""
    effect, low, high = (f"{100 * value:+.1f}".replace("-", "−") for value in (row.effect, row.low, row.high))
    return effect if pd.isna(row.low) else f"{effect} ({low} to {high})"


def claims_note(table: pd.DataFrame) -> str:
    """The note below the claims table and its figure: provenance, methods and rule."""
    tested = table.dropna(subset="effect")
    origin = provenance(tested if len(tested) else table.drop(columns="seeds"))
    return (
        f"{origin} Effect: mean paired difference in Dice over the test cases of all named data sets "
        "together, on the scan's own grid, in Dice points (0.01), with its 95 % bootstrap interval: over "
        "cases (BCa), or over seeds and cases (percentile) if there are several seeds. For the claim about "
        "the number of classes: the difference between two mean gains. p: Wilcoxon's signed-rank test (for "
        "the number of classes: Mann-Whitney) with Holm's correction over the claims of the same study that "
        f"are tested, {len(tested)} of {len(table)} in all. Smallest p: the least that the numbers of cases "
        f"and claims allow. {RULE}"
    )


def _source_numbers(table: pd.DataFrame) -> dict[str, int]:
    """Source of a value of the paper → its number in the note."""
    if "paper_source" not in table:
        return {}
    sources = dict.fromkeys(source for source in table["paper_source"].dropna() if source)
    return {source: number for number, source in enumerate(sources, start=1)}


def _cited(row: Any, numbers: Mapping[str, int]) -> str:
    """The paper's value with the number of its source; "" if there is none."""
    if row.paper_source in numbers:
        return f"{row.paper} [{numbers[row.paper_source]}]"
    return "" if pd.isna(row.paper) else row.paper


def _sources(table: pd.DataFrame) -> str:
    """The sources of the paper's values as a sentence that follows others; "" if there are none."""
    listed = "; ".join(f"[{number}] {source}" for source, number in _source_numbers(table).items())
    return f" The paper's values are those on the real data, from: {listed}." if listed else ""


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main_table_latex(table: pd.DataFrame) -> str:
    """LaTeX of ``statistics.main_table`` (package booktabs), the note as its caption."""
    escape = str.maketrans({"_": r"\_", "%": r"\%", "&": r"\&", "–": "--", "×": r"$\times$"})
    escape |= str.maketrans({"↑": r"$\uparrow$", "↓": r"$\downarrow$", "†": r"$\dagger$"})
    head, *body = (
        " & ".join(cell.translate(escape) for cell in cells) + r" \\"
        for cells in (_header(table), *_cells(table, r"\textbf{{{}}}"))
    )
    lines = [r"\begin{table*}", r"\centering", rf"\caption{{{_note(table).translate(escape)}}}"]
    lines += [r"\begin{tabular}{ll" + "r" * (len(_header(table)) - 2) + "}", r"\toprule", head, r"\midrule"]
    lines += [*body, r"\bottomrule", r"\end{tabular}", r"\end{table*}", ""]
    return "\n".join(lines)


def _cells(table: pd.DataFrame, bold: str) -> list[list[str]]:
    """The cells of all rows; only the first row of a data set has its title."""
    rows, numbers = [], _source_numbers(table)
    for dataset, group in table.groupby("dataset", sort=False):
        networks = group[group["variant"] != MEAN_ATLAS]
        best = {m: networks[m].min() if m == "hd95_mm" else networks[m].max() for m in DIGITS}
        for number, (_, row) in enumerate(group.iterrows()):
            title = dataset_title(dataset) if number == 0 else ""
            cells = [title, variant_title(row["variant"]) + (MARK if row.get("improving", False) else "")]
            for metric, digits in DIGITS.items():
                mean, low, high = (f"{row[metric + end]:.{digits}f}" for end in ("", "_low", "_high"))
                if row["variant"] != MEAN_ATLAS and row[metric] == best[metric] and len(networks) > 1:
                    mean = bold.format(mean)
                cells.append(mean if pd.isna(row[metric + "_low"]) else f"{mean} ({low}–{high})")
            paper = [_cited(row, numbers)] if "paper" in table else []
            rows.append([*cells, str(row["missed"]), str(row["cases"]), *paper])
    return rows


def _improving(table: pd.DataFrame) -> str:
    """What MARK means, as a sentence that follows others; "" if no row has it."""
    if "improving" not in table or not table["improving"].any():
        return ""
    return (
        f"{MARK}: not trained to the end, since validation Dice still rose by more than {100 * RISE:g} "
        "points in the last quarter of a training."
    )


def _note(table: pd.DataFrame) -> str:
    grid = "the scan's own grid" if set(table["grid"]) == {"scan"} else "the working grid"
    return (
        f"{provenance(table)} Mean over test cases of each case's mean over classes, on {grid}; in brackets "
        "the 95 % bootstrap interval (BCa) over cases. Missed: class × case pairs that are in the truth but "
        "not in the prediction; they score Dice 0, surface Dice 0 and the volume's diagonal as HD95. "
        "Mean atlas: the most frequent label of the training cases at each position, without the image."
        f"{_improving(table)}{_sources(table)}"
    )
