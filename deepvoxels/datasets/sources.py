"""The published scenes, and where they are: what `prepare.py fetch` lists and fetches."""

from shared.runs.fetch import Source, github_folder

__all__ = ["SOURCES"]

SOURCES = {
    "scenes": Source(
        title="The paper's four scenes: 479 training and 1000 test views each, 512 x 512, with depth",
        licence="none is stated for the data; the code next to them is under the MIT licence",
        page="the README of github.com/vsitzmann/deepvoxels",
        by_hand="open drive.google.com/drive/folders/1ScsRlnzy9Bd_n-xw83SP-0t548v63mPH in a browser (it "
        "hands no archive to a program) and unpack what is in it",
        tree="{out}/{{train,validation,test}}/{{armchair,cube,greek,vase}}/\n"
        "    intrinsics.txt\n    rgb/000000.png ...\n    pose/000000.txt ...\n"
        "    depth/000000.png ...   (for depth to be measured)",
        then="python -m deepvoxels.prepare check {out}; configs/official.yaml takes data/deepvoxels_official",
    ),
    "fox": Source(
        title="50 posed photos of a stuffed fox, taken by hand (not in the paper)",
        licence="NVIDIA Source Code License: non-commercial research and evaluation",
        **github_folder("NVlabs/instant-ngp", "abe236ee00cf90cfca6e36e65c00435d5b21f50a", "data/nerf/fox"),
        tree="{out}/\n    transforms.json\n    images/0001.jpg ...",
        then="python -m deepvoxels.train --config photos_cpu --set data.root={out} --out runs/fox",
    ),
}
