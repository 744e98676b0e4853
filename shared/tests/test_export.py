"""What `predict.py` writes is read back by other people's programs."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import trimesh

from shared.files.cameras import read_nerf_transforms
from shared.geometry.camera import intrinsics_matrix, look_at, project, transform_points
from shared.results import DepthMap, Views
from shared.show.export import export_views, load_export

SIZE = (18, 26)
K = intrinsics_matrix(30.0, 31.0, 12.0, 9.5)


def slanted() -> tuple[Views, torch.Tensor]:
    """Two posed views of 18 x 26 px with depth at half the size: a slanted plane and a nearer square."""
    values = (2 + 0.3 * torch.linspace(0, 1, 13)).expand(2, 9, 13).clone()
    values[:, 3:6, 4:8] = 1.0
    images = torch.tensor([[0.2, 0.4, 0.6], [0.3, 0.1, 0.8]])[..., None, None].expand(2, 3, *SIZE).clone()
    images[:, :, 6:12, 8:16] = torch.tensor([1.0, 0.8, 0.0])[:, None, None]
    valid = torch.ones(2, 9, 13, dtype=torch.bool)
    valid[:, 0, 0] = False
    depth = DepthMap(values, "z_depth", "m", "metric", valid, K=intrinsics_matrix(15.0, 15.5, 5.75, 4.5))
    return Views(images, depth), look_at(torch.tensor([[0.0, -3, 1], [1.0, -3, 1]]))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    export_views(folder, *slanted())
    return folder


def test_an_enlarged_map_follows_the_edges_of_the_view() -> None:
    views, _ = slanted()
    full = views.depth[0].upsampled(views.images[0])
    torch.testing.assert_close(full.K, K)
    square = torch.zeros(SIZE, dtype=torch.bool)
    square[6:12, 8:16] = True
    assert (full.values[square] - 1).abs().max() < 1e-3  # nothing of the plane is mixed in
    assert full.values[~square].min() > 1.99
    assert (~full.valid).nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_nerfstudio_and_opencv_find_the_points(exported: Path) -> None:
    """Back-projected as nerfstudio does: OpenGL axes, pixels from the corner, depth PNG times its factor."""
    meta = json.loads((exported / "cameras.json").read_text())
    step, found = meta["depth_unit_scale_factor"], []
    for frame in meta["frames"]:
        code = cv2.imread(str(exported / frame["depth_file_path"]), cv2.IMREAD_UNCHANGED)
        assert code.dtype == np.uint16
        assert code.shape == (frame["h"], frame["w"])
        assert cv2.imread(str(exported / frame["file_path"])).shape[:2] == code.shape
        pfm = str(exported / frame["depth_file_path"]).replace(".png", ".pfm")
        exact = cv2.imread(pfm, cv2.IMREAD_UNCHANGED)
        np.testing.assert_allclose(step * code[code > 0], exact[code > 0], atol=step)
        v, u = np.nonzero(code)
        x = (u + 0.5 - frame["cx"]) / frame["fl_x"]
        y = (v + 0.5 - frame["cy"]) / frame["fl_y"]
        camera = step * code[v, u][:, None] * np.stack([x, -y, -np.ones_like(x)], 1)
        pose = np.array(frame["transform_matrix"])
        found.append(camera @ pose[:3, :3].T + pose[:3, 3])
    points = trimesh.load(exported / "points.ply").vertices
    np.testing.assert_allclose(np.concatenate(found), points, atol=2 * step)
    own = read_nerf_transforms(exported / "cameras.json")
    torch.testing.assert_close(own.frames[1].world_from_cam, slanted()[1][1].double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(own.frames[0].K, K.double(), atol=1e-5, rtol=0)


def test_an_exported_folder_is_loaded_again(exported: Path) -> None:
    views, poses = load_export(exported)
    full = slanted()[0].depth[1].upsampled(slanted()[0].images[1])
    torch.testing.assert_close(
        views.depth[1].points(poses[1]), full.points(slanted()[1][1]), atol=1e-5, rtol=0
    )
    assert (views.images - slanted()[0].images).abs().max() < 0.6 / 255


def test_trimesh_reads_points_with_colours_and_a_mesh_cut_at_edges(exported: Path) -> None:
    _, poses = slanted()
    cloud = trimesh.load(exported / "points.ply")
    assert len(cloud.vertices) == 2 * (18 * 26 - 4)
    assert {tuple(colour[:3]) for colour in np.asarray(cloud.colors).tolist()} == {
        (51, 102, 153), (76, 26, 204), (255, 204, 0)
    }  # fmt: skip
    mesh = trimesh.load(exported / "mesh.ply", process=False)
    to_camera = poses[0, :3, 3].numpy() - mesh.triangles_center
    assert ((mesh.face_normals * to_camera).sum(1) > 0).all()
    assert len(mesh.split(only_watertight=False)) == 2  # the square does not hang on the plane
    stored = mesh.metadata["_ply_raw"]["vertex"]["data"]
    normals = np.stack([stored["nx"], stored["ny"], stored["nz"]], 1).squeeze()
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
    assert ((normals * (poses[0, :3, 3].numpy() - mesh.vertices)).sum(1) > 0).all()


def test_pycolmap_reads_the_model(exported: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    model = pycolmap.Reconstruction(exported / "colmap")
    _, poses = slanted()
    image = next(i for i in model.images.values() if i.name == "view_0001.png")
    point = torch.tensor([0.2, 0.1, 0.3])
    expected, _ = project(transform_points(torch.linalg.inv(poses[1]), point[None]), K)
    seen = model.cameras[image.camera_id].img_from_cam(image.cam_from_world() * point.double().numpy())
    np.testing.assert_allclose(np.asarray(seen) - 0.5, expected[0], atol=1e-4)
    assert model.num_points3D() == 2 * (18 * 26 - 4)


@pytest.mark.parametrize("kind", ["order", "disparity_px"])
def test_a_map_without_a_camera_becomes_a_relief_with_near_in_front(kind: str, tmp_path: Path) -> None:
    values = torch.linspace(-2, 2, SIZE[1]).expand(SIZE)
    export_views(tmp_path, Views(torch.rand(1, 3, *SIZE), DepthMap(values[None], kind, "px", "no scale")))
    assert not (tmp_path / "cameras.json").exists()
    points = trimesh.load(tmp_path / "points.ply").vertices
    assert points[points[:, 0] > 3, 2].max() < points[points[:, 0] < -3, 2].min()  # larger is nearer
    meaning = json.loads((tmp_path / "depth.json").read_text())
    code = cv2.imread(str(tmp_path / "depth_0000.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_allclose(code * meaning["png_step"] + meaning["png_offset"], values, atol=1e-4)


def test_views_without_depth_have_cameras_and_a_video(tmp_path: Path) -> None:
    views, poses = slanted()
    export_views(tmp_path, Views(views.images), poses, K)
    assert {path.name for path in tmp_path.iterdir()} == {
        "view_0000.png", "view_0001.png", "cameras.json", "colmap", "moving_camera.mp4"
    }  # fmt: skip
    assert cv2.VideoCapture(str(tmp_path / "moving_camera.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 2
