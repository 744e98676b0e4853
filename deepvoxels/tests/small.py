"""A generator small enough to be saved and loaded within milliseconds."""

SMALL = {
    "image_side": 32,
    "feature_side": 8,
    "grid_side": 8,
    "grid_features": 4,
    "depth_planes": 16,
    "nf0": 4,
}  # fields of GeneratorOptions
