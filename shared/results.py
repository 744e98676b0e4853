"""What every method returns: depth that keeps its meaning (`DepthMap`), and new views with it (`Views`)."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from shared.files.disk import read_json, reading, write_json
from shared.files.images import read_image, write_image
from shared.files.maps import (
    read_depth_png,
    read_exr,
    read_npy,
    read_pfm,
    write_depth_png,
    write_exr,
    write_npy,
    write_pfm,
)
from shared.geometry import check_shape
from shared.geometry.camera import depth_from_ray_distance, pixel_grid, resize_intrinsics, unproject

__all__ = ["DepthKind", "DepthMap", "Views"]

DepthKind = Literal["z_depth", "ray_distance", "inv_depth", "disparity_px", "order", "place"]
FLOAT_FILES = {".pfm": (read_pfm, write_pfm), ".npy": (read_npy, write_npy), ".exr": (read_exr, write_exr)}
LARGEST_PNG_CODE = 65535  # of 16 bits; 0 is kept for invalid pixels
STEEPEST_DEG = 80.0  # between a triangle's normal and the line of sight
SPREAD_PX, SPREAD_COLOUR = 0.7, 0.1  # of the weights of `upsampled`: pixels of the small map, RGB in [0, 1]
PNG_KEYS = ("png_step", "png_offset")  # in the record of a map saved as PNG


@dataclass(frozen=True, eq=False)
class DepthMap:
    """Depth of one view [H, W] or of several [N, H, W] that does not lose unit, scale status and mask.

    kind: "z_depth" along the optical axis, "ray_distance" from the camera's centre, "inv_depth" = 1 / z,
    "disparity_px" in pixels (larger is nearer), "order": a place in a focal stack (larger is nearer),
    "place": the same where it is not known which end of the stack is near.
    unit: "m", "scene units", "px", ... scale: what the unit rests on, in words ("metric, from the lens").
    valid: bool, same shape; None: every value is. invalid: what an invalid pixel is, in words.
    K: intrinsics [3, 3] or [N, 3, 3] at the map's own size, where the camera is known.
    facts: what else a reader of the numbers should know; saved with them.

        >>> depth = DepthMap(torch.full((4, 6), 2.0), "z_depth", "m", "metric")
        >>> depth.values.shape, bool(depth.valid.all()), depth.near_is_large
        (torch.Size([4, 6]), True, False)
    """

    values: Tensor
    kind: DepthKind
    unit: str
    scale: str
    valid: Tensor | None = None
    invalid: str = "none marked: every pixel has a value"
    K: Tensor | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.values.ndim not in (2, 3) or not self.values.is_floating_point():
            values = f"{self.values.dtype} {list(self.values.shape)}"
            raise ValueError(f"values must be float [H, W] or [N, H, W], got {values}")
        if self.kind not in get_args(DepthKind):
            raise ValueError(f"kind is one of {', '.join(get_args(DepthKind))}, not {self.kind!r}")
        valid = torch.ones_like(self.values, dtype=torch.bool) if self.valid is None else self.valid
        if valid.dtype != torch.bool or valid.shape != self.values.shape:
            wanted = f"bool {list(self.values.shape)}"
            raise ValueError(f"valid must be {wanted}, got {valid.dtype} {list(valid.shape)}")
        object.__setattr__(self, "valid", valid)

    def __len__(self) -> int:
        """Number of views of a map [N, H, W]."""
        if self.values.ndim == 2:
            raise TypeError("this is the depth of one view, not of several")
        return len(self.values)

    def __getitem__(self, index: int) -> "DepthMap":
        """The map of one view of several."""
        if self.values.ndim == 2:
            raise TypeError("this is the depth of one view, not of several")
        K = self.K[index] if self.K is not None and self.K.ndim == 3 else self.K
        return replace(self, values=self.values[index], valid=self.valid[index], K=K)

    def __iter__(self) -> Iterator["DepthMap"]:
        return (self[index] for index in range(len(self)))

    @property
    def near_is_large(self) -> bool:
        """Whether larger values are nearer."""
        return self.kind in ("inv_depth", "disparity_px", "order")

    @property
    def meaning(self) -> dict[str, Any]:
        """Kind, unit, scale status and the rest in plain values, as in the .json next to a saved map."""
        record = {"kind": self.kind, "unit": self.unit, "scale": self.scale, "invalid": self.invalid}
        record["nearer is"] = "larger" if self.near_is_large else "smaller"
        if self.kind == "place":
            record["nearer is"] = "not known"
        record["valid_share"] = self.valid.float().mean().item()
        if self.K is not None:
            record["K"] = self.K.tolist()
            record["pixel_origin"] = "(0, 0) is the centre of the top-left pixel"
        return record | dict(self.facts)

    def to(self, device: torch.device | str) -> "DepthMap":
        K = None if self.K is None else self.K.to(device)
        return replace(self, values=self.values.to(device), valid=self.valid.to(device), K=K)

    def z_depth(self) -> Tensor:
        """The values as z-depth; ValueError where kind or camera do not allow it (disparity, order)."""
        if self.kind == "z_depth":
            return self.values
        if self.kind == "inv_depth":
            return 1 / self.values
        if self.kind == "ray_distance" and self.K is not None:
            return depth_from_ray_distance(self.values, self.K.to(self.values))
        needs = "its K" if self.kind == "ray_distance" else "a camera that this map does not have"
        raise ValueError(f"{self.kind} becomes z-depth only with {needs}")

    def points(self, world_from_cam: Tensor | None = None) -> Tensor:
        """Valid pixels as points [n, 3], in camera axes or in those of the world if the pose [4, 4] is given.

        Row by row, so that `image.permute(1, 2, 0)[depth.valid]` are their colours. For one view with a K;
        ValueError otherwise.
        """
        if self.values.ndim != 2 or self.K is None:
            raise ValueError("points need the depth of one view and its K")
        pixels = pixel_grid(*self.values.shape, self.values.device, self.values.dtype)
        points_cam = unproject(pixels, self.z_depth(), self.K.to(self.values))[self.valid]
        if world_from_cam is None:
            return points_cam
        pose = world_from_cam.to(points_cam)
        return points_cam @ pose[:3, :3].T + pose[:3, 3]

    def surface(self, world_from_cam: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Points [n, 3] as by `points`, their unit normals [n, 3] towards the camera, and triangles [m, 3].

        The triangles join neighbouring pixels, and are cut where they would run along the line of sight, as
        across the edge of an object (more than `STEEPEST_DEG` from facing the camera).
        """
        points_cam, (height, width) = self.points(), self.values.shape
        place = torch.full((height, width), -1, device=self.values.device)
        place[self.valid] = torch.arange(len(points_cam), device=place.device)
        a, b, c, d = place[:-1, :-1], place[:-1, 1:], place[1:, :-1], place[1:, 1:]
        faces = torch.stack([torch.stack([a, c, b], -1), torch.stack([b, c, d], -1)]).reshape(-1, 3)
        corners = points_cam[faces[(faces >= 0).all(1)]]
        faces = faces[(faces >= 0).all(1)]
        across = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        sight = -torch.nn.functional.normalize(corners.mean(1), dim=1)
        facing = torch.linalg.vecdot(torch.nn.functional.normalize(across, dim=1), sight)
        kept = facing > math.cos(math.radians(STEEPEST_DEG))
        faces, across = faces[kept], across[kept]
        normals = -1e-12 * points_cam  # a point without a triangle looks back at the camera
        for corner in faces.unbind(1):
            normals = normals.index_add(0, corner, across)
        normals = torch.nn.functional.normalize(normals, dim=1, eps=1e-30)
        if world_from_cam is None:
            return points_cam, normals, faces
        return self.points(world_from_cam), normals @ world_from_cam.to(normals)[:3, :3].T, faces

    def upsampled(self, image: Tensor) -> "DepthMap":
        """This map [h, w] at the size of its image [3, H, W], its edges where those of the image are.

        Every value is a mean of 5 x 5 values of this map, weighted by distance and likeness of colour (joint
        bilateral upsampling, Kopf et al., SIGGRAPH 2007). A pixel is valid where the nearest of this map is.
        """
        check_shape(image, "3 H W", "image")
        small, size = tuple(self.values.shape), tuple(image.shape[-2:])
        if small == size:
            return self
        guide = torch.nn.functional.interpolate(image[None], size=small, mode="area")[0]
        held = torch.where(self.valid, self.values, 0.0)
        at = [(torch.arange(n).to(image) + 0.5) * m / n - 0.5 for m, n in zip(small, size, strict=True)]
        near = [p.round().long().clamp(0, m - 1) for p, m in zip(at, small, strict=True)]
        total, weights = image.new_zeros(size), image.new_zeros(size)
        for down, across in itertools.product(range(-2, 3), repeat=2):
            rows, columns = (near[0] + down).clamp(0, small[0] - 1), (near[1] + across).clamp(0, small[1] - 1)
            distance = (rows - at[0]).square()[:, None] + (columns - at[1]).square()
            colour = (guide[:, rows[:, None], columns] - image).square().sum(0)
            weight = torch.exp(-distance / (2 * SPREAD_PX**2) - colour / (2 * SPREAD_COLOUR**2))
            weight = weight * self.valid[rows[:, None], columns]
            total += weight * held[rows[:, None], columns]
            weights += weight
        nearest = tuple(index for index in (near[0][:, None], near[1]))
        values = torch.where(weights > 1e-12, total / weights.clamp(min=1e-12), held[nearest])
        K = None if self.K is None else resize_intrinsics(self.K, small, size)
        facts = {**self.facts, "native_size": list(small)}
        return replace(self, values=values, valid=self.valid[nearest], K=K, facts=facts)

    def save(self, path: str | Path) -> list[Path]:
        """Write one view's map and what it means; returns the files.

        The suffix decides: .pfm, .npy and .exr keep every value; .png has 16 bits, value = offset +
        number * step, number 0 where invalid. Step and offset, which is 0 unless values are negative, are in
        the record.
        Next to it NAME.json has kind, unit, scale and K; NAME_valid.png the mask, where a pixel is invalid.
        Raises ValueError for several views or another suffix, DataError when a file cannot be written.
        """
        path, record = Path(path), self.meaning
        if self.values.ndim != 2:
            raise ValueError("save writes one view: take depth[i], or save the Views")
        values, valid = self.values.detach().cpu().float(), self.valid.cpu()
        if path.suffix == ".png":
            low, high = (f(values[valid]).item() if valid.any() else 1.0 for f in (torch.min, torch.max))
            step = max(high - min(low, 0.0), 1e-12) / (LARGEST_PNG_CODE - 1)
            record |= {"png_step": step, "png_offset": low - step if low < 0 else 0.0}
            write_depth_png(path, values - record["png_offset"], valid, unit_m=step)
        elif path.suffix in FLOAT_FILES:
            FLOAT_FILES[path.suffix][1](path, values)
        else:
            raise ValueError(f"a depth map is saved as .pfm, .png, .npy or .exr, not {path.suffix!r}")
        written = [path, path.with_suffix(".json")]
        write_json(written[1], record)
        mask = path.with_name(f"{path.stem}_valid.png")
        if valid.all():
            mask.unlink(missing_ok=True)  # of an older map
            return written
        write_image(mask, valid[None].float())
        return [*written, mask]

    @classmethod
    def load(cls, path: str | Path) -> "DepthMap":
        """Read a map that `save` wrote, or `predict.py`, which has one depth.json for all maps of a folder.

        DataError for damaged files, and without the .json.
        """
        path = Path(path)
        meaning, common = path.with_suffix(".json"), path.with_name("depth.json")
        meaning = common if common.exists() and not meaning.exists() else meaning
        record, remedy = read_json(meaning), "Save the map again with DepthMap.save"
        with reading(meaning, "does not say what a depth map means", remedy):
            head = {name: record.pop(name) for name in ("kind", "unit", "scale", "invalid")}
            step, offset = (record.pop(key) if path.suffix == ".png" else None for key in PNG_KEYS)
            K = torch.tensor(record.pop("K")) if "K" in record else None
        if step is not None:
            values, valid = read_depth_png(path, unit_m=step)
            values = values + offset
        elif path.suffix in FLOAT_FILES:
            values, valid = torch.as_tensor(FLOAT_FILES[path.suffix][0](path)), None
        else:
            raise ValueError(f"a depth map is read from .pfm, .png, .npy or .exr, not {path.suffix!r}")
        mask = path.with_name(f"{path.stem}_valid.png")
        if mask.exists():
            valid = read_image(mask)[0] > 0.5
        for derived in ("nearer is", "valid_share", "pixel_origin"):
            record.pop(derived, None)
        with reading(path, "is not the map that its .json describes", remedy):
            return cls(values, valid=valid, K=K, facts=record, **head)


@dataclass(frozen=True, eq=False)
class Views:
    """New views: images [N, 3, H, W] in [0, 1], and their depth [N, h, w] where the method has one."""

    images: Tensor
    depth: DepthMap | None = None

    def __post_init__(self) -> None:
        check_shape(self.images, "N 3 H W", "images")
        if self.depth is not None and len(self.depth) != len(self.images):
            raise ValueError(f"{len(self.images)} views cannot have {len(self.depth)} depth maps")

    @classmethod
    def of_one(cls, image: Tensor, depth: DepthMap) -> "Views":
        """A single view [3, H, W] with its map [h, w]."""
        return cls(image[None], replace(depth, values=depth.values[None], valid=depth.valid[None]))

    def __len__(self) -> int:
        return len(self.images)

    def save(self, folder: str | Path) -> None:
        """Write view_NNNN.png; with depth also depth_NNNN.pfm and depth.json, which says what it means.

        Where some depth of a view is invalid, depth_NNNN_valid.png is the mask.
        """
        folder = Path(folder)
        for index, image in enumerate(self.images):
            write_image(folder / f"view_{index:04d}.png", image)
            if self.depth is not None:
                write_pfm(folder / f"depth_{index:04d}.pfm", self.depth.values[index].float())
            mask = folder / f"depth_{index:04d}_valid.png"
            mask.unlink(missing_ok=True)  # of earlier views
            if self.depth is not None and not self.depth.valid[index].all():
                write_image(mask, self.depth.valid[index][None].float())
        if self.depth is not None:
            write_json(folder / "depth.json", self.depth.meaning)
