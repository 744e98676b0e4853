"""Initial points: EPI edge lines of light fields; filling between points; storage."""

from diffdiffdepth.points.epi import EpiOptions, epi_points

__all__ = ["EpiOptions", "epi_points"]
