"""The command line: ``bipvl`` or ``python -m bipvl``. Each command imports what is slow to import."""

from pathlib import Path
from typing import Annotated

import typer

from bipvl.common.command_line import Sentences, echo_once, echo_table, parse_size
from bipvl.common.errors import BipvlError
from bipvl.common.lookup import choose

app = typer.Typer(
    cls=Sentences,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Dataset = Annotated[
    str,
    typer.Argument(
        metavar="DATASET",
        help="amos22, mmwhs_ct, mmwhs_mr, msd_brain, msd_hippocampus, openkbp, or your own YAML file.",
    ),
]
Profile = Annotated[
    str,
    typer.Option(help="quick (minutes on a CPU), laptop, paper (GPU, real data), or your own YAML file."),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(help="Folder that contains the data set's folder. Default: the profile's synthetic cohort."),
]
Runs = Annotated[Path, typer.Option(help="Folder of all runs.")]
TrainedRun = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run.")]
Prompts = Annotated[
    Path | None,
    typer.Option(help="Prompt CSV that replaces the data set's: one row per class, in its order."),
]


@app.callback()
def bipvl() -> None:
    """BiPVL-Seg: 3D medical image segmentation guided by text.

    Usual order: check DATASET, prepare DATASET, train DATASET VARIANT, evaluate RUN, segment IMAGE.
    For your own scans, start with init-dataset FOLDER.
    "bipvl COMMAND --help" explains a command; "make reproduce" runs every experiment of the paper.
    """


@app.command()
def synthesize(
    dataset: Dataset,
    data_root: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("data/synthetic"),
    cases: Annotated[int | None, typer.Option(help="Number of cases (default: as in the data set).")] = None,
    size: Annotated[str, typer.Option(help="Voxels per side, such as 64 or 512x512x200.")] = "64",
    seed: Annotated[int, typer.Option(help="The same seed writes the same bytes.")] = 0,
) -> None:
    """Write a synthetic cohort in a benchmark's layout.

    Example: bipvl synthesize amos22 --size 128 --cases 20
    """
    from bipvl.data.synthetic import synthesize as write

    write(dataset, data_root, cases=cases, size=parse_size(size), seed=seed)
    typer.echo(f"{data_root} holds the synthetic cohort of {dataset}")


@app.command("init-dataset")
def init_dataset(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Your scans and label maps (NIfTI).")],
    name: Annotated[str | None, typer.Option(help="Name of the data set (default: the folder's).")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="YAML file to write (default: NAME.yaml).")
    ] = None,
) -> None:
    """Write an initial YAML file and prompt CSV for your own scans.

    Reads the dataset.json of MSD or nnU-Net v2; without one, pairs files by their names. Never overwrites
    a file.

    Example: bipvl init-dataset /data/knee
    """
    from bipvl.data.onboarding.draft import data_root, draft_dataset

    drafted = draft_dataset(folder, output, name=name)
    typer.echo(f"{folder}: {drafted.found}")
    typer.echo(f"wrote {drafted.path} and {drafted.prompts_path}; read them, and fill in")
    typer.echo("\n".join(f"  {place}" for place in drafted.to_fill))
    typer.echo(f"then: bipvl check {drafted.path} --data-root {data_root(folder)[0]}")


@app.command()
def fetch(
    dataset: Annotated[
        str,
        typer.Argument(metavar="DATASET", help="One that comes with the package, such as msd_hippocampus."),
    ],
    data_root: Annotated[Path, typer.Option(help="Folder to unpack to.")] = Path("data"),
) -> None:
    """Download a public data set, or print the steps to get it.

    For amos22, mmwhs_ct and mmwhs_mr it prints steps. Interrupted downloads resume; checksums are verified.

    Example: bipvl fetch msd_hippocampus --data-root /data
    """
    from bipvl.data.fetch import fetch as fetch_dataset
    from bipvl.data.fetch import last_step, steps

    if manual := steps(dataset, data_root):
        typer.echo(f"{dataset} must be downloaded by hand:\n{manual}\nThen:")
    else:
        typer.echo(f"{fetch_dataset(dataset, data_root)} is complete. Then:")
    typer.echo(last_step(dataset, data_root))


@app.command()
def check(
    dataset: Dataset,
    data_root: Annotated[Path, typer.Option(help="Folder that contains the data set's folder.")],
    prompts: Prompts = None,
    split: Annotated[
        Path | None, typer.Option(help="Also check this split.json: cases and patients.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes, each with one file in memory (default: one per core)."),
    ] = None,
) -> None:
    """List every issue in a data set's files, each with its fix. Changes nothing.

    Tolerances: the affines of a label map and its image may differ by 0.001 mm in any entry; sform and qform,
    if both are set, may put a corner 0.1 mm apart; a CT has values of -33792 to 32767 HU and spans at least
    40 HU. Cases with identical image values are reported as duplicates.

    Example: bipvl check my.yaml --data-root /data
    """
    from bipvl.data.spec import load_spec
    from bipvl.engine.data_root import check_folder

    spec = load_spec(dataset)
    check_folder(data_root)
    from bipvl.data.checks.dataset import check_dataset, issue_table
    from bipvl.data.layouts import list_cases

    issues = check_dataset(spec, data_root, prompts, split=split, workers=workers)
    if issues:
        typer.echo(issue_table(issues), err=True)
        raise BipvlError(f"{len(issues)} issues, listed above", "fix them, then check again", spec.title)
    typer.echo(f"{spec.title}: {len(list_cases(spec, data_root))} cases, no issues")


@app.command()
def prepare(
    dataset: Dataset, profile: Profile = "quick", data_root: DataRoot = None, runs: Runs = Path("runs")
) -> None:
    """Check a data set, draw its split, score the mean atlas.

    Needed once per data set and profile, before the first run.

    Example: bipvl prepare amos22 --profile paper --data-root /data
    """
    from bipvl.engine.data_root import check_data_root
    from bipvl.engine.prepare import prepare as prepare_dataset

    check_data_root(profile, data_root)

    used = prepare_dataset(profile=profile, dataset=dataset, data_root=data_root, root=runs)
    typer.echo(f"ready: {dataset} from {used}, at profile {profile}")


@app.command()
def train(
    dataset: Dataset,
    variant: Annotated[str, typer.Argument(help='What to train, such as bipvlseg: see "bipvl variants".')],
    profile: Profile = "quick",
    seed: Annotated[int, typer.Option(help="Decides the initial weights, the crops and their order.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the profile. May be repeated."),
    ] = None,
    data_root: DataRoot = None,
    runs: Runs = Path("runs"),
) -> None:
    """Train one run, or resume it.

    Example: bipvl train amos22 bipvlseg --set training.lr=0.001 --set training.epochs=50

    Several GPUs: accelerate launch -m bipvl train amos22 bipvlseg --profile paper --data-root /data
    """
    from bipvl.engine.data_root import check_data_root, synthetic_cohort
    from bipvl.engine.profiles import parse_overrides
    from bipvl.engine.run import Run

    check_data_root(profile, data_root)
    run = Run.plan(
        profile=profile,
        dataset=dataset,
        variant=variant,
        seed=seed,
        data_root=data_root,
        root=runs,
        overrides=parse_overrides(settings or []),
    )
    if not run.split_path.is_file():
        fix = f"run `bipvl prepare {dataset}` with the same options first"
        raise BipvlError("file not found", fix, run.split_path)
    run.check_settings()
    root = data_root or synthetic_cohort(profile, dataset)
    from bipvl.engine.train import train as train_run

    train_run(run, root)
    echo_once(f"trained: {run.directory}")


@app.command()
def evaluate(run: TrainedRun, data_root: DataRoot = None) -> None:
    """Score a trained run on its test cases.

    Writes metrics.csv and predictions/ into the run's folder.

    Example: bipvl evaluate runs/quick/amos22/bipvlseg/seed0
    """
    from bipvl.engine.data_root import data_root_of
    from bipvl.engine.run import Run

    opened = Run.open(run)
    opened.check_trained()
    root = data_root or data_root_of(opened)
    from bipvl.engine.evaluate import evaluate as evaluate_run

    scores = evaluate_run(opened, root)
    mean = scores[scores["grid"] == "scan"].groupby("metric")["value"].mean()
    summary = ", ".join(f"{metric} {value:.3f}" for metric, value in mean.items())
    echo_once(f"{run}/metrics.csv: mean over cases and classes, on the scan's grid: {summary}")


@app.command()
def verify(run: TrainedRun, data_root: DataRoot = None) -> None:
    """Compare a run with its manifest.

    Recomputes all checksums and reports changes. Changed content is an error; another commit or package
    version is a note.

    Example: bipvl verify runs/quick/amos22/bipvlseg/seed0
    """
    from bipvl.engine.data_root import synthetic_root
    from bipvl.engine.manifest import verify as verify_run
    from bipvl.engine.run import Run

    opened = Run.open(run)
    synthetic = synthetic_root(opened.config["profile"])
    if data_root is None and opened.config["cohort"] == "synthetic" and synthetic.is_dir():
        data_root = synthetic
    messages = [*verify_run(opened, data_root)]
    for message in messages:
        typer.echo(f"{message.kind}: {message.text}", err=message.kind == "differs")
    if differences := sum(message.kind == "differs" for message in messages):
        problem = f"differs from its manifest in {differences} points, listed above"
        raise BipvlError(problem, "restore them, or train and evaluate it again", run)
    typer.echo(f"{run}: everything that was checked agrees with its manifest")


@app.command()
def segment(
    image: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGE",
            help="Scan like those it was trained on: NIfTI (with one file per channel, NAME_0000.nii.gz, …: "
            "any of them), a folder of NIfTI scans, or a folder with a DICOM series.",
        ),
    ],
    run: Annotated[Path, typer.Option(help="Folder of a trained or exported run.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Label map to write (.nii.gz, .nii); for many scans a folder."),
    ],
    prompts: Prompts = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write probabilities: one file per class.")
    ] = False,
    dicom_seg: Annotated[
        bool, typer.Option("--dicom-seg", help="For a DICOM series, also write a DICOM segmentation (.dcm).")
    ] = False,
) -> None:
    """Segment scans with a trained run.

    A label map has its scan's grid and the data set's label codes. A .json beside it names the codes, the run
    and the prompts; a .csv has the volumes in ml (for a folder: volumes.csv, all scans).

    Example: bipvl segment scan.nii.gz --run runs/quick/amos22/bipvlseg/seed0 -o labels.nii.gz
    """
    from bipvl.deploy.exported_run import open_run
    from bipvl.deploy.inputs import left_out
    from bipvl.deploy.request import check_request

    opened = open_run(run)
    opened.check_has_network()
    scans, _ = check_request(image, opened, output, prompts)  # before imports that take seconds
    from bipvl.deploy.segment import segment_files

    for path in segment_files(image, run, output, prompts, probabilities=probabilities, dicom_seg=dicom_seg):
        typer.echo(f"wrote {path}")
    if others := left_out(image, scans):
        typer.echo(f"skipped, not named like NIfTI files: {', '.join(other.name for other in others)}")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained and evaluated run.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write; must not exist yet.")],
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
    if push:
        if bundle:
            raise BipvlError("a bundle is not uploaded", "leave out --bundle or --push")
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
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="One profile's figures and their tables.")],
    form: Annotated[
        str, typer.Option("--format", help="png, or pdf for print (also writes the main table as LaTeX).")
    ] = "png",
) -> None:
    """Draw the figures in a folder again from their tables.

    Needs neither data nor GPU.

    Example: bipvl figures figures/quick --format pdf
    """
    choose("format", form, {"png": None, "pdf": None})
    if not folder.is_dir():
        raise BipvlError("is not a folder", "write its figures with: make reproduce", folder)
    from bipvl.figures import redraw

    for path in redraw(folder, form):
        typer.echo(f"drew {path}")


@app.command()
def variants() -> None:
    """List what can be trained: each variant's name and title.

    Example: bipvl variants
    """
    from bipvl.engine.variants import VARIANTS

    echo_table((variant.name, variant.title) for variant in VARIANTS.values())


@app.command()
def profiles() -> None:
    """List the built-in profiles.

    --profile also takes your own YAML file, which holds what differs from the profile that it extends.

    Example: bipvl profiles
    """
    from bipvl.engine.profiles import load_profiles

    echo_table((name, profile.title) for name, profile in load_profiles().items())


def main() -> None:
    """The console script."""
    app(prog_name="bipvl")


if __name__ == "__main__":
    main()
