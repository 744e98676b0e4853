"""Figures printed in the paper (its tables 1 and 2), to be printed next to those of a run.

The paper averages over all pixels of all images, depth clipped to the data set's limits; it does not
measure the all-in-focus image on these sets. On NYUv2 the first five rows of table 2 are quoted from other
protocols.
"""

__all__ = ["COLUMNS", "TABLE_1", "TABLE_2"]

COLUMNS = ("delta1", "delta2", "delta3", "rmse", "abs_rel")

# Re-rendered DefocusNet data, depth to 3 m
TABLE_1 = {
    "DefocusNet (supervised)": (0.912, 0.967, 0.983, 0.194, 0.090),
    "DFF-FV (supervised)": (0.883, 0.953, 0.980, 0.231, 0.107),
    "DFF-DFV (supervised)": (0.921, 0.977, 0.990, 0.219, 0.104),
    "The paper (self-supervised)": (0.746, 0.883, 0.938, 0.351, 0.177),
}

# NYUv2 with synthetic defocus, depth to 10 m
TABLE_2 = {
    "Moeller et al. (analytical)": (0.670, 0.778, 0.912, 0.985, 0.263),
    "Suwajanakorn et al. (analytical)": (0.688, 0.802, 0.917, 0.950, 0.250),
    "Gur and Wolf (all-in-focus known)": (0.720, 0.887, 0.951, 0.649, 0.184),
    "Defocus-Net (all-in-focus known)": (0.732, 0.887, 0.951, 0.623, 0.176),
    "Focus-Net (all-in-focus known)": (0.748, 0.892, 0.949, 0.611, 0.172),
    "DFF-FV (supervised)": (0.956, 0.979, 0.988, 0.285, 0.470),
    "DFF-DFV (supervised)": (0.967, 0.980, 0.990, 0.232, 0.445),
    "The paper (self-supervised)": (0.950, 0.979, 0.987, 0.325, 0.170),
}
