"""Predictions of other tools: scored like a run's, labels matched by name, checked before any score."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import papermill
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bipvl.analysis import external as scoring
from bipvl.analysis.external import evaluate_external
from bipvl.analysis.statistics import main_table, read_runs
from bipvl.analysis.studies import Experiments, External, load_experiments
from bipvl.analysis.tables import main_table_markdown
from bipvl.common.errors import BipvlError
from bipvl.data.label_names import native_codes
from bipvl.data.layouts import cohort_of
from bipvl.data.spec import load_spec
from bipvl.data.splits import split_cases
from bipvl.data.synthetic import synthesize
from bipvl.engine.evaluate import score_cases
from bipvl.engine.prepare import prepare

ROOT = Path(__file__).parents[1]
AMOS, HEART, BRAIN = "amos22", "mmwhs_ct", "msd_brain"
NAMES = {
    HEART: {c.name: c.codes[0] for c in load_spec(HEART).classes},
    BRAIN: {names[0]: code for code, names in load_spec(BRAIN).code_names.items()},
}


class Cohort:
    """A data set of tiny scans, prepared at profile smoke."""

    def __init__(self, root: Path, dataset: str) -> None:
        self.spec, self.root, self.data = load_spec(dataset), root, root / "data"
        synthesize(dataset, self.data, cases=10, size=(32, 32, 32), progress=False)
        prepare(profile="smoke", dataset=dataset, data_root=self.data, root=root / "runs", progress=False)
        self.split = root / "runs" / "smoke" / dataset / "split.json"
        self.test = split_cases(self.split, self.spec, self.data)[2]
        assert len(self.test) == 2

    def write(self, folder: Path, change=lambda codes: codes, recode=None) -> Path:
        """Write the changed truth of the test cases; ``recode`` maps its codes to others."""
        folder.mkdir(parents=True, exist_ok=True)
        for case in self.test:
            truth = nib.load(case.label)
            codes = change(np.asarray(truth.dataobj))
            recoded = np.vectorize(recode.get)(codes, codes) if recode else codes
            nib.save(nib.Nifti1Image(recoded.astype(np.int16), truth.affine), folder / f"{case.id}.nii.gz")
        return folder

    def external(self, folder: Path, **fields) -> External:
        entry = {"name": "nnunet", "title": "nnU-Net", "dataset": self.spec.name, "folder": folder}
        return External(**entry | fields)

    def evaluate(self, folder: Path, runs: Path, **fields):
        """Evaluate an external; returns its table and its run folder below ``runs``."""
        (runs / "smoke" / self.spec.name).mkdir(parents=True, exist_ok=True)
        for name in ("split.json", "data.json"):
            shutil.copy(self.split.with_name(name), runs / "smoke" / self.spec.name)
        external = self.external(folder, **fields)
        table = evaluate_external(external, profile="smoke", data_root=self.data, root=runs, progress=False)
        return table, runs / "smoke" / self.spec.name / external.name / "seed0"


@pytest.fixture(scope="module")
def heart(tmp_path_factory):
    return Cohort(tmp_path_factory.mktemp("heart"), HEART)


@pytest.fixture(scope="module")
def brain(tmp_path_factory):
    return Cohort(tmp_path_factory.mktemp("brain"), BRAIN)


def shifted(codes):
    """Shifted by two voxels, without the class of the highest code."""
    moved = np.roll(codes, 2, axis=0)
    return np.where(moved == codes.max(), 0, moved)


def nnunet_json(folder, labels):
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, **labels}}))


def msd_json(folder, labels):
    turned = {str(code): name for name, code in labels.items()}
    (folder / "dataset.json").write_text(json.dumps({"labels": {"0": "background", **turned}}))


@pytest.mark.parametrize("dataset", [HEART, BRAIN])
def test_perfect_label_maps_are_scored_as_perfect_on_both_grids(dataset, request, tmp_path):
    cohort = request.getfixturevalue("heart" if dataset == HEART else "brain")
    table, run = cohort.evaluate(cohort.write(tmp_path / "masks"), tmp_path / "runs", labels=NAMES[dataset])
    best = {"dice": 1.0, "hd95_mm": 0.0, "nsd": 1.0}
    assert (table["value"] == table["metric"].map(best)).all() and not table["flag"].any()
    for _, rows in table.groupby(["grid", "metric"]):
        assert set(rows["case"]) == {case.id for case in cohort.test}
        assert set(rows["class"]) == {c.name for c in cohort.spec.classes}
    assert set(table["grid"]) == {"scan", "working"}
    assert {path.name for path in run.iterdir()} == {"metrics.csv", "config.json", "manifest.json"}


def test_config_names_the_folder_the_labels_and_the_checksum(heart, tmp_path):
    folder = heart.write(tmp_path / "masks")
    _, run = heart.evaluate(folder, tmp_path / "runs", labels=NAMES[HEART])
    config = json.loads((run / "config.json").read_text())
    files = sorted(folder.glob("*.nii.gz"))
    sums = "".join(f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in files)
    assert config.pop("external") == {
        "folder": str(folder),
        "labels": {str(code): name for name, code in sorted(NAMES[HEART].items(), key=lambda i: i[1])},
        "sha256": hashlib.sha256(sums.encode()).hexdigest(),
    }
    assert config == {
        "dataset": HEART,
        "variant": "nnunet",
        "title": "nnU-Net",
        "profile": "smoke",
        "seed": 0,
        "cohort": cohort_of(heart.data),
        "spacing": [10.0, 10.0, 10.0],
    }


def test_tables_show_the_title(heart, tmp_path):
    _, run = heart.evaluate(heart.write(tmp_path / "masks"), tmp_path / "runs", labels=NAMES[HEART])
    markdown = main_table_markdown(main_table(read_runs({HEART: [run]})))
    assert "| nnU-Net | 1.000 (1.000–1.000) | 0.0 (0.0–0.0) |" in markdown
    assert "Synthetic cohort, profile smoke, seed 0." in markdown


@pytest.mark.parametrize(("dataset", "write_json"), [(HEART, nnunet_json), (BRAIN, msd_json)])
def test_other_codes_with_the_right_names_have_the_same_scores(dataset, write_json, request, tmp_path):
    cohort, names = request.getfixturevalue("heart" if dataset == HEART else "brain"), NAMES[dataset]
    plain = cohort.write(tmp_path / "plain", shifted)
    _, expected = cohort.evaluate(plain, tmp_path / "one", labels=names)
    theirs = dict(zip(names, [*range(2, len(names) + 1), 1], strict=True))  # all differ from the data set's
    recode = {code: theirs[name] for name, code in names.items()} | {0: 0}
    folder = cohort.write(tmp_path / "theirs", shifted, recode)
    write_json(folder, {name.replace(" ", "_").upper(): code for name, code in theirs.items()})
    _, found = cohort.evaluate(folder, tmp_path / "two")
    assert (found / "metrics.csv").read_bytes() == (expected / "metrics.csv").read_bytes()
    assert "miss" in (found / "metrics.csv").read_text()


@pytest.mark.parametrize("dataset", [HEART, BRAIN])
def test_label_map_has_the_scores_of_the_prediction_that_it_was_written_from(dataset, request, tmp_path):
    cohort = request.getfixturevalue("heart" if dataset == HEART else "brain")

    def by_brightness(image):
        """Intervals of brightness for exclusive classes; thresholds for nested ones."""
        if dataset == BRAIN:
            return image.as_tensor()[0] - torch.tensor([1.0, 0.5, 1.5]).view(3, 1, 1, 1)
        return -((image.as_tensor() - torch.linspace(0, 1, cohort.spec.out_channels).view(-1, 1, 1, 1)) ** 2)

    folder = tmp_path / "masks"
    own = score_cases(
        cohort.test,
        cohort.spec,
        [10.0, 10.0, 10.0],
        by_brightness,
        predictions=folder,
        title="",
        progress=False,
    )
    table, _ = cohort.evaluate(folder, tmp_path / "runs", labels=NAMES[dataset])
    own, theirs = (rows[rows["grid"] == "scan"].reset_index(drop=True) for rows in (own, table))
    dice = own.loc[own["metric"] == "dice", "value"]
    assert dice.nunique() > 2 and dice.max() > 0.1
    pd.testing.assert_frame_equal(theirs, own, check_exact=True)


AMOS_NAMES = {code: (c.name, *c.aliases) for c in load_spec(AMOS).classes for code in c.codes}


@settings(max_examples=25)
@given(st.permutations(range(1, 16)), st.randoms(use_true_random=False))
def test_labels_are_matched_by_name_for_all_codes_and_spellings(codes, random):
    spellings = [str, str.upper, str.title, lambda name: name.replace(" ", "_")]
    names = [random.choice(spellings)(random.choice(known)) for known in AMOS_NAMES.values()]
    expected = {0: 0} | dict(zip(codes, AMOS_NAMES, strict=True))
    spec = load_spec(AMOS)
    assert native_codes(dict(zip(names, codes, strict=True)), spec, "x") == expected
    assert native_codes({str(c): n for n, c in zip(names, codes, strict=True)}, spec, "x") == expected


def test_several_codes_may_belong_to_one_class():
    labels = {str(code): name for name, code in NAMES[HEART].items()} | {"9": "left atrium"}
    assert native_codes(labels, load_spec(HEART), "x")[9] == 420


def test_labels_and_dataset_json_may_agree_but_not_differ(heart, tmp_path):
    folder = heart.write(tmp_path / "masks")
    nnunet_json(folder, NAMES[HEART])
    heart.evaluate(folder, tmp_path / "runs", labels=NAMES[HEART])
    exchanged = NAMES[HEART] | {"left ventricle": 600, "right ventricle": 500}
    message = rf"{folder}/dataset\.json: names the codes differently than 'labels' of external 'nnunet'; corr"
    with pytest.raises(BipvlError, match=message):
        heart.evaluate(folder, tmp_path / "runs", labels=exchanged)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            NAMES[HEART] | {"lung": 7},
            "has the label 'lung', which MM-WHS (cardiac CT) does not have; rename it to one",
        ),
        (
            {k: v for k, v in NAMES[HEART].items() if k not in ("left atrium", "pulmonary artery")},
            "has no code for left atrium, pulmonary artery; add the codes",
        ),
        (NAMES[HEART] | {"left atrium": 500}, "gives the code 500 to two labels; give each its own"),
        (NAMES[HEART] | {"left atrium": 0}, "gives 'left atrium' the code 0; give one from 1 to 32767"),
        (NAMES[HEART] | {"left atrium": "4"}, "gives 'left atrium' the code '4'; give one from 1 to 32767"),
        (
            NAMES[HEART] | {"left atrium": True},
            "gives 'left atrium' the code True; give one from 1 to 32767",
        ),
        ({}, "has no code for left ventricle, right ventricle,"),
        (
            ["left ventricle"],
            'is not a mapping of names to codes; write it like {"background": 0, "spleen": 1',
        ),
    ],
)
def test_labels_that_are_not_the_data_sets_are_errors(labels, message, heart, tmp_path):
    folder = heart.write(tmp_path / "masks")
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    with pytest.raises(BipvlError, match=re.escape(f"{folder}/dataset.json: {message}")):
        heart.evaluate(folder, tmp_path / "runs")
    entry = {"title": "T", "dataset": HEART, "folder": "f", "labels": labels}
    wanted = f"experiments.yaml: 'labels' of external 'tool': {message}"
    with pytest.raises(BipvlError, match=re.escape(wanted)):
        read_externals(tmp_path, {"tool": entry})


def test_overlapping_classes_are_matched_by_the_names_of_their_codes():
    spec = load_spec(BRAIN)
    accepted = native_codes({"Edema": 3, "non-enhancing tumor": 1, "enhancing tumour": 2}, spec, "x")
    assert accepted == {0: 0, 3: 1, 1: 2, 2: 3}
    with pytest.raises(
        BipvlError, match=r"has the label 'whole tumour', .* rename it to one of edema, non-enh"
    ):
        native_codes({"whole tumour": 1, "tumour core": 2, "enhancing tumour": 3}, spec, "x")


def test_codes_without_names_are_an_error(heart, tmp_path):
    folder = heart.write(tmp_path / "masks")
    message = (
        rf"{folder}/dataset\.json: file not found, .*; write it .*, or add 'labels' of external 'nnunet'"
    )
    with pytest.raises(BipvlError, match=message):
        heart.evaluate(folder, tmp_path / "runs")


def resave(path, codes=None, affine=None):
    scan = nib.load(path)
    data = np.asarray(scan.dataobj) if codes is None else codes(np.asarray(scan.dataobj))
    nib.save(nib.Nifti1Image(data, scan.affine if affine is None else affine(scan.affine)), path)


def half(codes):
    return codes.astype(np.float32) + 0.5 * (codes == codes.max())


def moved(by):
    """Shifts an affine by so many mm along x."""
    return lambda affine: affine + np.outer([by, 0, 0, 0], [0, 0, 0, 1])


ISSUES = {
    "missing": (
        lambda a, b: b.unlink(),
        "{folder}: 1 of 2 test cases have no label map ({b}); add them",
    ),
    "extra": (
        lambda a, b: shutil.copy(a, a.with_name("stranger.nii.gz")),
        "{folder}: stranger.nii.gz belongs to no test case in {split}; move it",
    ),
    "shape": (
        lambda a, b: resave(b, lambda codes: codes[1:]),
        "{folder}/{b}.nii.gz: has 31 x 32 x 32 voxels, but its image has 32 x 32 x 32; resample",
    ),
    "affine": (
        lambda a, b: resave(b, affine=moved(0.01)),
        "{folder}/{b}.nii.gz: is not on the grid of its image",
    ),
    "unknown": (
        lambda a, b: resave(b, lambda codes: np.where(codes == 500, 7, codes)),
        "{folder}/{b}.nii.gz: holds the undeclared codes 7 (declared: 0, 205, 420, 500, 550, 600, 820, 850); "
        "name them in the labels, or correct the file",
    ),
    "fraction": (
        lambda a, b: resave(b, half),
        "{folder}/{b}.nii.gz: holds labels that are not whole numbers, such as 850.5; export without",
    ),
    "channels": (
        lambda a, b: resave(b, lambda codes: np.stack([codes, codes], -1)),
        "{folder}/{b}.nii.gz: has 4 axes, but a label map has three; keep one 3D volume",
    ),
    "cut": (
        lambda a, b: b.write_bytes(b.read_bytes()[:500]),
        "{folder}/{b}.nii.gz: not readable as NIfTI (",
    ),
    "both": (
        lambda a, b: [resave(path, half) for path in (a, b)],
        "export without interpolation (1 more of the label maps have issues)",
    ),
    "folder": (lambda a, b: shutil.rmtree(a.parent), "{folder}: folder not found; put the label maps"),
}


@pytest.mark.parametrize("issue", ISSUES)
def test_issue_is_reported_before_anything_is_scored_or_written(issue, heart, tmp_path, monkeypatch):
    """The issue is in the last case, so that scoring before all checks would be noticed."""
    folder = heart.write(tmp_path / "masks")
    a, b = (case.id for case in heart.test)
    spoil, message = ISSUES[issue]
    spoil(folder / f"{a}.nii.gz", folder / f"{b}.nii.gz")
    monkeypatch.setattr(scoring, "_score", lambda *_: pytest.fail("scored before all was checked"))
    split = tmp_path / "runs" / "smoke" / HEART / "split.json"
    with pytest.raises(BipvlError, match=re.escape(message.format(folder=folder, a=a, b=b, split=split))):
        heart.evaluate(folder, tmp_path / "runs", labels=NAMES[HEART])
    assert {path.name for path in split.parent.iterdir()} == {"split.json", "data.json"}


def test_affine_within_the_tolerance_is_accepted(heart, tmp_path):
    folder = heart.write(tmp_path / "masks")
    resave(folder / f"{heart.test[0].id}.nii.gz", affine=moved(0.0005))
    table, _ = heart.evaluate(folder, tmp_path / "runs", labels=NAMES[HEART])
    assert (table.loc[table["metric"] == "dice", "value"] == 1).all()


def test_uncompressed_and_unrelated_files_are_accepted(heart, tmp_path):
    folder = heart.write(tmp_path / "masks")
    a = folder / f"{heart.test[0].id}.nii.gz"
    nib.save(nib.load(a), folder / f"{heart.test[0].id}.nii")
    with pytest.raises(BipvlError, match="is of the same case; remove one of them"):
        heart.evaluate(folder, tmp_path / "runs", labels=NAMES[HEART])
    a.unlink()
    (folder / "plans.json").write_text("{}")
    (folder / f"._{a.name}").write_text("metadata of macOS")
    heart.evaluate(folder, tmp_path / "runs", labels=NAMES[HEART])


def test_missing_split_is_an_error(heart, tmp_path):
    external = heart.external(heart.write(tmp_path / "masks"), labels=NAMES[HEART])
    with pytest.raises(BipvlError, match=r"split\.json: file not found; prepare the data set first"):
        evaluate_external(external, profile="smoke", data_root=heart.data, root=tmp_path / "runs")


ENTRY = {"title": "nnU-Net", "dataset": AMOS, "folder": "predictions/nnunet_amos22"}
STUDY = {"title": "t", "question": "q", "variants": ["bipvlseg"], "seeds": [0], "notebooks": ["n"]}


def read_externals(folder: Path, external) -> Experiments:
    """Read an experiments.yaml in ``folder`` with these entries under ``external:``."""
    content = {"datasets": [HEART], "studies": {"main": STUDY}, "external": external}
    (folder / "n.ipynb").touch()
    (folder / "experiments.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return load_experiments("quick", folder / "experiments.yaml")


def test_externals_are_read(tmp_path):
    heart = {"title": "nnU-Net", "dataset": HEART, "folder": "/data/heart", "labels": NAMES[HEART]}
    experiments = read_externals(tmp_path, {"nnunet": ENTRY, "nnunet-heart": heart})
    first, second = experiments.external.values()
    assert first == External(
        name="nnunet", title="nnU-Net", dataset=AMOS, folder=Path("predictions/nnunet_amos22"), labels=None
    )
    assert second.labels == NAMES[HEART] and second.folder == Path("/data/heart")
    assert experiments.external_on(AMOS, "nnunet") is first
    assert read_externals(tmp_path, None).external == read_externals(tmp_path, {}).external == {}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"t": ENTRY | {"titel": "x"}}, "there is no key 'external.t.titel'; use one of: title"),
        ({"t": ENTRY | {"name": "x"}}, "there is no key 'external.t.name'; use one of: "),
        ({"t": {"title": "x", "dataset": AMOS}}, "'external.t.folder' is missing; set it to the path of a"),
        ({"t": ENTRY | {"title": 3}}, "'external.t.title' is 3; it must be a text"),
        ({"t": "amos22"}, "'external.t' is 'amos22'; it must be "),
        (["t"], "'external' is ['t']; it must be "),
        ({"a/b": ENTRY}, "an external is called 'a/b'; use only letters, digits, _ and -"),
        ({False: ENTRY}, "'external"),
        ({"unet": ENTRY}, "external 'unet' has the name of a variant; give it another name"),
        ({"mean_atlas": ENTRY}, "external 'mean_atlas' has the name of a variant; give it another name"),
        (
            {"t": ENTRY | {"title": "UNet"}},
            "external 't' has a variant's title, 'UNet'; give it another",
        ),
        ({"t": ENTRY, "u": ENTRY}, "2 externals on amos22 have the title 'nnU-Net'; give them different"),
        ({"t": ENTRY | {"dataset": "amos2"}}, "there is no data set 'amos2'; choose one of amos22"),
    ],
)
def test_mistake_in_the_yaml_is_an_error_that_names_it(raw, message, tmp_path):
    with pytest.raises(BipvlError, match=re.escape(f"experiments.yaml: {message}")):
        read_externals(tmp_path, raw)


def test_unknown_external_is_an_error(tmp_path):
    experiments = read_externals(tmp_path, {"nnunet": ENTRY})
    with pytest.raises(BipvlError, match="there is no external on amos22 'nnunt'; choose one of: nnunet"):
        experiments.external_on(AMOS, "nnunt")
    with pytest.raises(BipvlError, match="no external predictions on mmwhs_ct; add them under 'external'"):
        experiments.external_on(HEART, "nnunet")


@pytest.mark.slow
def test_notebook_evaluates_an_entry_of_experiments_yaml(heart, tmp_path, warm_kernels):
    heart.write(tmp_path / "masks")
    entry = {"title": "nnU-Net", "dataset": HEART, "folder": "masks", "labels": NAMES[HEART]}
    (tmp_path / "notebooks").mkdir()
    read_externals(tmp_path / "notebooks", {"nnunet": entry})
    book = papermill.execute_notebook(
        ROOT / "notebooks" / "12_external.ipynb",
        tmp_path / "out.ipynb",
        {
            "profile": "smoke",
            "dataset": HEART,
            "data_root": str(heart.data),
            "runs": str(heart.root / "runs"),
        },
        cwd=tmp_path,
        progress_bar=False,
    )
    assert (heart.root / "runs" / "smoke" / HEART / "nnunet" / "seed0" / "metrics.csv").is_file()
    table = book.cells[-1].outputs[0]["data"]["text/markdown"]
    assert "| nnU-Net | 1.000 (1.000–1.000) |" in table and "| Mean atlas | 0." in table
