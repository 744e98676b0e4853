"""Cars: a body extruded from its silhouette, a tapered cabin with painted windows, wheels, lamps and plates.

The car's frame: x forward, y left, z up, wheels on z = 0. All measures are fractions of its length.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from scenes.patterns import Colour, blend, fractal_noise, glyph_mask
from scenes.scene import Item
from scenes.shapes import Box, Quad, RoundedBox, placed
from scenes.solids import Prism, Revolution
from scenes.textures import Texture, solid

__all__ = ["CarStyle", "car", "random_car_style"]

PAINTS: tuple[Colour, ...] = (
    (0.72, 0.08, 0.08),
    (0.10, 0.22, 0.52),
    (0.88, 0.88, 0.86),
    (0.16, 0.17, 0.19),
    (0.62, 0.64, 0.67),
    (0.90, 0.62, 0.10),
    (0.10, 0.38, 0.26),
    (0.46, 0.62, 0.74),
    (0.42, 0.14, 0.24),
    (0.80, 0.74, 0.62),
)
_GLASS_LOW, _GLASS_HIGH = (0.10, 0.13, 0.16), (0.46, 0.56, 0.64)
_RUBBER, _TRIM = (0.09, 0.09, 0.10), (0.13, 0.13, 0.14)


@dataclass(frozen=True)
class CarStyle:
    """Silhouette in fractions of the length: x from -0.5 (tail) to 0.5 (nose), heights above the ground."""

    body: str = "sedan"
    paint: Colour = PAINTS[0]
    half_width: float = 0.195
    clearance: float = 0.045
    wheel_radius: float = 0.072
    front_axle: float = 0.31
    rear_axle: float = -0.285
    nose: float = 0.155  # height of the bonnet's front edge
    belt: float = 0.205  # height of the window sills
    deck: float = 0.205  # height of the tail
    roof: float = 0.315
    cowl_x: float = 0.17  # foot of the windscreen, then clockwise over the roof
    roof_front_x: float = 0.05
    roof_rear_x: float = -0.17
    rear_x: float = -0.33
    spokes: int = 5
    two_tone: bool = False


_BODIES: dict[str, dict[str, float]] = {
    "sedan": {},
    "coupe": {"roof": 0.285, "belt": 0.19, "deck": 0.20, "nose": 0.14, "roof_rear_x": -0.12, "rear_x": -0.38},
    "hatchback": {
        "roof": 0.35,
        "belt": 0.22,
        "deck": 0.22,
        "cowl_x": 0.20,
        "roof_rear_x": -0.34,
        "rear_x": -0.45,
    },
    "wagon": {"roof": 0.325, "roof_rear_x": -0.38, "rear_x": -0.465, "deck": 0.205},
    "suv": {
        "roof": 0.39,
        "belt": 0.25,
        "deck": 0.25,
        "nose": 0.205,
        "clearance": 0.06,
        "wheel_radius": 0.084,
        "roof_rear_x": -0.38,
        "rear_x": -0.455,
    },
    "pickup": {
        "roof": 0.35,
        "belt": 0.225,
        "deck": 0.22,
        "nose": 0.19,
        "clearance": 0.06,
        "wheel_radius": 0.08,
        "cowl_x": 0.20,
        "roof_front_x": 0.085,
        "roof_rear_x": -0.07,
        "rear_x": -0.105,
    },
    "van": {
        "roof": 0.42,
        "belt": 0.235,
        "deck": 0.235,
        "nose": 0.17,
        "cowl_x": 0.36,
        "roof_front_x": 0.22,
        "roof_rear_x": -0.455,
        "rear_x": -0.485,
    },
}


def random_car_style(seed: int) -> CarStyle:
    """A style drawn at random: body, paint, wheels, and proportions changed by a few percent."""
    rng = np.random.default_rng(seed)
    body = str(rng.choice(list(_BODIES)))
    base = {k: v for k, v in vars(CarStyle(body)).items() if isinstance(v, float)} | _BODIES[body]
    stretch = rng.uniform(0.94, 1.07)  # all heights together
    for name in ("nose", "belt", "deck", "roof", "clearance"):
        base[name] *= stretch
    for name in ("cowl_x", "roof_front_x", "roof_rear_x", "front_axle", "rear_axle"):
        base[name] += rng.uniform(-0.015, 0.015)
    base["half_width"] *= rng.uniform(0.95, 1.06)
    base["wheel_radius"] *= rng.uniform(0.95, 1.08)
    paint = PAINTS[int(rng.integers(len(PAINTS)))]
    spokes, two_tone = int(rng.choice([5, 6, 7, 10])), bool(rng.random() < 0.15)
    return CarStyle(body, paint, spokes=spokes, two_tone=two_tone, **base)


def car(style: CarStyle, rng: np.random.Generator, length: float = 1.0) -> list[Item]:
    """All items of a car of the given length."""
    items = [_body(style, rng, length), _cabin(style, length)]
    items += _wheels(style, rng, length) + _lamps(style, rng, length)
    inner, radius = (style.half_width - 0.055) * length, style.wheel_radius * length
    for axle in (style.front_axle, style.rear_axle):  # closes the view from one wheel arch to the other
        well = Box((0.9 * radius, inner, 0.75 * radius), placed((axle * length, 0, 1.1 * radius)))
        items.append(Item(well, solid(0.05, 0.05, 0.05)))
    if style.body == "pickup":
        bed = placed(((style.rear_x - 0.485) / 2 * length, 0, (style.deck + 0.0015) * length))
        half = ((style.rear_x + 0.455) / 2 * length, (style.half_width - 0.035) * length)
        items.append(Item(Quad(half, bed), solid(*_TRIM)))
    return items


def _silhouette(style: CarStyle) -> tuple[list[tuple[float, float]], list[str]]:
    """The body's outline (x, z), counter-clockwise, and what each edge shows: paint or trim."""
    low, radius = style.clearance, style.wheel_radius * 1.16
    points: list[tuple[float, float]] = [(-0.47, low + 0.02), (-0.43, low)]
    kinds = ["trim", "trim"]
    for axle in (style.rear_axle, style.front_axle):
        start = math.asin(max(-1.0, min(1.0, (low - style.wheel_radius) / radius)))
        for angle in np.linspace(math.pi - start, start, 14):
            points.append((axle + radius * math.cos(angle), style.wheel_radius + radius * math.sin(angle)))
            kinds.append("trim")
    points += [(0.45, low), (0.487, low + 0.03), (0.497, low + 0.06), (0.492, style.nose - 0.025)]
    kinds += ["trim", "trim", "paint", "paint"]
    points += [(0.475, style.nose), (0.44, style.nose + 0.012)]
    kinds += ["paint"] * 2
    rise = style.belt - style.nose - 0.012
    for share in (0.35, 0.7):
        x = 0.44 + share * (style.cowl_x + 0.01 - 0.44)
        points.append((x, style.nose + 0.012 + rise * (1 - (1 - share) ** 1.6)))
        kinds.append("paint")
    points += [(style.cowl_x + 0.01, style.belt), (style.rear_x, style.belt)]
    kinds += ["paint", "paint"]
    if style.rear_x > -0.44:
        points.append((-0.46, style.deck))
        kinds.append("paint")
    points += [(-0.485, style.deck - 0.012), (-0.495, style.deck - 0.05), (-0.499, low + 0.075)]
    kinds += ["paint", "paint", "trim"]
    points.append((-0.49, low + 0.04))
    kinds.append("trim")
    return points, kinds


def _body(style: CarStyle, rng: np.random.Generator, length: float) -> Item:
    points, kinds = _silhouette(style)
    middle = style.belt / 2  # the picture on the side is centred on the frame's origin
    outline = [(x * length, (z - middle) * length) for x, z in points]
    shape = Prism(
        outline,
        (style.half_width - 0.004) * length,
        placed((0, 0, middle * length)),
        slope=(0.0, -0.06),
        bevel=0.022 * length,
        crease_deg=50,
    )
    side = _side_picture(style, rng)
    plain, trim = np.broadcast_to(style.paint, side.shape), np.broadcast_to(_TRIM, side.shape)
    layers = np.stack([side[:, ::-1], side, plain, trim])
    parts = (0, 1, *(2 if kind == "paint" else 3 for kind in kinds))
    return Item(shape, Texture(layers, (1.02 * length, 0.51 * length), repeat=False, layer_of_part=parts))


def _side_picture(style: CarStyle, rng: np.random.Generator) -> np.ndarray:
    """The flank seen from the right (nose to the right), 1.02 lengths wide and 0.51 high: [256, 512, 3]."""
    big = np.empty((512, 1024, 3), np.float32)
    big[:] = style.paint

    def pixel(x: float, z: float) -> tuple[int, int]:
        return round((x / 1.02 + 0.5) * 1024), round((0.5 - (z - style.belt / 2) / 0.51) * 512)

    dark = tuple(0.45 * c for c in style.paint)
    light = tuple(min(1.0, 1.18 * c + 0.03) for c in style.paint)
    cv2.rectangle(big, pixel(-0.6, style.clearance + 0.028), pixel(0.6, -0.1), _TRIM, -1)
    if style.two_tone:
        cv2.rectangle(
            big, pixel(-0.6, style.clearance + 0.075), pixel(0.6, style.clearance + 0.028), dark, -1
        )
    waist = style.belt - 0.035
    cv2.line(big, pixel(-0.47, waist - 0.004), pixel(0.45, waist - 0.012), light, 3, cv2.LINE_AA)
    cv2.line(big, pixel(-0.47, waist - 0.012), pixel(0.45, waist - 0.020), dark, 2, cv2.LINE_AA)
    front = min(style.cowl_x - 0.02, style.front_axle - 0.11)
    rear = max(style.rear_x + 0.04, style.rear_axle + 0.07)
    doors = (
        [front, (front + rear) / 2, rear]
        if style.body not in ("coupe",) and front - rear > 0.3
        else [front, rear]
    )
    for x in doors:
        cv2.line(big, pixel(x, style.belt), pixel(x, style.clearance + 0.035), dark, 2, cv2.LINE_AA)
    cv2.line(
        big, pixel(front, style.clearance + 0.035), pixel(rear, style.clearance + 0.035), dark, 2, cv2.LINE_AA
    )
    for x in doors[1:]:
        cv2.rectangle(big, pixel(x + 0.012, waist + 0.012), pixel(x + 0.045, waist + 0.004), light, -1)
        cv2.rectangle(big, pixel(x + 0.012, waist + 0.004), pixel(x + 0.045, waist + 0.001), dark, -1)
    picture = cv2.resize(big, (512, 256), interpolation=cv2.INTER_AREA)
    return np.clip(picture * (0.95 + 0.08 * fractal_noise(512, rng, 1.6)[:256])[..., None], 0.0, 1.0)


def _cabin(style: CarStyle, length: float) -> Item:
    """The greenhouse: windows are painted, front and rear strips are glass, the top is paint."""
    foot = style.belt - 0.004
    corners = [
        (style.rear_x, foot),
        (style.cowl_x, foot),
        (style.roof_front_x + 0.03, style.roof - 0.012),
        (style.roof_front_x - 0.02, style.roof),
        ((style.roof_front_x + style.roof_rear_x) / 2, style.roof + 0.006),
        (style.roof_rear_x + 0.03, style.roof),
        (style.roof_rear_x - 0.015, style.roof - 0.014),
    ]
    x0, z0 = (style.rear_x + style.cowl_x) / 2, (foot + style.roof + 0.006) / 2
    wide, tall = style.cowl_x - style.rear_x, style.roof + 0.006 - foot
    outline = [((x - x0) * length, (z - z0) * length) for x, z in corners]
    lean = 0.30 if style.body != "van" else 0.14
    half = (style.half_width - 0.008 - lean * tall / 2) * length
    shape = Prism(outline, half, placed((x0 * length, 0, z0 * length)), (0.0, -lean), 30, 0.018 * length)
    side = _window_picture(style, [((x - x0) / wide + 0.5, 0.5 - (z - z0) / tall) for x, z in corners])
    ramp = np.linspace(0.0, 1.0, side.shape[0], dtype=np.float32)[:, None] * np.ones(
        side.shape[1], np.float32
    )
    glass = blend(_GLASS_HIGH, _GLASS_LOW, ramp)
    roof = np.broadcast_to(style.paint, side.shape)
    rear = roof if style.body == "van" else glass
    layers = np.stack([side[:, ::-1], side, roof, glass, rear])
    parts = (0, 1, 2, 3, 2, 2, 2, 2, 4)
    return Item(shape, Texture(layers, (wide * length, tall * length), repeat=False, layer_of_part=parts))


def _window_picture(style: CarStyle, corners: list[tuple[float, float]]) -> np.ndarray:
    """Side of the cabin [128, 256, 3]: the corners' polygon, shrunk and cut by pillars, filled with glass."""
    height, width = 256, 512
    pixels = np.array([(x * width, y * height) for x, y in corners])
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [pixels.round().astype(np.int32)], 255, cv2.LINE_AA)
    mask = cv2.erode(np.pad(mask, 1), np.ones((41, 41), np.uint8))[1:-1, 1:-1]
    wide = style.cowl_x - style.rear_x
    pillars = [0.5] if wide < 0.35 else [0.36, 0.66]
    if style.body == "coupe":
        pillars = [0.42]
    for share in pillars:
        middle = round(share * width)
        mask[:, middle - 11 : middle + 11] = 0
    if style.body == "van":
        mask[:, : round(0.62 * width)] = 0
    ramp = np.linspace(1.0, 0.0, height, dtype=np.float32)[:, None] * np.ones(width, np.float32)
    glass = blend(_GLASS_LOW, _GLASS_HIGH, ramp)
    frame = cv2.dilate(mask, np.ones((13, 13), np.uint8)).astype(np.float32) / 255
    picture = blend(np.broadcast_to(style.paint, (height, width, 3)), _TRIM, frame)
    picture = blend(picture, glass, mask.astype(np.float32) / 255)
    return cv2.resize(picture, (256, 128), interpolation=cv2.INTER_AREA)


def _wheels(style: CarStyle, rng: np.random.Generator, length: float) -> list[Item]:
    """Four wheels; their picture has the angle along x and the way over the profile along y."""
    radius, half = style.wheel_radius * length, 0.026 * length
    profile = [(0.0, -half), (0.93 * radius, -half), (radius, -0.6 * half), (radius, 0.6 * half)]
    profile += [(0.93 * radius, half), (0.66 * radius, 0.92 * half), (0.58 * radius, 0.55 * half)]
    profile += [(0.12 * radius, 0.75 * half), (0.0, 0.78 * half)]
    shape = Revolution(profile, crease_deg=50)
    around, over = (
        np.linspace(0, 2 * np.pi, 256, endpoint=False),
        np.linspace(0, 1, 128, dtype=np.float32)[:, None],
    )
    reach = over * shape.arc_length / radius  # way from the outer hub, in radii
    spoke = (np.cos(style.spokes * around)[None] > 0.1 - 0.5 * np.clip(0.35 - reach, 0, 1)) & (reach < 0.55)
    picture = np.broadcast_to(np.asarray(_RUBBER, np.float32), (128, 256, 3))
    rim = (reach < 0.68).astype(np.float32) * np.ones(256, np.float32)
    picture = blend(picture, (0.07, 0.07, 0.07), rim)
    picture = blend(picture, (0.74, 0.75, 0.77), spoke | ((reach > 0.56) & (reach < 0.66)) | (reach < 0.14))
    picture = blend(picture, (0.30, 0.30, 0.32), (reach < 0.06) * np.ones(256))
    texture = Texture(picture, (shape.circumference, shape.arc_length))
    items, out = [], (style.half_width - 0.026) * length
    for x in (style.front_axle, style.rear_axle):
        for side in (1, -1):
            pose = placed((x * length, side * out, radius), roll_deg=-90 * side, yaw_deg=0)
            items.append(Item(Revolution(profile, pose, crease_deg=50), texture))
    return items


def _lamps(style: CarStyle, rng: np.random.Generator, length: float) -> list[Item]:
    """Head and tail lamps, grille, plates and mirrors."""
    wide, nose, tail = style.half_width, style.nose - 0.045, style.deck - 0.06
    white, red = solid(0.93, 0.94, 0.90), solid(0.70, 0.06, 0.05)
    items = []

    def box(x: float, y: float, z: float, half: tuple[float, float, float], texture: Texture) -> None:
        sizes = [h * length for h in half]
        shape = RoundedBox(sizes, 0.45 * min(sizes), placed((x * length, y * length, z * length)))
        items.append(Item(shape, texture))

    for side in (1, -1):
        box(0.484, side * (wide - 0.052), nose + 0.008, (0.016, 0.036, 0.016), white)
        box(-0.487, side * (wide - 0.045), tail + 0.012, (0.014, 0.030, 0.020), red)
        box(
            style.cowl_x - 0.035,
            side * (wide + 0.018),
            style.belt + 0.018,
            (0.012, 0.020, 0.013),
            solid(*style.paint),
        )
    box(0.484, 0.0, nose, (0.014, 0.085, 0.020), solid(0.06, 0.06, 0.07))
    box(0.485, 0.0, nose, (0.015, 0.085, 0.003), solid(0.75, 0.76, 0.78))
    letters = "".join(rng.choice(list("ABCDEFGHKLMNPRSTUVXYZ"), 2)) + "".join(
        map(str, rng.integers(0, 10, 3))
    )
    plate = np.clip(0.95 - 0.85 * glyph_mask(letters, 64, 0.5), 0, 1)[20:44, :, None] * np.ones(3)
    texture = Texture(plate, (0.10 * length, 0.036 * length), repeat=False)
    for x, z in ((0.4985, style.clearance + 0.05), (-0.5005, style.clearance + 0.095)):
        shape = Box((0.002 * length, 0.05 * length, 0.018 * length), placed((x * length, 0, z * length)))
        items.append(Item(shape, texture))
    return items
