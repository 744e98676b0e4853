"""Figures printed in the paper, for tables that show them next to those of a run.

The paper measures PSNR in dB and SSIM on the released renderings (512 x 512, 479 training and 1000 test
views) without saying which SSIM; the authors' next paper used scikit-image's defaults, a uniform 7x7 window.
"""

__all__ = ["ABLATION", "METHOD_NAMES", "PAPER_DATA", "TABLE_1", "row_name"]

PAPER_DATA = "paper's renderings, 512 px"

METHOD_NAMES = {
    "nearest_neighbour": "Nearest neighbour",
    "tatarchenko": "Tatarchenko et al.",
    "worrall": "Worrall et al.",
    "pix2pix": "Pix2Pix",
    "deepvoxels_no_occlusion": "DeepVoxels, no occlusion network",
    "deepvoxels": "DeepVoxels",
}

# (PSNR in dB, SSIM) per scene: table 1 of the paper
TABLE_1 = {
    "nearest_neighbour": {
        "vase": (23.26, 0.92),
        "pedestal": (21.49, 0.87),
        "chair": (20.69, 0.94),
        "cube": (18.32, 0.83),
        "mean": (20.94, 0.89),
    },
    "tatarchenko": {
        "vase": (22.28, 0.91),
        "pedestal": (23.25, 0.89),
        "chair": (20.22, 0.95),
        "cube": (19.12, 0.84),
        "mean": (21.22, 0.90),
    },
    "worrall": {
        "vase": (23.41, 0.92),
        "pedestal": (22.70, 0.89),
        "chair": (19.52, 0.94),
        "cube": (19.23, 0.85),
        "mean": (21.22, 0.90),
    },
    "pix2pix": {
        "vase": (26.36, 0.95),
        "pedestal": (25.41, 0.91),
        "chair": (23.04, 0.96),
        "cube": (19.69, 0.86),
        "mean": (23.63, 0.92),
    },
    "deepvoxels": {
        "vase": (27.99, 0.96),
        "pedestal": (32.35, 0.97),
        "chair": (33.45, 0.99),
        "cube": (28.42, 0.97),
        "mean": (30.55, 0.97),
    },
}

# PSNR in dB with the depth planes collapsed without an occlusion network (section 4 of the paper)
ABLATION = {"cube": 23.26, "pedestal": 30.02}


def row_name(method: str, occlusion: bool) -> str:
    """The key of a configured method in METHOD_NAMES; the ablation is a row of its own."""
    return "deepvoxels_no_occlusion" if method == "deepvoxels" and not occlusion else method
