"""The command line: ``bipvl`` or ``python -m bipvl``. What is slow to import is imported by the command."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bipvl.common.errors import BipvlError
from bipvl.common.extras import missing_extra_explained


class _Sentences(TyperGroup):
    """Bad input, an unwritable place and an interruption each end in a sentence, not in a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with missing_extra_explained():
                return super().invoke(ctx)
        except BipvlError as error:
            typer.echo(f"bipvl: {error}", err=True)
            raise typer.Exit(1) from None
        except OSError as error:
            from bipvl.engine.lock import unwritable

            if not (told := unwritable(error)):
                raise
            typer.echo(f"bipvl: {told}", err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            typer.echo("\nbipvl: stopped; the same command goes on from what is saved", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Sentences,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Dataset = Annotated[
    str,
    typer.Argument(
        metavar="DATASET", help="amos22, mmwhs_ct, mmwhs_mr, msd_brain, or a dataset YAML of your own."
    ),
]
Profile = Annotated[
    str, typer.Option(help="Scale of the run: quick (minutes on a CPU), laptop, or paper (GPU, real data).")
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        help="Folder that holds the dataset's own folder. Without it: the profile's synthetic cohort."
    ),
]
Runs = Annotated[Path, typer.Option(help="Folder that all runs lie in.")]
Prompts = Annotated[
    Path | None, typer.Option(help="Prompt CSV to use instead of the dataset's: a row a class, in order.")
]


@app.callback()
def bipvl() -> None:
    """BiPVL-Seg: 3D medical image segmentation guided by text.

    In this order: check DATASET, prepare DATASET, train DATASET VARIANT, evaluate RUN, segment IMAGE.
    With scans of your own, init-dataset FOLDER comes first.
    "bipvl COMMAND --help" tells more; "make reproduce" does it all for every experiment of the paper.
    """


@app.command()
def synthesize(
    dataset: Dataset,
    data_root: Annotated[Path, typer.Option(help="Folder to write below.")] = Path("data/synthetic"),
    cases: Annotated[int | None, typer.Option(help="Number of cases (default: the dataset's own).")] = None,
    size: Annotated[str, typer.Option(help="Voxels a side, such as 64 or 512x512x200.")] = "64",
    seed: Annotated[int, typer.Option(help="The same seed writes the same bytes.")] = 0,
) -> None:
    """Write a synthetic cohort in a benchmark's own layout.

    Example: bipvl synthesize amos22 --size 128 --cases 20
    """
    from bipvl.data.synthetic import synthesize as write

    write(dataset, data_root, cases=cases, size=_size(size), seed=seed)
    typer.echo(f"{data_root} holds the synthetic cohort of {dataset}")


@app.command("init-dataset")
def init_dataset(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of your scans and label maps (NIfTI).")
    ],
    name: Annotated[str | None, typer.Option(help="Of the dataset (default: the folder's).")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="YAML file to write (default: NAME.yaml).")
    ] = None,
) -> None:
    """Draft a dataset YAML and prompt CSV of your own scans.

    Understands a dataset.json as MSD's or nnU-Net v2's, else pairs files by their names. Nothing that is
    there is overwritten.

    Example: bipvl init-dataset /data/knee
    """
    from bipvl.data.onboarding.draft import data_root, draft_dataset

    drafted = draft_dataset(folder, output, name=name)
    typer.echo(f"{folder}: {drafted.found}")
    typer.echo(f"wrote the drafts {drafted.path} and {drafted.prompts_path}; read them, and fill in")
    for place in drafted.to_fill:
        typer.echo(f"  {place}")
    typer.echo(f"then: bipvl check {drafted.path} --data-root {data_root(folder)[0]}")


@app.command()
def fetch(
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="msd_brain; of amos22, mmwhs_ct, mmwhs_mr the steps.")
    ],
    data_root: Annotated[Path, typer.Option(help="Folder to unpack below.")] = Path("data"),
) -> None:
    """Fetch a public dataset, or tell the steps to get it.

    What was broken off goes on; a checksum is held against what came, before it is unpacked.

    Example: bipvl fetch msd_brain --data-root /data
    """
    from bipvl.data.fetch import fetch as fetch_dataset
    from bipvl.data.fetch import last_step, steps

    if told := steps(dataset, data_root):
        typer.echo(f"{dataset} must be fetched by hand:\n{told}\nThen:")
    else:
        typer.echo(f"{fetch_dataset(dataset, data_root)} is unpacked. Then:")
    typer.echo(last_step(dataset, data_root))


@app.command()
def check(
    dataset: Dataset,
    data_root: Annotated[Path, typer.Option(help="Folder that holds the dataset's own folder.")],
    prompts: Prompts = None,
    split: Annotated[
        Path | None,
        typer.Option(help="A split.json to hold the cases and patients against."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes, each with one file in memory (default: as many as cores)."),
    ] = None,
) -> None:
    """Find every fault in a dataset's files, each with its fix. Nothing is changed.

    Tolerances: a label map's affine may differ from its image's by 0.001 mm in any entry; sform and qform,
    where both are set, may put a corner 0.1 mm apart; a CT holds -33792 to 32767 HU and spans 40 at least.
    Two cases are one where their images hold the same values.

    Example: bipvl check my.yaml --data-root /data
    """
    from bipvl.analysis.studies import check_folder
    from bipvl.data.checks.dataset import check_dataset, issue_table
    from bipvl.data.layouts import list_cases
    from bipvl.data.spec import load_spec

    spec = load_spec(dataset)
    check_folder(data_root)
    issues = check_dataset(spec, data_root, prompts, split=split, workers=workers)
    if issues:
        typer.echo(issue_table(issues), err=True)
        raise BipvlError(f"{len(issues)} issues, listed above", "fix them, then check again", spec.title)
    typer.echo(f"{spec.title}: {len(list_cases(spec, data_root))} cases, no issues")


@app.command()
def prepare(
    dataset: Dataset, profile: Profile = "quick", data_root: DataRoot = None, runs: Runs = Path("runs")
) -> None:
    """Check a dataset, draw its split, score the mean atlas.

    Once for a dataset and a profile, before their first run.

    Example: bipvl prepare amos22 --profile paper --data-root /data
    """
    from bipvl.analysis.studies import check_data_root

    check_data_root(profile, data_root)
    from bipvl.engine.prepare import prepare as prepare_dataset

    used = prepare_dataset(profile=profile, dataset=dataset, data_root=data_root, root=runs)
    typer.echo(f"ready: {dataset} from {used}, at profile {profile}")


@app.command()
def train(
    dataset: Dataset,
    variant: Annotated[str, typer.Argument(help="What to train, such as bipvlseg or swin_unetr_v2.")],
    profile: Profile = "quick",
    seed: Annotated[int, typer.Option(help="Decides the first weights, the crops and their order.")] = 0,
    data_root: DataRoot = None,
    runs: Runs = Path("runs"),
) -> None:
    """Train one run, or go on with one that was stopped.

    Example: bipvl train amos22 bipvlseg

    Several GPUs: accelerate launch -m bipvl train amos22 bipvlseg --profile paper --data-root /data
    """
    from bipvl.analysis.studies import check_data_root
    from bipvl.data.spec import load_spec
    from bipvl.engine.run import Run
    from bipvl.engine.variants import get_variant

    check_data_root(profile, data_root)
    get_variant(variant)
    split = runs / profile / load_spec(dataset).name / "split.json"
    if not split.is_file():
        raise BipvlError(f"{split} is missing; run `bipvl prepare {dataset}` with the same options first")
    root = _data_root(profile, dataset, data_root)
    run = Run.plan(profile=profile, dataset=dataset, variant=variant, seed=seed, data_root=root, root=runs)
    from bipvl.engine.train import train as train_run

    train_run(run, root)
    _tell(f"trained: {run.directory}")


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run.")],
    data_root: DataRoot = None,
) -> None:
    """Score a trained run on its test cases.

    Writes metrics.csv and predictions/ into the run's folder.

    Example: bipvl evaluate runs/quick/amos22/bipvlseg/seed0
    """
    from bipvl.engine.run import Run

    opened = Run.open(run)
    if data_root is None and opened.config["cohort"] == "real":
        raise BipvlError(f"{run} was trained on real data; name the folder that holds them with --data-root")
    root = _data_root(opened.config["profile"], opened.config["dataset"], data_root)
    from bipvl.engine.evaluate import evaluate as evaluate_run

    scores = evaluate_run(opened, root)
    mean = scores[scores["grid"] == "scan"].groupby("metric")["value"].mean()
    summary = ", ".join(f"{metric} {value:.3f}" for metric, value in mean.items())
    _tell(f"{run}/metrics.csv: mean over cases and classes, on the scan's grid: {summary}")


@app.command()
def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run.")],
    data_root: DataRoot = None,
) -> None:
    """Hold a run against its manifest.

    Is all still what it was made from, and what came out? What differs by content is a fault; another
    commit or package version is only told.

    Example: bipvl verify runs/quick/amos22/bipvlseg/seed0
    """
    from bipvl.engine.manifest import verify as verify_run
    from bipvl.engine.run import Run

    opened = Run.open(run)
    synthetic = Path("data", f"synthetic-{opened.config['profile']}")
    if data_root is None and opened.config["cohort"] == "synthetic" and synthetic.is_dir():
        data_root = synthetic
    findings = [*verify_run(opened, data_root)]
    for finding in findings:
        typer.echo(f"{finding.kind}: {finding.what}", err=finding.kind == "differs")
    if differing := sum(finding.kind == "differs" for finding in findings):
        raise BipvlError(f"{run} does not agree with its manifest in {differing} points, listed above")
    typer.echo(f"{run}: all that was checked agrees with its manifest")


@app.command()
def segment(
    image: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGE",
            help="Scan of the kind it was trained on: NIfTI (of NAME_0000.nii.gz, …, a file a channel, any), "
            "a folder of such, or a DICOM series' folder.",
        ),
    ],
    run: Annotated[Path, typer.Option(help="Folder of a trained or exported run.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Label map to write: .nii.gz or .nii. For a folder of NIfTI scans: a folder.",
        ),
    ],
    prompts: Prompts = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write each class's probability, a file a class.")
    ] = False,
    dicom_seg: Annotated[
        bool, typer.Option("--dicom-seg", help="Of a DICOM series, also write a DICOM segmentation (.dcm).")
    ] = False,
) -> None:
    """Segment scans with a trained run.

    A label map lies on its scan's own grid and holds the dataset's own codes. Beside it, a .json names them,
    with the run and the prompts, and a .csv tells the volumes in ml (of a folder: volumes.csv, all scans).

    Example: bipvl segment scan.nii.gz --run runs/quick/amos22/bipvlseg/seed0 -o labels.nii.gz
    """
    from bipvl.deploy.inputs import left_out, scans_at, targets_of

    scans = scans_at(image)
    targets_of(image, scans, output)  # told at once; what comes next takes seconds to import
    from bipvl.deploy.segment import segment_files

    for path in segment_files(image, run, output, prompts, probabilities=probabilities, dicom_seg=dicom_seg):
        typer.echo(f"wrote {path}")
    if others := left_out(image, scans):
        typer.echo(f"left out, no NIfTI files by their names: {', '.join(other.name for other in others)}")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained and evaluated run.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write; not there yet.")],
    bundle: Annotated[
        bool, typer.Option("--bundle", help="As a MONAI bundle, for `python -m monai.bundle run`.")
    ] = False,
    push: Annotated[
        str | None,
        typer.Option(metavar="USER/NAME", help="Also upload it to this repository on the Hugging Face Hub."),
    ] = None,
) -> None:
    """Write a run as one folder to share, with a model card.

    Example: bipvl export runs/quick/amos22/bipvlseg/seed0 shared/amos22
    """
    from bipvl.deploy.export import check_hub, push_folder, write_export
    from bipvl.engine.run import Run

    opened = Run.open(run)
    if push and bundle:
        raise BipvlError("a bundle is not uploaded; leave out --bundle or --push")
    if push:
        check_hub(push)
    if bundle:
        from bipvl.deploy.monai_bundle import write_bundle

        write_bundle(opened, folder)
    else:
        write_export(opened, folder)
    typer.echo(f"wrote {folder}")
    if push:
        typer.echo(f"uploaded to {push_folder(folder, push)}")


@app.command()
def figures(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Figures of one profile, with their CSVs.")
    ],
) -> None:
    """Draw the figures in a folder anew from their CSV files.

    Needs neither data nor GPU.

    Example: bipvl figures figures/quick
    """
    if not folder.is_dir():
        raise BipvlError(f"{folder} is not a folder; `make reproduce` writes the figures and their CSVs")
    from bipvl.figures import redraw

    for path in redraw(folder):
        typer.echo(f"drew {path}")


def _tell(sentence: str) -> None:
    """Print what was done; of several processes (``accelerate launch``) the first alone."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo(sentence)


def _data_root(profile: str, dataset: str, data_root: Path | None) -> Path:
    """The given root, or that of the profile's synthetic cohort."""
    if data_root is not None:
        return data_root
    from bipvl.engine.prepare import synthetic_cohort

    return synthetic_cohort(profile, dataset)


def _size(text: str) -> tuple[int, int, int]:
    """The text 64 or 512x512x200 as three numbers."""
    parts = text.lower().split("x")
    if len(parts) not in (1, 3) or not all(part.isdecimal() for part in parts):
        raise BipvlError(f"size '{text}' is not understood; give one number such as 64, or 512x512x200")
    numbers = [int(part) for part in parts] * (3 // len(parts))
    return numbers[0], numbers[1], numbers[2]


def main() -> None:
    """The console script."""
    app(prog_name="bipvl")


if __name__ == "__main__":
    main()
