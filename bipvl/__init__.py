"""BiPVL-Seg: bidirectional progressive vision-language fusion for 3D medical image segmentation.

>>> from bipvl import BiPVLSeg, Run, Segmenter  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bipvl.common.errors import BipvlError
from bipvl.common.extras import missing_extra_explained

if TYPE_CHECKING:
    from bipvl.data.spec import DatasetSpec as DatasetSpec
    from bipvl.data.spec import load_spec as load_spec
    from bipvl.deploy.exported_run import open_export as open_export
    from bipvl.deploy.segment import segment as segment
    from bipvl.engine.predict import Segmenter as Segmenter
    from bipvl.engine.run import Run as Run
    from bipvl.model.bifusion import BiFusion as BiFusion
    from bipvl.model.bipvlseg import BiPVLSeg as BiPVLSeg
    from bipvl.model.losses import Objective as Objective

# Imported on first use: torch and MONAI take many seconds to import, which would slow down `bipvl --help`.
_HOMES = {
    "BiFusion": "bipvl.model.bifusion",
    "BiPVLSeg": "bipvl.model.bipvlseg",
    "DatasetSpec": "bipvl.data.spec",
    "Objective": "bipvl.model.losses",
    "Run": "bipvl.engine.run",
    "Segmenter": "bipvl.engine.predict",
    "load_spec": "bipvl.data.spec",
    "open_export": "bipvl.deploy.exported_run",
    "segment": "bipvl.deploy.segment",
}
__all__ = ["BipvlError", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bipvl' has no attribute '{name}'")
    with missing_extra_explained():
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
