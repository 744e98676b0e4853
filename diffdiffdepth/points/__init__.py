"""Initial points: EPI edge lines of light fields; storage; dense maps without optimisation."""

from diffdiffdepth.points.epi import EpiOptions, epi_points
from diffdiffdepth.points.fill import nearest_fill, weighted_median
from diffdiffdepth.points.store import load_points, perturb_points, save_points

__all__ = [
    "EpiOptions",
    "epi_points",
    "load_points",
    "nearest_fill",
    "perturb_points",
    "save_points",
    "weighted_median",
]
