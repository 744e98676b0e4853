"""Figures from elsewhere that are shown for orientation, never as the paper's.

The paper's own tables were not at hand. The first author's earlier course report (May 2022: an earlier
network without direct warps, other renders, single runs) prints the following for steps of 40 degrees.
"""

__all__ = ["REPORT_2022", "REPORT_2022_DATA"]

REPORT_2022_DATA = "course report of 2022, earlier network, other renders, 40 degrees"

# (SSIM narrow window, L1 on [-1, 1], abs_rel, rmse, delta1): depth read from the target image, median-scaled
REPORT_2022 = {
    "chair": {
        "Hou et al., the report's own run": (0.906, 0.136, 0.110, 0.197, 0.818),
        "earlier version of this method": (0.880, 0.080, 0.063, 0.113, 0.953),
    },
    "car": {
        "Hou et al., the report's own run": (0.930, 0.109, 0.268, 0.327, 0.496),
        "earlier version of this method": (0.900, 0.064, 0.041, 0.105, 0.950),
    },
}
