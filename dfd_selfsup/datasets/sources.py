"""The published focal stacks, and where they are: what `prepare.py fetch` lists and fetches."""

from shared.runs.fetch import Source, github_folder

__all__ = ["SOURCES"]

SOURCES = {
    "nyuv2": Source(
        title="NYU Depth V2, of which the paper's stacks are blurred: 1449 labelled frames (2.8 GB)",
        licence="research use; cite Silberman et al., ECCV 2012",
        page="cs.nyu.edu/~silberman/datasets",
        by_hand="download nyu_depth_v2_labeled.mat and splits.mat from that page, then\n"
        "           python -m dfd_selfsup.prepare nyuv2 nyu_depth_v2_labeled.mat splits.mat --out data/nyuv2",
        tree="{out}/\n    {{train,test}}_fs5/0001_0000.png ... 0001_0004.png ...   (from that command)\n"
        "    {{train,test}}_rgb/0001.png ...\n    {{train,test}}_depth/0001.pfm ...",
        then="python -m dfd_selfsup.prepare check {out} --kind nyuv2; configs/nyuv2.yaml takes data/nyuv2",
    ),
    "nyuv2_frame": Source(
        title="One frame of NYU Depth V2: a picture, and its depth in units of 0.1 mm",
        licence="research use; cite Silberman et al., ECCV 2012 (the repository's code: MIT)",
        **github_folder("hollyjackson/dfd", "ce817794f7a86de5e39863cace12b7189f613e15", "data/example"),
        tree="{out}/\n    the picture, and its depth as 16-bit PNG",
        then="python -m dfd_selfsup.prepare rgbd {out}/RGB.png {out}/DEPTH.png --unit-m 1e-4 --out my_stack",
    ),
    "defocusnet": Source(
        title="The DefocusNet renderings: 500 scenes, 256 x 256, five slices each, with depth",
        licence="see its page",
        page="the README of github.com/dvl-tum/defocus-net",
        by_hand="that README links to them. The paper's own re-rendering was never released",
        tree="{out}/\n    000000_00All.tif ... 000000_04All.tif ...\n    000000Dpt.exr ...",
        then="python -m dfd_selfsup.prepare defocusnet {out}; configs/defocusnet.yaml takes data/defocusnet",
    ),
    "mobile_depth": Source(
        title="Mobile Depth: 11 aligned stacks taken with a phone, 14 to 33 photos each, no truth",
        licence="none is stated",
        page="the project page of Suwajanakorn et al., Depth from Focus with Your Mobile Phone, CVPR 2015",
        by_hand="take `Aligned focus stack` and `Photos, Calibration, Results`",
        tree="{out}/<scene>/\n    a01.jpg ...\n    calibrated.txt",
        then="python -m dfd_selfsup.prepare check {out} --kind mobile_depth",
    ),
}
