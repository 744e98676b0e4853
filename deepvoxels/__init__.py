"""DeepVoxels (CVPR 2019): a scene learned from posed photographs, rendered from anywhere, with depth.

    from deepvoxels import DeepVoxels
    scene = DeepVoxels.load("runs/deepvoxels-quick")
    views = scene.render(world_from_cam)

`load` takes a run folder, a checkpoint or the name of shipped weights; `views` are images [N, 3, S, S] in
[0, 1] and their depth.
"""

from typing import Any

__all__ = ["DeepVoxels"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from deepvoxels import api  # here, so that the package itself is imported without PyTorch

        return getattr(api, name)
    raise AttributeError(f"module 'deepvoxels' has no attribute {name!r}")
