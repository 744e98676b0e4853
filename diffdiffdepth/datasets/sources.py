"""Published light fields, and where they are: what `prepare.py fetch` lists and fetches."""

from shared.runs.fetch import Source, github_folder

__all__ = ["SOURCES"]

HCI_LICENCE = "CC BY-NC-SA 4.0; cite Honauer et al., ACCV 2016"
HCI_TREE = """    input_Cam000.png ... input_Cam080.png
    gt_disp_lowres.pfm
    parameters.cfg   (for depth in metres)"""

SOURCES = {
    "antinous": Source(
        title="Antinous, one light field of the HCI benchmark's additional scenes: 9 x 9 views, disparity",
        licence=HCI_LICENCE,
        **github_folder(
            "chshin10/epinet",
            "b60cf8edb563d748be2649a49882d72adffcefbd",
            "hci_dataset/additional/antinous",
        ),
        tree=f"{{out}}/\n{HCI_TREE}",
        then="python -m diffdiffdepth.predict {out} --out my_depth",
    ),
    "hci": Source(
        title="The paper's light fields: boxes, cotton, dino, sideboard of the HCI 4D light field benchmark",
        licence=HCI_LICENCE,
        page="lightfield-analysis.uni-konstanz.de",
        by_hand="its download page hands out the archive of the training scenes, which have truth",
        tree=f"{{out}}/{{{{boxes,cotton,dino,sideboard}}}}/\n{HCI_TREE}",
        then="python -m diffdiffdepth.prepare check {out}; configs/hci.yaml takes data/hci/dino",
    ),
    "stanford": Source(
        title="Light fields of the new Stanford archive: 17 x 17 views, no truth",
        licence="see its page",
        page="lightfield.stanford.edu",
        by_hand="take the archives named `rectified and cropped` and unpack each into a folder of its own",
        tree="{out}/lego_knights/\n    out_00_00_<Y>_<X>.png ... out_16_16_<Y>_<X>.png",
        then="python -m diffdiffdepth.prepare check {out}; configs/stanford.yaml takes {out}/lego_knights",
    ),
    "living_room": Source(
        title="Living Room and Piano, the authors' own renderings",
        licence="unknown",
        page="visual.cs.brown.edu/difffdiffdepth, as printed in the paper",
        by_hand="we have not found the files in public; ask the authors",
        tree="{out}/<scene>/\n    images/*.png\n    sparse/0/cameras.txt, images.txt, points3D.txt",
        then="python -m diffdiffdepth.prepare check {out}",
    ),
}
