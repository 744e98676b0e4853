"""Multi-view scenes from a COLMAP model: any reference image with its neighbours and the points it sees.

<scene>/images/*                        photos, also in sub-folders
<scene>/sparse[/0]/{cameras,images,points3D}.{bin,txt}
<scene>/depth/<image stem>.pfm          optional true z-depth of that image in scene units, inf = unknown
"""

import contextlib
import os
from collections import Counter
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from diffdiffdepth.scene import MultiViewScene, SparsePoints
from shared.errors import DataError
from shared.files.colmap import ColmapImage, ColmapModel, find_colmap_model, read_colmap_model
from shared.files.images import PhotoSurvey, few_names, read_image, survey_photos, undistort_image
from shared.files.maps import read_pfm
from shared.geometry.camera import invert_pose, project, relative_pose, resize_intrinsics, transform_points

__all__ = ["ColmapScenes"]

BEST_ANGLE_DEG = 5.0  # between the rays of two views to a point, as in MVSNet (Yao et al. 2018)
MAX_ERROR_PX = 2.0  # points with a larger reprojection error are left out
SPREAD_DEG = (1.0, 10.0)  # of the preference, below and above that angle


class ColmapScenes:
    """One `MultiViewScene` per posed image of a COLMAP scene, made when asked for.

        scenes = ColmapScenes("my_scene")
        scene = scenes["IMG_0042.jpg"]     # by name or number
        for scene in scenes: ...           # depth for all images: each in turn is the centre

    `neighbours`: how many other views each scene gets, best first (shared points seen at useful angles).
    `max_side`: images are reduced to at most this many pixels along their longer side. Neighbours of another
    size or shape than the centre, such as a photo held upright, are cut and scaled to it (see `_fitted`).
    `notes` says what was left out or assumed; each scene has them too.
    """

    def __init__(self, folder: str | os.PathLike, neighbours: int = 8, max_side: int | None = None):
        self.folder = Path(folder)
        model_dir = find_colmap_model(self.folder)
        if model_dir is None:
            reason = "holds no COLMAP model (cameras, images, points3D in sparse/0, sparse or here)"
            remedy = "Make one from photos with: python -m diffdiffdepth.prepare colmap PHOTOS --out DIR"
            raise DataError(self.folder, reason, remedy)
        self.model: ColmapModel = read_colmap_model(model_dir)
        self.neighbours, self.max_side = neighbours, max_side
        posed = sorted(self.model.images.values(), key=lambda image: image.name)
        self.image_dir = self._find_image_dir([image.name for image in posed])
        self._images = [image for image in posed if self._path(image).is_file()]
        self.names = [image.name for image in self._images]
        self.notes = (*self.model.notes, *self._notes([p for p in map(self._path, posed) if not p.is_file()]))
        if len(self.names) < 2:
            raise DataError(model_dir, "holds one image only", "Depth needs at least two posed views")
        self._row_of_point = {point_id: row for row, point_id in enumerate(self.model.points.ids.tolist())}
        self._seen = [self._visible_rows(image) for image in self._images]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, which: int | str) -> MultiViewScene:
        """The scene with the given image (number in order of names, or name) as its centre."""
        index = self.index(which)
        others = self.choose_neighbours(index)
        centre, centre_K = self._photo(index)
        size = tuple(centre.shape[-2:])
        photos = [_fitted(*self._photo(other), size) for other in others]
        pose = self._images[index].world_from_cam
        poses = [relative_pose(self._images[other].world_from_cam, pose) for other in others]
        truth, valid = self._truth(index, size)
        return MultiViewScene(
            centre=centre,
            views=torch.stack([image for image, _ in photos]),
            centre_K=centre_K.float(),
            view_K=torch.stack([K for _, K in photos]).float(),
            view_from_centre=torch.stack(poses).float(),
            points=self._points(index, centre_K, size),
            name=Path(self.names[index]).with_suffix("").as_posix(),
            truth=truth,
            valid=valid,
            world_from_centre=pose,
            notes=self.notes,
        )

    def choose_neighbours(self, index: int) -> list[int]:
        """Numbers of the best other images, best first: points in common, weighted by the angle between rays.

        The weight of Yao et al. (MVSNet, supplement), highest at 5 degrees. Images without common points come
        last, by distance.
        """
        xyz = self.model.points.xyz
        here = self._images[index].world_from_cam[:3, 3]
        scores = []
        for other, image in enumerate(self._images):
            if other == index:
                continue
            common = sorted(self._seen[index] & self._seen[other])
            there = image.world_from_cam[:3, 3]
            cosine = F.cosine_similarity(xyz[common] - here, xyz[common] - there, dim=1)
            off = torch.rad2deg(torch.acos(cosine.clamp(-1, 1))) - BEST_ANGLE_DEG
            spread = torch.where(off <= 0, SPREAD_DEG[0], SPREAD_DEG[1])
            score = torch.exp(-off.square() / (2 * spread.square())).sum().item()
            scores.append((-score, float((here - there).norm()), other))
        return [other for _, _, other in sorted(scores)[: self.neighbours]]

    def index(self, which: int | str) -> int:
        """Number of an image given by number or name; DataError for a name that is not there."""
        if isinstance(which, int):
            if not -len(self) <= which < len(self):
                raise IndexError(f"{self.folder}: image {which} of {len(self)}")
            return which % len(self)
        if which not in self.names:
            reason = f"the model has no pose for {which!r}"
            raise DataError(self.folder, reason, "It knows: " + ", ".join(self.names))
        return self.names.index(which)

    def photo(self, which: int | str) -> Tensor:
        """An image [3, H, W] without distortion, at its own size."""
        return self._photo(self.index(which), whole=True)[0]

    def _find_image_dir(self, names: list[str]) -> Path:
        for place in (self.folder / "images", self.folder.parent / "images", self.folder):
            if any((place / name).is_file() for name in names):
                return place
        reason = f"the images of the model, such as {names[0]}, are not in {self.folder / 'images'}"
        raise DataError(self.folder, reason, "Copy the images that the model was made from")

    def _path(self, image: ColmapImage) -> Path:
        return self.image_dir / image.name

    def _size(self, image: ColmapImage) -> tuple[int, int]:
        camera = self.model.cameras[image.camera_id]
        return camera.height, camera.width

    def _survey(self, images: list[ColmapImage]) -> PhotoSurvey:
        """Whether EXIF turns these photos, by their cameras."""
        paths, sizes = map(self._path, images), map(self._size, images)
        return survey_photos(list(paths), list(sizes), background="white")

    def _notes(self, missing: list[Path]) -> list[str]:
        notes = [f"{len(missing)} posed images not found, left out: {few_names(missing)}"] if missing else []
        usual = Counter(map(self._size, self._images)).most_common(1)[0][0]
        odd = [self._path(image) for image in self._images if self._size(image) != usual]
        if odd:
            text = f"photos of another size than the others ({few_names(odd)}): as neighbours of these"
            notes.append(f"{len(odd)} {text}, their middle is used, scaled")
        with contextlib.suppress(DataError):  # of a damaged photo, which is named when it is asked for
            notes += self._survey(self._images).notes
        return notes

    def _visible_rows(self, image: ColmapImage) -> set[int]:
        """Rows in the model's points of those that the image observes, well enough."""
        errors = self.model.points.error_px
        rows = {self._row_of_point[i] for i in image.point_ids.tolist() if i in self._row_of_point}
        return {row for row in rows if errors[row] <= MAX_ERROR_PX}

    def _photo(self, index: int, whole: bool = False) -> tuple[Tensor, Tensor]:
        """The image [3, H, W] without distortion, at the size asked for or `whole`, and its K (float64)."""
        record = self._images[index]
        camera = self.model.cameras[record.camera_id]
        path, (turn,) = self._path(record), self._survey([record]).orientations
        image = read_image(path, background=(1, 1, 1), orientation=turn)
        height, width = image.shape[-2:]
        if (height, width) != (camera.height, camera.width):
            reason = f"has {width} x {height} pixels, its camera {camera.width} x {camera.height}"
            raise DataError(path, reason, "Use the images that the model was made from")
        K, distortion = camera.intrinsics(), camera.distortion()
        if bool(distortion.any()):
            image, _ = undistort_image(image, K, distortion)
        scale = (self.max_side or max(height, width)) / max(height, width)
        if scale < 1 and not whole:
            size = tuple(max(1, round(side * scale)) for side in (height, width))
            K = resize_intrinsics(K, (height, width), size)
            image = F.interpolate(image[None], size, mode="bilinear", antialias=True, align_corners=False)[0]
        return image.clamp(0, 1), K

    def _points(self, index: int, K: Tensor, size: tuple[int, int]) -> SparsePoints:
        """The points that the image observes, reprojected, with their z-depth as labels."""
        rows = torch.tensor(sorted(self._seen[index]), dtype=torch.long)
        points = self.model.points
        name = self.names[index]
        if not len(rows):
            reason = f"the model has no point that {name} sees with an error up to {MAX_ERROR_PX:g} px"
            raise DataError(self.folder, reason, "Take another reference image")
        cam_from_world = invert_pose(self._images[index].world_from_cam)
        points_cam = transform_points(cam_from_world, points.xyz[rows])
        pixels, depth = project(points_cam, K)
        inside = (depth > 0) & SparsePoints(pixels, depth, "depth").inside(size)
        if not inside.any():
            reason = f"all {len(rows)} points of {name} are outside the image or behind the camera"
            remedy = "The poses and the intrinsics do not belong together: check both"
            raise DataError(self.folder, reason, remedy)
        return SparsePoints(pixels[inside].float(), depth[inside].float(), "depth")

    def _truth(self, index: int, size: tuple[int, int]) -> tuple[Tensor | None, Tensor | None]:
        """True depth and its validity, if the scene has it; reduced by taking nearest pixels."""
        path = self.folder / "depth" / Path(self.names[index]).with_suffix(".pfm")
        if not path.exists():
            return None, None
        depth = read_pfm(path)
        camera = self.model.cameras[self._images[index].camera_id]
        if tuple(depth.shape) != (camera.height, camera.width):
            raise DataError(path, f"has the size {tuple(depth.shape)}", "It must be as large as the image")
        if tuple(depth.shape) != size:
            depth = F.interpolate(depth[None, None], size=size, mode="nearest-exact")[0, 0]
        valid = depth.isfinite() & (depth > 0)
        return torch.where(valid, depth, 0.0), valid


def _fitted(image: Tensor, K: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The middle of an image [3, H, W] that has the shape of `size`, scaled to it, and its K (float64)."""
    height, width = image.shape[-2:]
    if (height, width) == size:
        return image, K
    scale = max(size[0] / height, size[1] / width)
    rows, columns = min(height, round(size[0] / scale)), min(width, round(size[1] / scale))
    top, left = (height - rows) // 2, (width - columns) // 2
    part = image[None, :, top : top + rows, left : left + columns]
    K = K - K.new_tensor([[0, 0, left], [0, 0, top], [0, 0, 0]])
    scaled = F.interpolate(part, size, mode="bilinear", antialias=True, align_corners=False)[0]
    return scaled.clamp(0, 1), resize_intrinsics(K, (rows, columns), size)
