"""Differentiable diffusion for dense depth (CVPR 2021): a light field or posed photos go in, depth comes out.

    from diffdiffdepth import DiffusedDepth
    depth = DiffusedDepth("hci").fit("my_light_field")            # DepthMap: values [H, W], kind, unit, valid
    depth = DiffusedDepth.load("runs/diffdiffdepth-quick").depth  # of a finished run, without its data
"""

from typing import Any

__all__ = ["DiffusedDepth", "LightField", "MultiViewScene", "SparsePoints"]


def __getattr__(name: str) -> Any:
    if name == "DiffusedDepth":
        from diffdiffdepth.api import DiffusedDepth

        return DiffusedDepth
    if name in __all__:
        from diffdiffdepth import scene

        return getattr(scene, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
