"""Look at a run in the browser: move around its scene.

    python -m shared.viewer runs/deepvoxels-quick
    python -m shared.viewer runs/nvs_depth-quick --port 9000 --open

A DeepVoxels run is rendered live from where you stand; depth runs are shown as coloured points with their
cameras, with unit and scale status. The page is served to this machine only, unless --host says otherwise;
nothing is fetched from the network. Ctrl-C ends it. Needs the extra `viewer`: pip install -e '.[viewer]'
"""

import argparse
import sys
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from shared.command import add_checkpoint_argument, add_device_argument, command_line, select_device
from shared.viewing.page import ViewerPage
from shared.viewing.scene import open_scene

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Serve the page until Ctrl-C; RunError or DataError if there is nothing to show."""
    args = _parse(argv)
    scene = open_scene(args.run, args.checkpoint, select_device(args.device))
    with ViewerPage(scene, args.host, args.port) as page:
        sys.stdout.write(f"{scene.title}\nopen {page.url} in a browser; Ctrl-C ends it\n")
        sys.stdout.flush()
        if args.open:
            webbrowser.open(page.url)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            sys.stdout.write("\n")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="shared.viewer", description=__doc__, formatter_class=formatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder of train.py")
    add_checkpoint_argument(parser)
    add_device_argument(parser)
    parser.add_argument("--port", type=int, metavar="N", help="default: the first free one from 8080 on")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (default: this)")
    parser.add_argument("--open", action="store_true", help="open the page in this machine's browser")
    args = parser.parse_args(argv)
    if args.port is not None and not 1 <= args.port <= 65535:
        parser.error(f"--port must be between 1 and 65535, got {args.port}")
    return args


if __name__ == "__main__":
    command_line(main)
