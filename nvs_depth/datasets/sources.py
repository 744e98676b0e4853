"""The published data sets by layout, and where they are: what `prepare.py fetch` lists and fetches."""

from shared.runs.fetch import Source, github_folder

__all__ = ["SOURCES"]

KITTI = {
    "licence": "CC BY-NC-SA 3.0; cite Geiger et al., IJRR 2013",
    "page": "cvlibs.net/datasets/kitti",
}
READMES = "the READMEs of xuchen-ethz/continuous_view_synthesis and AaltoVision/warped-skipconnection-nvs"
SHAPENET_TERMS = "ShapeNet's terms of use: non-commercial research"

SOURCES = {
    "shapenet": Source(
        title="This paper's renders of ShapeNet chairs and cars: 72 views of each, 512 x 512, with depth",
        licence=SHAPENET_TERMS,
        page="shapenet.org",
        by_hand="register there for ShapeNetCore v2 and render it with yinyunie/depth_renderer (MIT) from 18 "
        "azimuths x 4 elevations; the lists of models and test pairs are in johnMinelli/TwoWaySynth",
        tree="{out}/\n    camera_settings/cam_K/cam_K.txt\n    camera_settings/cam_RT/cam_RT_001.txt ...\n"
        "    {{chair,car}}/<model>/color_001.png ..., depth_001.exr ...\n"
        "    {{chair,car}}/id_train.txt, test_pairs_40.txt",
        then="python -m nvs_depth.prepare check {out}/chair; shapenet_chairs.yaml takes data/shapenet/chair",
    ),
    "shapenet_flat": Source(
        title="The predecessors' renders of chairs and cars: 54 views of each, 256 x 256",
        licence=SHAPENET_TERMS,
        page=READMES,
        by_hand="they link to archives dataset_chair and dataset_car on Google Drive: open them in a browser",
        tree="{out}/\n    images/<model>_<azimuth>_<elevation>.png\n    id_train.txt, eval_chair_40.txt",
        then="python -m nvs_depth.prepare check {out}; shapenet_flat_chairs.yaml takes data/dataset_chair",
    ),
    "kitti_raw": Source(
        title="KITTI's raw drives of the Eigen split: 61 drives with LiDAR (175 GB)",
        **KITTI,
        by_hand="register there and download the synced drives, their calibration and velodyne points; the "
        "lists of frames and test pairs are in johnMinelli/TwoWaySynth; then\n"
        "           python -m nvs_depth.prepare kitti RAW --out data/kitti_prepared",
        tree="{out}/\n    2011_09_26/calib_*.txt\n"
        "    2011_09_26/2011_09_26_drive_0001_sync/{{image_02,image_03,velodyne_points}}/data/\n"
        "    2011_09_26/2011_09_26_drive_0001_sync/oxts/data/",
        then="python -m nvs_depth.prepare check data/kitti_prepared",
    ),
    "kitti_odometry": Source(
        title="KITTI's odometry benchmark: 11 sequences with poses",
        **KITTI,
        by_hand="register there and download the colour or grey images, the calibration and the poses",
        tree="{out}/00/\n    image_2/000000.png ...   (or image_0)\n    calib.txt\n    poses.txt",
        then="python -m nvs_depth.prepare check {out}; odometry_sequence.yaml takes data/kitti_sequence",
    ),
    "kitti_odometry_flat": Source(
        title="The predecessors' 256 px crops of KITTI's odometry sequences",
        licence=KITTI["licence"],
        page=READMES,
        by_hand="they link to an archive dataset_kitti on Google Drive: open it in a browser",
        tree="{out}/\n    images/00_000000.png ...\n    poses.txt, id_train.txt, eval_kitti.txt",
        then="python -m nvs_depth.prepare check {out}; kitti_odometry_flat.yaml takes data/dataset_kitti",
    ),
    "posed": Source(
        title="50 posed photos of a stuffed fox, taken by hand (not in the paper)",
        licence="NVIDIA Source Code License: non-commercial research and evaluation",
        **github_folder("NVlabs/instant-ngp", "abe236ee00cf90cfca6e36e65c00435d5b21f50a", "data/nerf/fox"),
        tree="{out}/\n    transforms.json\n    images/0001.jpg ...",
        then="python -m nvs_depth.train --config posed_images --set data.root={out} --out runs/fox",
    ),
}
