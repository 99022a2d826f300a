"""The paper's values: what is read, what is shown beside our values, and what is refused."""

import pandas as pd
import pytest

from bipvl.analysis.claims import COMPARED, claim_texts
from bipvl.analysis.paper_values import (
    NOT_AVAILABLE,
    PATH,
    claim_value,
    read_paper_values,
    with_paper_values,
)
from bipvl.analysis.studies import load_experiments
from bipvl.analysis.tables import main_table_latex, main_table_markdown
from bipvl.common.errors import BipvlError
from bipvl.engine.variants import MEAN_ATLAS

HEADER = "claim,dataset,method,metric,value,source\n"
NETWORK = "BiPVL-Seg is better than SwinUNETR-V2"
CLAIMS = claim_texts(load_experiments("quick"))


@pytest.fixture
def read(tmp_path):
    """Lines below the header → values."""

    def read(*lines, header=HEADER):
        path = tmp_path / "paper_values.csv"
        path.write_text(header + "".join(f"{line}\n" for line in lines), encoding="utf-8")
        return read_paper_values(CLAIMS, path)

    return read


def test_committed_file_has_only_what_is_known_and_says_where_from():
    (known,) = read_paper_values(CLAIMS, PATH)
    assert (known.claim, known.value) == (COMPARED, "+2.1 to +4.7 Dice points")
    assert known.source.startswith("a machine-written summary of the paper")
    assert "tables were not available" in known.source


def test_claims_own_value_replaces_that_of_the_group(read):
    values = read(
        f"{COMPARED},,,dice,+2.1 to +4.7 Dice points,summary",
        "",
        f"{NETWORK},amos22,,dice,+2.1 Dice points,Table 1",
        f"{NETWORK},mmwhs_ct,,dice,−0.3 Dice points,Table 1",
    )
    own = {"paper": "amos22: +2.1 Dice points; mmwhs_ct: −0.3 Dice points", "paper_source": "Table 1"}
    assert claim_value(values, NETWORK, COMPARED) == own
    assert claim_value(values, "BiPVL-Seg is better than UNet", COMPARED)["paper_source"] == "summary"
    assert claim_value(values, "BiPVL-Seg is better than UNet") == {
        "paper": NOT_AVAILABLE,
        "paper_source": None,
    }
    assert read() == []


def test_main_table_shows_the_papers_values_beside_ours(read):
    row = {"cohort": "real", "profile": "paper", "dataset": "amos22", "seeds": "0", "cases": 3, "missed": 0}
    row |= {"grid": "scan"}
    scores = {
        f"{m}{end}": v
        for m, v in (("dice", 0.8), ("hd95_mm", 5.0), ("nsd", 0.7))
        for end in ("", "_low", "_high")
    }
    main = pd.DataFrame([row | scores | {"variant": v} for v in ("bipvlseg", "unet", MEAN_ATLAS)])
    assert with_paper_values(main, read()) is main
    values = read(
        ',amos22,bipvlseg,dice,86.2 %,"the paper, Table 1"',
        ',amos22,bipvlseg,hd95_mm,5.3 mm,"the paper, Table 2"',
        ",mmwhs_ct,unet,dice,80 %,somewhere",
    )
    shown = with_paper_values(main, values)
    lines = main_table_markdown(shown).splitlines()
    assert lines[0].endswith("| Paper's values |")
    assert lines[2].endswith("| Dice 86.2 %; HD95 5.3 mm [1] |")
    assert lines[3].endswith("| 3 |  |")
    assert lines[-1].endswith("on the real data, from: [1] the paper, Table 1; the paper, Table 2.")
    again = shown.replace({"": None})  # as read from main_table.csv
    assert r"Dice 86.2 \%; HD95 5.3 mm [1]" in main_table_latex(again)
    assert main_table_markdown(again) == main_table_markdown(shown)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "BiPVL-Seg is better than SwinUNETR-2,,,dice,+1 Dice points,x",
            f"there is no claim 'BiPVL-Seg is better than SwinUNETR-2'; choose one of: {NETWORK}",
        ),
        (f"{NETWORK},,,dice,0.021,x", "'0.021' is not a number with a unit; write it like '2.1 Dice points'"),
        (f"{NETWORK},,,dice,2.1 %,x", "the unit of '2.1 %' is '%'; give the value in Dice points"),
        (",amos22,unet,hd95_mm,5.3 voxels,x", "the unit of '5.3 voxels' is 'voxels'; give the value in mm"),
        (",amos22,unet,dice,high,x", "'high' is not a number with a unit; write it like '2.1 %'"),
        (f"{NETWORK},,,hd95_mm,2.1 mm,x", "a claim's metric is 'hd95_mm'; claims are about Dice: write dice"),
        (",amos22,unet,dise,80 %,x", "there is no metric 'dise'; choose one of: dice"),
        (",amos,unet,dice,80 %,x", "there is no data set 'amos'; choose one of: amos22"),
        (",amos22,unett,dice,80 %,x", "there is no method 'unett'; choose one of: unet"),
        (f"{NETWORK},amos22,unet,dice,80 %,x", "names both a claim and a method; name one"),
        (",amos22,,dice,80 %,x", "names neither a claim nor a method; name one"),
        (",amos22,unet,dice,80 %,", "has no source; say where"),
        (
            ",amos22,unet,dice,80 %,paper, Table 1",
            "has 7 cells instead of 6; put a text with a comma in double",
        ),
        (",amos22,unet,dice,80 %", "has 5 cells instead of 6; put"),
    ],
)
def test_wrong_row_is_one_sentence_with_its_line(read, line, message):
    with pytest.raises(BipvlError) as caught:
        read(",mmwhs_ct,unet,dice,70 %,x", line)
    text = str(caught.value)
    assert f"paper_values.csv: line 3: {message}" in text
    assert "\n" not in text


def test_wrong_file_is_one_sentence(read, tmp_path):
    with pytest.raises(BipvlError, match="line 3: gives a second value of the same; keep one of them"):
        read(",amos22,unet,dice,70 %,x", ",amos22,unet,dice,71 %,y")
    with pytest.raises(BipvlError, match="has the columns claim;dataset instead of claim, dataset, method"):
        read(header="claim;dataset\n")
    with pytest.raises(BipvlError, match="has the columns  instead of claim"):
        read(header="")
    (tmp_path / "latin.csv").write_bytes(HEADER.encode() + "é".encode("latin-1"))
    with pytest.raises(BipvlError, match=r"latin\.csv: not readable as CSV .*; save it as CSV in UTF-8"):
        read_paper_values(CLAIMS, tmp_path / "latin.csv")
    with pytest.raises(BipvlError, match=r"none\.csv: file not found"):
        read_paper_values(CLAIMS, tmp_path / "none.csv")
    (tmp_path / "excel.csv").write_text(HEADER + ",amos22,unet,dice,70 %,x\n", encoding="utf-8-sig")
    assert len(read_paper_values(CLAIMS, tmp_path / "excel.csv")) == 1
