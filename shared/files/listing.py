"""Which pictures a folder holds, the same for every reader, and in words what was left out and why."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from shared.errors import DataError
from shared.files.disk import visible
from shared.files.images import few_names, read_image_size, reads_heic

__all__ = [
    "distinct_stems",
    "is_film",
    "left_out_note",
    "list_images",
    "no_pictures",
    "pictures_among",
]


IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".jfif")
HEIC_EXTENSIONS = (".heic", ".heif", ".hif")  # read where pillow-heif is installed
FILMS = re.compile(r"\.(mov|mp4|m4v|avi|mkv|webm|mpe?g|mts|3gp)", re.I)
UNREAD_KINDS = re.compile(
    rf"\.(hei[cf]|hif|avif|jxl|jp2|j2k|gif|tga|psd|dng|cr[23w]|nef|nrw|arw|sr[2fw]|raf|orf|rw2|pef|raw|x3f)"
    rf"|{FILMS.pattern}",
    re.I,
)


def list_images(folder: str | os.PathLike, *, recursive: bool = False) -> tuple[list[Path], list[Path]]:
    """The pictures in a folder that `read_image` reads, and files that look like pictures but are not read.

    Those are photos of other kinds (.heic without pillow-heif, raw photos) and films. In natural order (2
    before 10); extensions in either case; hidden and system files are skipped, as by `visible`. recursive:
    sub-folders too. Name the second list to the user (`left_out_note`). Raises DataError for a folder that is
    missing or without a picture to read.
    """
    read, left_out = pictures_among(visible(folder, recursive=recursive))
    if not read:
        raise no_pictures(folder, left_out)
    return read, left_out


def pictures_among(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Those of `paths` that `read_image` reads, and those that look like pictures but are not read."""
    alike = [path for path in paths if UNREAD_KINDS.fullmatch(path.suffix)]
    heic = {path for path in alike if path.suffix.lower() in HEIC_EXTENSIONS and _is_readable(path)}
    read = [path for path in paths if path.suffix.lower() in IMAGE_EXTENSIONS or path in heic]
    return read, [path for path in alike if path not in heic]


def _is_readable(path: Path) -> bool:
    try:
        read_image_size(path)
    except DataError:
        return False
    return True


def no_pictures(folder: str | os.PathLike, left_out: Sequence[Path] = ()) -> DataError:
    """The error for a folder without a picture that can be read, with what it holds instead."""
    if left_out:
        kinds = " and ".join(f"{n} {kind} files" for kind, n in Counter(p.suffix for p in left_out).items())
        remedy = _how_to_read(left_out)
        if all(FILMS.fullmatch(path.suffix) for path in left_out):
            remedy = "Take single frames out of them, as `prepare.py colmap FILM --out DIR` does"
        reason = f"holds no photos that can be read, but {kinds}"
        return DataError(folder, reason, remedy[0].upper() + remedy[1:])
    inner = [path.name for path in visible(folder) if path.is_dir() and pictures_among(visible(path))[0]]
    if inner:
        reason = f"holds no photos, but its sub-folders do: {', '.join(inner[:5])}"
        return DataError(folder, reason, "Name one of them")
    reason = f"holds no photos ({' '.join(IMAGE_EXTENSIONS)})"
    return DataError(folder, reason, "Check that this is the right folder")


def left_out_note(left_out: Sequence[Path]) -> str:
    """What `list_images` left out, for the user; empty if nothing."""
    if not left_out:
        return ""
    how = _how_to_read(left_out)
    return f"{len(left_out)} pictures of a kind that is not read, left out ({how}): {few_names(left_out)}"


def _how_to_read(left_out: Sequence[Path]) -> str:
    heic = any(path.suffix.lower() in HEIC_EXTENSIONS for path in left_out)
    extra = ", or install the extra `heic` (pillow-heif)" if heic and not reads_heic() else ""
    return f"convert them to JPEG{extra}"


def distinct_stems(names: Sequence[str]) -> dict[str, str]:
    """For each picture, named relative to a folder, the name of a file to be made of it, without extension.

    It is the picture's own, with _ for /. Where two would be the same (in either case, which some file
    systems do not tell apart), numbers go before all of them, so that the order stays.
    """
    stems = [PurePosixPath(name.replace("/", "_")).stem for name in names]
    if len({stem.lower() for stem in stems}) < len(stems):
        stems = [f"{index:04d}_{stem}" for index, stem in enumerate(stems)]
    return dict(zip(names, stems, strict=True))


def is_film(path: str | os.PathLike) -> bool:
    """Whether a file is a film, by its extension."""
    return bool(FILMS.fullmatch(Path(path).suffix)) and not Path(path).is_dir()
