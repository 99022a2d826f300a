"""Diagrams: all parameters, the right arrows, legible text, and the same bytes when drawn again."""

from itertools import combinations
from pathlib import Path

import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation, Text

from bipvl import figures as plots
from bipvl.common.errors import BipvlError
from bipvl.data.prompts import default_prompts
from bipvl.data.spec import load_spec
from bipvl.engine.build import build_objective
from bipvl.engine.profiles import dataset_settings
from bipvl.engine.variants import get_variant
from bipvl.figures import architecture_table as structure
from bipvl.figures import style
from bipvl.figures.architecture_table import architecture_table, structural_network
from bipvl.figures.bifusion_table import bifusion_table
from bipvl.model.bifusion import BiFusion
from bipvl.model.decoder import encode
from bipvl.model.released import ErasingFusion
from tools.run_notebook import execute

ROOT = Path(__file__).parents[1]
SPEC, CROP = load_spec("msd_brain"), (16, 16, 16)


@pytest.fixture(scope="module")
def network(tiny_bipvlseg, tiny_text_config, tiny_tokenizer):
    """A function (layers, **overrides) that builds a tiny network for the prompts of msd_brain."""

    def build(layers=4, **overrides):
        config = tiny_text_config(layers=layers, max_position_embeddings=512)
        made = tiny_bipvlseg(in_channels=4, background=False, text_config=config, **overrides)
        made.tokenizer = tiny_tokenizer
        return made

    return build


def table_of(network, variant="bipvlseg", crop=CROP):
    return architecture_table(network, SPEC, crop, "smoke", variant=get_variant(variant))


def edges_of(table):
    return {(row.id, target) for row in table.itertuples() for target in row.feeds.split(";") if target}


def count(modules, only_trained=False):
    parameters = [p for module in modules for p in module.parameters()]
    return sum(p.numel() for p in parameters if p.requires_grad or not only_trained)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"backbone": "swin_unetr"},
        {"backbone": "conv", "depths": (2, 1)},
        {"deviations": "released"},
        {"fusion_direction": "image_to_text"},
        {"fused_stages": ()},
        {"frozen_stages": 2},
        {"depths": (1,), "num_heads": (2,)},
        {"layers": 2, "depths": (1, 1, 1), "num_heads": (2, 4, 8)},  # a text stage without a layer
    ],
    ids=str,
)
def test_every_parameter_is_in_one_block(network, options):
    made = network(**options)
    table = table_of(made, crop=(32, 32, 32) if len(made.fusions) > 2 else CROP)
    modules = [made, build_objective(get_variant("bipvlseg"), SPEC)]
    assert table["parameters"].sum() == count(modules)
    assert table.loc[table["state"] == "trained", "parameters"].sum() == count(modules, only_trained=True)
    assert table["shape"][table["kind"] != "loss"].str.len().min() > 0


def test_sizes_equal_those_of_a_real_forward_pass_and_the_network_is_unchanged(network):
    made = network()
    shapes = table_of(made).set_index("id")["shape"]
    assert {p.device.type for p in made.parameters()} == {"cpu"}
    assert not any(module._forward_hooks for module in made.modules())

    def size(tensor):
        return " × ".join(map(str, tensor.shape))

    volume, prompts = torch.zeros(1, 4, *CROP), default_prompts(SPEC).segments()
    with torch.no_grad():
        output, state = made(volume, prompts), made.encode_prompts(prompts)
        features = encode(made.vision, volume)
    assert shapes["logits"] == size(output.logits[0])
    assert shapes["class_head"] == size(output.class_logits[0].T)
    assert shapes["visual_projection"] == size(output.visual[0])
    assert shapes["text_projection"] == size(output.text[0])
    assert [shapes[f"vision_{n}"] for n in range(3)] == [size(feature[0]) for feature in features]
    assert shapes["text_0"] == shapes["text_2"] == size(state.hidden)
    assert shapes["fusion_1"] == f"{len(state.tokens.valid)} × 32; {features[1][0, 0].numel()} × 24"


def test_fusion_feeds_back_to_the_encoders_that_read_it(network):
    both = edges_of(table_of(network()))
    assert {("fusion_1", "text_1"), ("fusion_1", "vision_1"), ("text_1", "fusion_1")} <= both
    to_text = edges_of(table_of(network(fusion_direction="image_to_text")))
    assert both - to_text == {("fusion_1", "vision_1"), ("fusion_2", "vision_2")}
    to_image = edges_of(table_of(network(fusion_direction="text_to_image")))
    assert both - to_image == {("fusion_1", "text_1"), ("fusion_2", "text_2")}
    last = edges_of(table_of(network(fused_stages=(-1,))))
    assert both - last == {edge for edge in both if "fusion_1" in edge}


def test_the_losses_are_those_of_the_variant(network):
    def losses(variant):
        table = table_of(network(), variant).set_index("id")
        return table.loc[table["kind"] == "loss", "detail"].to_dict()

    both = {"class_embedding": "cross-entropy", "alignment": "global + local"}
    assert losses("bipvlseg") == {"segmentation": "Dice + BCE"} | both
    assert losses("segmentation_alone") == {"segmentation": "Dice + BCE"}
    assert losses("local_alignment")["alignment"] == "local"


def fusion(**options):
    return BiFusion(**{"image_dim": 24, "text_dim": 32, "heads": 4, "mlp_width": 16} | options)


@pytest.mark.parametrize("direction", ["both", "image_to_text", "text_to_image"])
@pytest.mark.parametrize("text_dim", [32, 24])
def test_every_parameter_of_a_fusion_is_in_one_step(direction, text_dim):
    block = fusion(direction=direction, text_dim=text_dim)
    assert bifusion_table(block, 1, "smoke")["parameters"].sum() == count([block])


def test_steps_have_the_order_of_the_method():
    table = bifusion_table(fusion(), 1, "smoke")
    layers = ("text_self", "text_cross", "text_mlp", "image_cross", "image_mlp")
    steps = [f"{step}_{layer}" for layer in (1, 2) for step in layers]
    assert list(table["id"][table["norm"]]) == [*steps, "text_last"]
    reads = {(a, b) for a, b in edges_of(table) if a.split("_")[0] != b.split("_")[0]}
    assert reads == {
        ("image", "text_cross_1"),
        ("text_mlp_1", "image_cross_1"),
        ("image_mlp_1", "text_cross_2"),
        ("text_mlp_2", "image_cross_2"),
        ("image_mlp_2", "text_last"),
    }
    detail = table.set_index("id")["detail"]
    assert detail["text_cross_1"] == "query T + E; key, value V; width 12, heads 4"
    assert detail["text_mlp_1"] == "24 → 16 → 24"


def test_missing_steps_and_residuals_are_not_drawn():
    erasing = ErasingFusion(image_dim=24, text_dim=32, heads=4, mlp_width=16)
    whole, bare = (bifusion_table(block, 1, "smoke").set_index("id") for block in (fusion(), erasing))
    differ = whole.index[whole["added"] != bare["added"]]
    assert list(differ) == ["text_self_1", "text_fused", "image_fused"]
    assert set(bare.loc[differ, "added"]) == {""}
    assert whole.loc["image_fused", "added"] == "image"
    to_text = set(bifusion_table(fusion(direction="image_to_text"), 1, "smoke")["id"])
    assert not any(step.startswith("image_") for step in to_text)
    to_image = set(bifusion_table(fusion(direction="text_to_image"), 1, "smoke")["id"])
    gone = {"text_cross_1", "text_cross_2", "text_last", "text_out", "text_fused"}
    assert set(whole.index) - to_image == gone


@pytest.fixture(scope="module")
def tables(network):
    """Tables of both figures, for networks with two and four stages and for one-way fusion."""
    deep = network(layers=6, depths=(1, 1, 1, 1), num_heads=(2, 4, 8, 8))
    return {
        "architecture": table_of(network(frozen_stages=2)),
        "architecture-deep": table_of(deep, crop=(64, 64, 64)),
        "bifusion": bifusion_table(fusion(), 1, "smoke"),
        "bifusion-one_way": bifusion_table(fusion(direction="image_to_text", text_dim=24), 1, "smoke"),
    }


NAMES = ["architecture", "architecture-deep", "bifusion", "bifusion-one_way"]


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_legible_without_overlaps_and_each_edge_has_an_arrow(tables, name):
    figure = plots.draw(name, tables[name])
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [t for t in figure.findobj(Text) if t.get_text().strip()]
    assert min(t.get_fontsize() for t in texts) >= style.SMALL
    for a, b in combinations([(t.get_text(), t.get_window_extent(renderer)) for t in texts], 2):
        assert min(a[1].x1, b[1].x1) - max(a[1].x0, b[1].x0) < 1 or (
            min(a[1].y1, b[1].y1) - max(a[1].y0, b[1].y0) < 1
        ), (a[0], b[0])
    assert figure.get_figwidth() <= style.WIDTH
    box = figure.get_tightbbox(renderer)
    assert box.x0 >= 0 and box.y0 >= 0
    assert box.x1 <= figure.get_figwidth() and box.y1 <= figure.get_figheight()
    residuals = (tables[name]["added"] != "").sum() if "added" in tables[name] else 0
    assert len(figure.findobj(Annotation)) == len(edges_of(tables[name])) + residuals
    assert "no cohort, no seed" in figure.get_supxlabel().replace("\n", " ")


def test_redrawn_diagrams_have_the_same_bytes(tables, tmp_path):
    for name in ("architecture", "bifusion-one_way"):
        plots.write(name, tables[name], tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before.keys() == {
        "architecture.csv",
        "architecture.png",
        "bifusion-one_way.csv",
        "bifusion-one_way.png",
    }
    assert len(plots.redraw(tmp_path)) == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_text_encoder_that_cannot_be_loaded_is_replaced_and_named(monkeypatch):
    def unreachable(*_):
        raise BipvlError("is neither a folder nor a hub model", "choose another", "far/away")

    settings = dataset_settings("smoke", SPEC)
    settings["language"] = settings["language"] | {"text": "far/away"}
    monkeypatch.setattr(structure, "build_network", unreachable)
    made, note = structural_network(get_variant("bipvlseg"), SPEC, settings)
    assert "far/away could not be loaded" in note and "BERT-base" in note
    assert made.text.dim == 768 and sum(map(len, made.text.stages)) == 12
    table = architecture_table(made, SPEC, settings["crop"], "smoke", note=note)
    assert note in plots.draw("architecture", table).get_supxlabel().replace("\n", " ")


def test_networks_without_a_diagram_are_rejected(network):
    settings = dataset_settings("smoke", SPEC)
    with pytest.raises(
        BipvlError,
        match="'unet' reads no prompts; only a variant that reads prompts has a diagram; choose one",
    ):
        structural_network(get_variant("unet"), SPEC, settings)
    with pytest.raises(BipvlError, match="the universal head has no diagram; choose a variant without it"):
        table_of(network(head="universal", fused_stages=()))
    with pytest.raises(
        BipvlError, match="'no_fusion' has no BiFusion at stage 2; choose another variant or stage"
    ):
        bifusion_table(torch.nn.Identity(), 2, "smoke", variant="no_fusion")


@pytest.mark.slow
def test_the_notebook_draws_both_diagrams(tmp_path, warm_kernels):
    parameters = {"profile": "smoke", "study": "main", "figures": str(tmp_path / "figures")}
    execute(ROOT / "notebooks" / "08_architecture.ipynb", tmp_path / "notebook.ipynb", parameters)
    folder = tmp_path / "figures" / "smoke"
    assert {path.stem for path in folder.glob("*.png")} == {"architecture", "bifusion"}
    assert set(pd.read_csv(folder / "architecture.csv")["profile"]) == {"smoke"}
