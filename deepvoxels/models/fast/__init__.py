"""Fast twins of the plain operations in `models/`: the same signatures and results, as tests prove."""

from torch import nn

from deepvoxels.models.fast.conv import padded_conv
from deepvoxels.models.fast.frustum import occlude
from deepvoxels.models.fast.sampling import lift, project
from deepvoxels.models.networks import ConvUnit, Integration

__all__ = ["accelerate"]


def accelerate(generator: nn.Module) -> None:
    """Put the fast operations in the place of the plain ones: the one switch between them."""
    generator.lift, generator.project, generator.occlude = lift, project, occlude
    for unit in generator.modules():
        if isinstance(unit, ConvUnit | Integration):
            unit.convolve = padded_conv
