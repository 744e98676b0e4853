"""New views and depth from one picture (Minelli, Poggi, Salti, IROS 2023), by a trained network:

from nvs_depth import ViewSynthesizer
synthesizer = ViewSynthesizer.load("runs/nvs_depth-quick")        # a run folder or a checkpoint
views = synthesizer.views("chair.png", None, target_from_source)  # Views: images [N, 3, S, S], depth
"""

from typing import Any

__all__ = ["ViewSynthesizer"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # on first use, so that `import nvs_depth` does not import torch
        from nvs_depth.api import ViewSynthesizer

        return ViewSynthesizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
