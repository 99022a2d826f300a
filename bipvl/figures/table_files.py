"""The files that figures are drawn from: CSV, or compressed arrays (.npz) for pixels and voxels."""

from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd

from bipvl.common.files import atomic_path, write_csv

TEXT_COLUMNS = (
    *("cohort", "profile", "dataset", "variant", "seeds", "case", "cases", "class"),
    *("term", "rule", "channel", "text_class", "visual_class", "concept", "word", "edit"),
    *("text", "classes", "prompts", "trained", "plane", "layer", "around", "worst_class"),
)
"""Columns that are read as text even if they look like numbers."""
FIRST_LAYER = {"pixel": "row", "start": "layer"}
"""A column of tables of pixels, or of voxels → their first column that is no fact."""
FACTS, PLACES = "facts", "facts_rows"
"""Arrays of an .npz: the facts as the text of a CSV, and the rows of the table to which they belong."""
ABSENT = -1
"""Stands in an .npz for a missing value of a layer, whose values are 0 or more."""


def write_table(stem: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Write ``stem`` + .npz (a table of pixels or voxels) or + .csv; return the table as it is read back."""
    # Not with_suffix: a data set's name may contain a dot.
    if _first_layer(table) is None:
        path = stem.with_name(stem.name + ".csv")
        write_csv(path, table)
    else:
        path = stem.with_name(stem.name + ".npz")
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, **_arrays(table))  # without times: equal tables give equal bytes
    return read_table(path)


def read_table(path: Path) -> pd.DataFrame:
    """Read a table that ``write_table`` wrote.

    Raises:
        KeyError, ValueError, EOFError, BadZipFile: the file has other contents.
    """
    if path.suffix == ".csv":
        return _read_csv(path)
    with np.load(path, allow_pickle=False) as arrays:
        facts = _read_csv(StringIO(str(arrays[FACTS]))).set_index(arrays[PLACES])
        names = [name for name in arrays.files if name not in (FACTS, PLACES)]
        layers = pd.DataFrame({name: _present(arrays[name]) for name in names})
    return pd.concat([facts.reindex(layers.index), layers], axis=1)


def _first_layer(table: pd.DataFrame) -> int | None:
    """The position of the first column that is no fact; None for a table without pixels or voxels."""
    found = [first for name, first in FIRST_LAYER.items() if name in table]
    return table.columns.get_loc(found[0]) if found else None


def _arrays(table: pd.DataFrame) -> dict[str, np.ndarray]:
    split = _first_layer(table)
    places = np.flatnonzero(table["dataset"].notna())
    facts = table.iloc[places, :split].to_csv(index=False, float_format="%.9g")
    return {FACTS: np.array(facts), PLACES: places} | {n: _small(v) for n, v in table.iloc[:, split:].items()}


def _small(column: pd.Series) -> np.ndarray:
    """Texts, or whole numbers in the smallest type that holds them."""
    if not pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(str)
    values = column.fillna(ABSENT).to_numpy(int)
    return values.astype(np.result_type(*map(np.min_scalar_type, (values.min(), values.max()))))


def _present(values: np.ndarray) -> np.ndarray:
    """The values of ``_small``, missing ones as NaN."""
    if values.dtype.kind == "U":
        return values
    absent = values == ABSENT
    return np.where(absent, np.nan, values) if absent.any() else values.astype(int)


def _read_csv(source: Path | StringIO) -> pd.DataFrame:
    """Only empty cells are missing values: a case may have the name "NA"."""
    return pd.read_csv(source, dtype=dict.fromkeys(TEXT_COLUMNS, str), keep_default_na=False, na_values=[""])
