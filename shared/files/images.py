"""Strict reading and writing of images, and whose the pixel grid is: the camera file's or the EXIF tag's.

A bad file ends in one `DataError` that names the file, the reason and the remedy: no other exception, and
nothing is allocated on a header's word alone.
"""

import importlib
import importlib.util
import io
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from shared.errors import DataError
from shared.files.disk import opened, read_bytes, reading, write_bytes

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "PhotoSurvey",
    "as_image",
    "copy_upright",
    "decode_image",
    "encode_png",
    "exif_orientation",
    "few_names",
    "read_image",
    "read_image_size",
    "reads_heic",
    "survey_photos",
    "to_uint8",
    "undistort_image",
    "write_image",
]


MAX_IMAGE_PIXELS = 80_000_000  # below Pillow's own alarm at 89 million
LARGEST_COMPRESSION = 1100  # deflate reaches 1032 : 1; a header that claims more than this is lying
UNCHECKED_PIXELS = 16_000_000  # headers up to this size are believed: 64 MB decoded
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "YCbCr")
IMAGE_FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
EXIF_ORIENTATION = 0x0112
BGR = [2, 1, 0, 3]  # OpenCV's order of channels


# ---- who owns the pixel grid -------------------------------------------------------------------------------


class PhotoSurvey(NamedTuple):
    """How the pixels of photos belong to their cameras, by `survey_photos`."""

    orientations: list[int]  # for `read_image` and `read_image_size`; 1: the pixels as stored
    sizes: list[tuple[int, int]]  # (height, width) of the pictures so read
    notes: tuple[str, ...]


def survey_photos(
    paths: Sequence[Path],
    cameras_hw: Sequence[tuple[int, int] | None] | None = None,
    *,
    one_grid: bool = False,
    background: str = "",
) -> PhotoSurvey:
    """Decide, from headers alone, whether the EXIF orientation of photos applies, for every reader.

    cameras_hw: (height, width) that the file with the cameras gives for each photo, None where it gives none;
    such cameras were computed from the pixels as stored, as COLMAP and nerfstudio do, so the orientation is
    undone only where nothing but the turned picture has the camera's shape. Leave it out where no cameras
    came with the photos: then the orientation applies. one_grid: the photos are slices or views of one pixel
    grid (a phone that looks down writes any orientation), so photos of one size all get the orientation that
    most of them have, or the first on a tie. background: name of the colour that transparent pixels become,
    for the note. Raises DataError for a file that is no image.
    """
    heads = [_header(path) for path in paths]
    tags = [head.orientation for head in heads]
    turns, notes = list(tags), []
    if cameras_hw is not None:
        pairs = zip(heads, cameras_hw, strict=True)
        turns = [head.orientation if _only_turned_fits(head, camera) else 1 for head, camera in pairs]
        stored = [path for path, tag, turn in zip(paths, tags, turns, strict=True) if tag != turn]
        turned = [path for path, turn in zip(paths, turns, strict=True) if turn != 1]
        if stored:
            notes.append(
                f"{len(stored)} photos have an EXIF orientation, but cameras that belong to the pixels as "
                f"stored: not turned ({few_names(stored)})"
            )
        if turned:
            notes.append(
                f"{len(turned)} photos were turned as EXIF says, which alone fits the width and height of "
                f"their cameras ({few_names(turned)})"
            )
    elif one_grid and len({head.stored_hw for head in heads}) == 1:
        ((common, _),) = Counter(tags).most_common(1)
        turns = [common] * len(heads)
        others = [path for path, tag in zip(paths, tags, strict=True) if tag != common]
        if others:
            notes.append(
                f"the EXIF orientation of {len(others)} photos differs from that of the others and was not "
                f"applied, since all belong to one pixel grid ({few_names(others)})"
            )
    clear = [path for path, head in zip(paths, heads, strict=True) if head.has_alpha]
    if clear and background:
        notes.append(f"transparent pixels of {len(clear)} pictures become {background} ({few_names(clear)})")
    pairs = zip(heads, turns, strict=True)
    return PhotoSurvey(turns, [_turned_size(head.stored_hw, turn) for head, turn in pairs], tuple(notes))


class _Header(NamedTuple):
    stored_hw: tuple[int, int]
    orientation: int
    has_alpha: bool


def _header(path: str | os.PathLike) -> _Header:
    with _open_image(path) as image:
        return _Header((image.height, image.width), exif_orientation(image), _has_alpha(image))


def _only_turned_fits(head: _Header, camera_hw: tuple[int, int] | None) -> bool:
    if camera_hw is None or head.orientation < 5:
        return False

    def fits(hw: tuple[int, int]) -> bool:  # has the camera's shape, to a pixel
        return abs(hw[1] * camera_hw[0] - hw[0] * camera_hw[1]) <= max(*hw, *camera_hw)

    return fits(head.stored_hw[::-1]) and not fits(head.stored_hw)


def _turned_size(hw: tuple[int, int], orientation: int) -> tuple[int, int]:
    return hw[::-1] if orientation >= 5 else hw


# ---- images ------------------------------------------------------------------------------------------------


def read_image(
    path: str | os.PathLike, *, background: Sequence[float] | None = None, orientation: int | None = None
) -> Tensor:
    """Read a PNG, JPEG, TIFF, WebP or BMP file as RGB; HEIC where pillow-heif is installed.

    Returns float32 [3, H, W] in [0, 1]: 8-bit values over 255, 16-bit over 65535; grey and palette images
    become RGB; the content, not the extension, decides the format. The EXIF orientation is applied, unless
    `orientation` is the one to undo instead (1: the pixels as stored; `survey_photos` decides that). With
    `background` (r, g, b in [0, 1]) alpha is composited over it; without, an opaque alpha channel is dropped.
    Raises DataError for unreadable, truncated or oversized files, for CMYK and other colour spaces that need
    a colour profile, and for real transparency without a `background`.
    """
    image = _flattened(decode_image(path, orientation), background)
    if image is None:
        remedy = "Put it on a background of one colour and save it again without transparency"
        raise DataError(path, "the image has transparent pixels", remedy)
    return image


def _flattened(pixels: np.ndarray, background: Sequence[float] | None) -> Tensor | None:
    """[H, W, 1 | 3 | 4] of integers as float32 [3, H, W]; None for transparent ones without a background."""
    image = _to_unit_range(pixels)
    if len(image) < 4:
        return image.expand(3, -1, -1).contiguous()
    colour, alpha = image[:3], image[3:]
    if background is not None:
        backdrop = torch.tensor(list(background), dtype=torch.float32)
        return colour * alpha + backdrop[:, None, None] * (1 - alpha)
    return None if bool((alpha < 1).any()) else colour.contiguous()


def read_image_size(path: str | os.PathLike, *, orientation: int | None = None) -> tuple[int, int]:
    """(height, width) of an image as `read_image` would return it, from its header alone."""
    header = _header(path)
    return _turned_size(header.stored_hw, header.orientation if orientation is None else orientation)


def write_image(path: str | os.PathLike, image: Tensor, *, bits: int = 8) -> None:
    """Write a PNG (8 or 16 bits per channel) or JPEG (8) in one step.

    `image` is [1 | 3 | 4, H, W]: floats in [0, 1] (clamped, rounded to nearest) or uint8 as it is; grey, RGB
    or RGB with alpha. Raises ValueError for other shapes and for NaN, DataError when it cannot be written.
    """
    extension = Path(path).suffix.lower()
    if extension not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"write_image writes .png and .jpg, not {extension!r}")
    if image.ndim != 3 or image.shape[0] not in (1, 3, 4) or image.numel() == 0:
        raise ValueError(f"write_image needs [1 | 3 | 4, H, W], not {tuple(image.shape)}")
    if bits not in (8, 16) or (extension != ".png" and (bits == 16 or image.shape[0] == 4)):
        raise ValueError(f"{bits} bits and {image.shape[0]} channels cannot be written as {extension}")
    import cv2  # here, as everywhere: whoever only imports a method should not wait for it

    image = image.detach().cpu()
    if image.dtype == torch.uint8 and bits == 8:
        pixels = image.numpy()
    else:
        values = image.to(torch.float64) / (255 if image.dtype == torch.uint8 else 1)
        if not bool(torch.isfinite(values).all()):
            raise ValueError(f"the image for {path} holds NaN or infinite values")
        levels = values.clamp(0, 1).mul(2**bits - 1).round().numpy()
        pixels = levels.astype(np.uint8 if bits == 8 else np.uint16)
    if len(pixels) >= 3:
        pixels = pixels[BGR[: len(pixels)]]
    _, encoded = cv2.imencode(extension, np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    write_bytes(path, encoded.tobytes())


def as_image(image: Any, name: str = "image", *, background: Sequence[float] | None = None) -> Tensor:
    """An RGB image as float32 [3, H, W] in [0, 1], from a path, a tensor, or a NumPy or Pillow image.

    Tensors are [3, H, W] floats in [0, 1] or uint8; arrays [H, W, 3] likewise. The EXIF orientation of paths
    and Pillow images is applied, their alpha composited over `background` as by `read_image`. Raises
    ValueError, naming `name`, for other shapes, types and ranges, DataError for a file that cannot be read.
    """
    from PIL import Image

    if isinstance(image, str | os.PathLike):
        return read_image(image, background=background)
    if isinstance(image, Image.Image):
        known = image if image.mode in MODES else image.convert("RGB")
        flat = _flattened(_upright(_pillow_pixels(known), exif_orientation(image)), background)
        if flat is None:
            raise ValueError(f"{name} has transparent pixels: put it on a background of one colour first")
        return flat
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"{name} must be an array [H, W, 3], got {list(image.shape)}")
        image = torch.from_numpy(np.array(image, order="C")).permute(2, 0, 1)
    if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
        got = list(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise ValueError(f"{name} must be a path, a tensor [3, H, W] or an array [H, W, 3], got {got}")
    if image.dtype == torch.uint8:
        return image.float() / 255
    if not image.is_floating_point():
        raise ValueError(f"{name} must hold floats in [0, 1] or uint8, got {image.dtype}")
    if not bool(((image >= 0) & (image <= 1)).all()):  # NaN fails as well
        low, high = image.min().item(), image.max().item()
        raise ValueError(f"{name} must be in [0, 1], got values from {low:g} to {high:g}")
    return image.float()


def to_uint8(image: Any) -> np.ndarray:
    """uint8 RGB [H, W, 3] of a tensor [3 | 1, H, W] or array [H, W, 3 | 1], floats in [0, 1] or uint8.

    Floats are clipped, NaN is black. Raises ValueError for other shapes and types.
    """
    if isinstance(image, torch.Tensor):
        image = image.detach().float().cpu() if image.is_floating_point() else image.detach().cpu()
        image = (image.permute(1, 2, 0) if image.ndim == 3 else image).numpy()
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3) or image.size == 0:
        raise ValueError(f"expected a torch [3 or 1, H, W] or NumPy [H, W, 3 or 1] image, got {image.shape}")
    if image.dtype != np.uint8:
        if not np.issubdtype(image.dtype, np.floating):
            raise ValueError(f"expected floats in [0, 1] or uint8, got {image.dtype}")
        image = np.rint(np.clip(np.nan_to_num(image, posinf=1.0, neginf=0.0), 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image)


def encode_png(image: Any) -> bytes:
    """Encode an image losslessly as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(to_uint8(image)).save(buffer, format="PNG")
    return buffer.getvalue()


def copy_upright(source: Path, copy: Path, quality: int) -> None:
    """Decode a photo and write it turned as EXIF says, with the rest of its EXIF; byte for byte if it can be.

    quality: of JPEG. Transparent pixels become white. DataError as by `read_image`.
    """
    from PIL import Image, ImageOps

    copy.parent.mkdir(parents=True, exist_ok=True)
    with _open_image(source) as image, reading(source, "cannot be decoded", "Copy it again or omit it"):
        image.load()
        clear = _has_alpha(image)
        if exif_orientation(image) == 1 and source.suffix == copy.suffix and not clear:
            shutil.copyfile(source, copy)
            return
        image = ImageOps.exif_transpose(image)
        if clear:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        image.save(copy, quality=quality)


def _to_unit_range(pixels: np.ndarray) -> Tensor:
    """[H, W, C] of 8- or 16-bit integers -> float32 [C, H, W] in [0, 1]."""
    largest = 255 if pixels.dtype == np.uint8 else 65535
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)
    return torch.from_numpy(planes).div_(largest)


@contextmanager
def _open_image(path: str | os.PathLike, file: BinaryIO | None = None) -> Iterator["Image.Image"]:
    """Parse the header only, of the file or of what was read of it; refuse absurd claims."""
    if file is None:
        with opened(path) as file, _open_image(path, file) as image:
            yield image
        return
    from PIL import Image

    Image.init()  # registers the readers, the first time; Image.open would look for some by extension
    formats = list(IMAGE_FORMATS)
    if file.read(8)[4:] == b"ftyp" and reads_heic():
        importlib.import_module("pillow_heif").register_heif_opener()
        formats.append("HEIF")
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata only warns; what matters is raised by decoding
            image = Image.open(file, formats=formats)
    except Exception:  # Pillow's own words name a buffer, not the file
        reason = "is not an image of a known kind, or its header is damaged"
        raise DataError(path, reason, "Copy it again, or convert it to PNG or JPEG") from None
    pixel_count = image.width * image.height
    claim = f"the header claims {image.width} x {image.height} pixels"
    if pixel_count > MAX_IMAGE_PIXELS:
        raise DataError(path, f"{claim}, more than {MAX_IMAGE_PIXELS}", "Scale the image down")
    if pixel_count > UNCHECKED_PIXELS and pixel_count > LARGEST_COMPRESSION * length:
        raise DataError(path, f"{claim} in a file of {length} bytes", "Copy or download it again")
    with image:
        yield image


def decode_image(path: str | os.PathLike, orientation: int | None = None) -> np.ndarray:
    """Decode to [H, W, 1 | 3 | 4] of uint8 or uint16, RGB order, turned by EXIF's orientation or this one."""
    data = read_bytes(path)
    with _open_image(path, io.BytesIO(data)) as image:
        if image.mode not in (*MODES, "I;16", "I;16B", "I;16L"):
            remedy = "Convert it to 8- or 16-bit RGB with its colour profile, as PNG or JPEG"
            raise DataError(path, f"the colour mode {image.mode} is not supported", remedy)
        with reading(path, "cannot be decoded"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            is_wide = any(";16" in str(tile[3]) for tile in image.tile)  # before load() forgets it
            image.load()  # raises on truncated data, where OpenCV would fill up with grey
            pixels = _opencv_pixels(data) if is_wide else _pillow_pixels(image)
            return _upright(pixels, exif_orientation(image) if orientation is None else orientation)


def _has_alpha(image: "Image.Image") -> bool:
    return image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info


def _pillow_pixels(image: "Image.Image") -> np.ndarray:
    has_alpha = _has_alpha(image)
    if has_alpha or image.mode in ("P", "YCbCr"):
        image = image.convert("RGBA" if has_alpha else "RGB")
    elif image.mode == "1":
        image = image.convert("L")
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _opencv_pixels(data: bytes) -> np.ndarray:
    """16-bit channels, which Pillow would cut to 8 bits."""
    import cv2

    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise ValueError("16-bit channels cannot be decoded")
    if pixels.ndim == 2:
        return pixels[..., None]
    return pixels[..., BGR[: pixels.shape[2]]]


def exif_orientation(image: "Image.Image") -> int:
    """The EXIF orientation 1..8; 1 (upright) when it is missing or damaged."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # damaged metadata must not cost the pixels
        return 1
    return value if value in range(1, 9) else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (Exif 2.3, tag 274: where row 0 and column 0 of the file belong)."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def undistort_image(
    image: Tensor,
    K: Tensor,
    distortion: Tensor,
    K_new: Tensor | None = None,
    size: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Image [C, h, w] as a camera without distortion sees it, and where it is valid [h, w] (bool).

    `image` [C, H, W] was taken with `K` [3, 3] and OpenCV's `distortion` k1 k2 p1 p2 [k3]; `K_new` (default
    `K`) and `size` (h, w; default that of `image`) describe the ideal camera. Bilinear at pixel centres, by
    OpenCV; pixels that the photograph does not show are invalid and repeat its border.
    """
    import cv2

    height, width = size or image.shape[-2:]
    cameras = [K.double().numpy(), distortion.double().numpy(), None, (K if K_new is None else K_new).numpy()]
    x, y = cv2.initUndistortRectifyMap(*cameras, (width, height), cv2.CV_32FC1)
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    ideal = cv2.remap(pixels, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    # Beyond the radius where the polynomial folds back, the map turns over and shows everything twice.
    (dx_dv, dx_du), (dy_dv, dy_du) = np.gradient(x), np.gradient(y)
    valid = (dx_du * dy_dv - dx_dv * dy_du > 0) & (dx_du + dy_dv > 0)
    last_x, last_y, slack = image.shape[-1] - 1, image.shape[-2] - 1, 1e-3  # px, for rounding
    valid &= (x >= -slack) & (x <= last_x + slack) & (y >= -slack) & (y <= last_y + slack)
    ideal = torch.from_numpy(ideal.reshape(height, width, -1)).permute(2, 0, 1)
    return ideal.contiguous(), torch.from_numpy(valid)


def reads_heic() -> bool:
    return importlib.util.find_spec("pillow_heif") is not None


def few_names(paths: Sequence[Path]) -> str:
    """The first five of some names, for a note."""
    return ", ".join(path.name for path in paths[:5]) + (", ..." if len(paths) > 5 else "")
