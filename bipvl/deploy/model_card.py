"""The model card of a run: what it was trained on, its scores and its limits."""

from collections.abc import Iterator
from importlib.metadata import metadata, version

import pandas as pd
from huggingface_hub import EvalResult, ModelCardData

from bipvl.analysis.statistics import METRICS, class_values, main_table, read_runs
from bipvl.analysis.tables import DIGITS, main_table_markdown, markdown
from bipvl.data.layouts import read_json
from bipvl.data.spec import DatasetSpec
from bipvl.engine.run import Run

NAMES = {"dice": "Dice", "hd95_mm": "HD95 (mm)", "nsd": "Surface Dice"}


def link(name: str) -> str:
    """A URL by its name in pyproject.toml, [project.urls]."""
    return dict(line.split(", ", 1) for line in metadata("bipvl").get_all("Project-URL"))[name]


def model_card(run: Run) -> str:
    """The README.md of an exported run: YAML metadata, then text. All scores come from its metrics.csv."""
    scores = read_runs({run.spec.name: [run.directory.resolve()]})
    own = scores[scores["variant"] == run.variant.name]
    text = "\n\n".join(_sections(run, scores, own))
    return f"---\n{card_data(run, own).to_yaml()}\n---\n\n{text}\n"


def card_data(run: Run, scores: pd.DataFrame) -> ModelCardData:
    """The model card's metadata; ``scores`` are the run's rows of the long table."""
    row = main_table(scores).iloc[0]
    synthetic, spec = run.config["cohort"] == "synthetic", run.spec
    licence = {"license": "mit"}
    if not synthetic:
        licence = {"license": "other", "license_name": "mit-and-terms-of-the-data-set"}
    return ModelCardData(
        language="en",
        **licence,
        library_name="bipvl",
        pipeline_tag="image-segmentation",
        tags=["medical-imaging", "3d", spec.modality.lower(), *(["synthetic-data"] * synthetic)],
        model_name=f"{run.variant.name}-{spec.name}",
        eval_results=[
            EvalResult(
                task_type="image-segmentation",
                # Not the benchmark's name, so that no leaderboard takes these for scores on patients.
                dataset_type=f"synthetic-{spec.name}" if synthetic else spec.name,
                dataset_name=f"{spec.title}, {run.config['cohort']} cohort, {_cases(row['cases'])}",
                metric_type=metric,
                metric_name=f"{NAMES[metric]}, mean over cases and classes",
                metric_value=round(float(row[metric]), DIGITS[metric]),
            )
            for metric in METRICS
        ],
    )


def _sections(run: Run, scores: pd.DataFrame, own: pd.DataFrame) -> Iterator[str]:
    yield f"# {run.variant.title}: {run.spec.title}"
    guided = "guided by one text per class" if run.variant.language else "from the image alone"
    yield (
        f"A network that segments {run.spec.modality} scans in 3D, {guided}. Trained with "
        f"[bipvl]({link('Repository')}), a runnable companion of the paper [BiPVL-Seg]({link('Paper')}); "
        "these weights are not its authors'."
    )
    if run.config["cohort"] == "synthetic":
        yield (
            "> **Synthetic cohort.** Trained and tested on computer-generated scans, not on patients. The "
            "scores show that the software works; they say nothing about real scans."
        )
    yield f"## Training\n\n{markdown(('What', 'Value'), [*_origin(run)], words=2)}"
    yield f"## Scores on the test cases\n\n{main_table_markdown(main_table(scores)).strip()}"
    yield class_markdown(own, run.spec)
    yield f"## How to load it\n\n{USAGE}{NETWORK_USAGE if run.variant.language else ''}"
    yield f"## Limits\n\n{_limits(run, own)}"
    yield f"## Licence\n\n{_licence(run)}"


def _origin(run: Run) -> Iterator[tuple[str, str]]:
    spec, config = run.spec, run.config
    split = read_json(run.split_path)
    yield "Data set", f"{spec.title} (`{spec.name}`), {config['cohort']} cohort"
    yield "Cases", ", ".join(f"{len(split[part])} {part}" for part in ("train", "val", "test"))
    yield "Image channels, in order", ", ".join(spec.channels)
    yield "Classes, in order", ", ".join(c.name for c in spec.classes)
    yield "Working grid", f"{' × '.join(f'{mm:g}' for mm in config['spacing'])} mm"
    yield "Crop", f"{' × '.join(map(str, config['crop']))} voxels"
    yield "Variant", f"`{config['variant']}`"
    yield "Profile and seed", f"`{config['profile']}`, seed {config['seed']}"
    code, manifest = f"bipvl {version('bipvl')}", run.directory / "manifest.json"
    if manifest.is_file():
        code += f", trained by `{read_json(manifest)['phases']['train']['commit']}`"
    yield "Code", code


def class_markdown(scores: pd.DataFrame, spec: DatasetSpec) -> str:
    """One row per class: each metric's mean over the cases with the class, on the scan's own grid."""
    values = {m: class_values(scores, m).groupby("class")["value"] for m in METRICS}
    table = pd.DataFrame({NAMES[m]: v.mean().map(f"{{:.{DIGITS[m]}f}}".format) for m, v in values.items()})
    table = table.reindex([c.name for c in spec.classes]).fillna("not in any test case")
    table["Cases"] = values["dice"].count().reindex(table.index, fill_value=0)
    return markdown(("Class", *table), table.reset_index().astype(str).to_numpy().tolist())


USAGE = """\
Segment a scan (`pip install 'bipvl[run]'`); the labels are on its own grid, in the data set's codes:

```python
import bipvl

run = bipvl.open_export("FOLDER")  # or the id of a repository on the Hub
bipvl.segment("scan.nii.gz", run).save("labels.nii.gz")
```"""
NETWORK_USAGE = """

The network alone (`pip install bipvl`), for a prepared volume B × M × H × W × D and N × (K + 1) texts, such \
as `run.texts`:

```python
from bipvl import BiPVLSeg

logits = BiPVLSeg.from_pretrained("FOLDER").predict(volume, texts)
```"""


def _limits(run: Run, scores: pd.DataFrame) -> str:
    spec, cases = run.spec, _cases(scores["case"].nunique())
    limits = [
        "For research only: not a medical device, and not tested for any clinical use.",
        f"Trained on one kind of scan: {spec.modality} with the channels {', '.join(spec.channels)} and the "
        "field of view of its data set. Other scans get labels too, without a warning.",
        f"The scores are from one training (seed {run.config['seed']}) and {cases} of the same data set; it "
        "was not tested on scans from elsewhere.",
    ]
    if run.variant.language:
        limits.append(
            "All training cases had the same texts: other wordings are untested, except in the repository's "
            "prompt studies."
        )
    return "\n".join(f"- {limit}" for limit in limits)


def _cases(count: int) -> str:
    return f"{count} test case{'s' if count != 1 else ''}"


def _licence(run: Run) -> str:
    text = "Code and weights: MIT."
    if run.config["cohort"] != "synthetic":
        text += f" The terms of {run.spec.title} also apply: read them before you share the weights."
    if run.variant.language:
        text += " The pretrained text encoder has its own licence."
    return text
