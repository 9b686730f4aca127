"""Generates the scenes of the demo's pictures, and draws them.

A `Scene` is the ground truth of one picture: groups of equal objects on a background. It is drawn with Pillow alone, at
any size and any aspect ratio between 3:4 and 4:3, and looks the same at each: all lengths are fractions of the shorter
side. Every object lies inside the central square, so a centre crop loses none.

    rng = random.Random(0)
    scene = sample_scene(rng)
    draw_scene(scene, (640, 480)).save("scene.jpg")
"""

import math
import random
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

Rgb = tuple[int, int, int]
Point = tuple[float, float]

COLOURS: dict[str, Rgb] = {
    "red": (214, 32, 40),
    "orange": (250, 140, 20),
    "yellow": (246, 218, 40),
    "green": (36, 150, 60),
    "blue": (36, 84, 210),
    "purple": (130, 46, 160),
    "pink": (250, 130, 185),
    "brown": (120, 72, 36),
    "black": (22, 22, 24),
    "white": (248, 248, 248),
}
BACKGROUNDS: dict[str, Rgb] = {
    "white": (246, 246, 246),
    "black": (24, 24, 26),
    "grey": (150, 150, 152),
    "beige": (236, 220, 188),
    "light blue": (160, 208, 240),
    "light green": (172, 226, 160),
    "navy": (24, 30, 84),
    "maroon": (96, 18, 36),
}
TEXTURES = ("plain", "striped", "spotted")
PATTERNS = ("plain", "fading", "striped", "checked")
MAX_COUNT = 4

# The least contrast between an object and the background, so that every object can be seen, in greyscale too.
_MIN_CONTRAST = 46.0


@dataclass(frozen=True)
class Place:
    """The place of one object: its centre in the central square (0 to 1) and its rotation in degrees."""

    x: float
    y: float
    turn: float


@dataclass(frozen=True)
class Group:
    """Equal objects, one for each place."""

    shape: str
    colour: str
    texture: str
    rgb: Rgb
    size: float
    """Diameter as a fraction of the central square."""
    places: tuple[Place, ...]

    @property
    def count(self) -> int:
        """The number of objects."""
        return len(self.places)


@dataclass(frozen=True)
class Background:
    """The background of a scene."""

    colour: str
    pattern: str
    rgb: Rgb


@dataclass(frozen=True)
class Scene:
    """The content of one picture. The groups differ in shape."""

    groups: tuple[Group, ...]
    background: Background
    grey: bool = False
    watermark: str = ""


def scene_key(scene: Scene) -> Hashable:
    """Returns what captions can name of a scene: no caption tells two scenes with equal keys apart.

    Places, sizes, shades and the watermark are left out.
    """
    groups = sorted((g.shape, "" if scene.grey else g.colour, g.count, g.texture) for g in scene.groups)
    ground = "" if scene.grey else scene.background.colour
    return (tuple(groups), ground, scene.background.pattern, scene.grey)


def sample_scene(rng: random.Random) -> Scene:
    """Return a random scene: one to three groups of one to four objects."""
    colour = rng.choice(tuple(BACKGROUNDS))
    pattern = rng.choices(PATTERNS, (46, 18, 18, 18))[0]
    ground = Background(colour, pattern, _shade(BACKGROUNDS[colour], rng, 8))
    n_groups = rng.choices((1, 2, 3), (38, 52, 10))[0]
    counts = [rng.choices((1, 2, 3, 4), (36, 26, 21, 17))[0] for _ in range(n_groups)]
    cells = _cells(sum(counts), rng)
    groups = []
    for shape, count in zip(rng.sample(tuple(SHAPES), n_groups), counts, strict=True):
        colour, rgb = sample_colour(ground, rng)
        taken, cells = cells[:count], cells[count:]
        cell = taken[0][2]
        size = cell * rng.uniform(0.7, 0.92)
        free = (cell - size) / 2
        places = tuple(
            Place(x + rng.uniform(-free, free), y + rng.uniform(-free, free), rng.uniform(-12, 12)) for x, y, _ in taken
        )
        texture = rng.choices(TEXTURES, (72, 14, 14))[0]
        groups.append(Group(shape, colour, texture, rgb, size, places))
    return Scene(tuple(groups), ground, grey=rng.random() < 0.03)


def sample_colour(ground: Background, rng: random.Random, *, other_than: str = "") -> tuple[str, Rgb]:
    """Return a random colour, and a shade of it, that can be seen on the background."""
    behind = BACKGROUNDS[ground.colour]
    seen = [c for c, rgb in COLOURS.items() if c != other_than and _contrast(rgb, behind) > _MIN_CONTRAST]
    colour = rng.choice(seen)
    return colour, _shade(COLOURS[colour], rng, 14)


def draw_scene(scene: Scene, size: tuple[int, int]) -> Image.Image:
    """Draw a scene as an RGB picture of `size` (width, height)."""
    width, height = size
    # Pillow's polygons have hard edges, so a scene is drawn larger and then reduced, by less for larger pictures.
    factor = 3 if max(size) <= 160 else 2 if max(size) <= 1200 else 1
    canvas = _draw_background(scene.background, (width * factor, height * factor))
    side = min(canvas.size)
    left, top = (canvas.width - side) / 2, (canvas.height - side) / 2
    draw = ImageDraw.Draw(canvas)
    for group in scene.groups:
        radius = group.size * side / 2
        for place in group.places:
            centre = (left + place.x * side, top + place.y * side)
            if group.texture == "plain":
                _fill(draw, group, centre, radius, place.turn, group.rgb)
            else:
                _fill_textured(canvas, group, centre, radius, place.turn)
    image = canvas.reduce(factor) if factor > 1 else canvas
    if scene.grey:
        image = image.convert("L").convert("RGB")
    return _stamp(image, scene.watermark, random.Random(scene.watermark)) if scene.watermark else image


WATERMARKS = ("SAMPLE", "PREVIEW", "© STOCK", "PICSTOCK", "COPYRIGHT", "DEMO ONLY", "photobank", "imagehub.test")


def with_watermark(image: Image.Image, rng: random.Random) -> Image.Image:
    """Return the picture with a translucent text across it."""
    return _stamp(image, rng.choice(WATERMARKS), rng)


def draw_text_image(text: str, size: tuple[int, int], rng: random.Random) -> Image.Image:
    """Draw a picture with nothing but text, as large as it fits, on a plain background."""
    ground = _shade(BACKGROUNDS[rng.choice(tuple(BACKGROUNDS))], rng, 8)
    inks = [rgb for rgb in COLOURS.values() if _contrast(rgb, ground) > 2 * _MIN_CONTRAST]
    image = Image.new("RGB", size, ground)
    draw = ImageDraw.Draw(image)
    side = min(size)
    words = text.split() or ["?"]
    per_line = rng.randint(1, 3)
    body = "\n".join(" ".join(words[i : i + per_line]) for i in range(0, len(words), per_line))
    align = rng.choice(("left", "center"))
    points = side / 2
    while True:
        font, spacing = _font(points), 0.3 * points
        box = draw.multiline_textbbox((0, 0), body, font=font, spacing=spacing, align=align)
        # In several steps, as the extent of small text is not quite proportional to its size.
        excess = max((box[2] - box[0]) / (0.92 * side), (box[3] - box[1]) / (0.88 * side))
        if excess <= 1 or points <= 1:
            break
        points = max(1.0, points / min(excess + 0.01, 4))
    corner = ((size[0] - box[0] - box[2]) / 2, (size[1] - box[1] - box[3]) / 2)
    draw.multiline_text(corner, body, rng.choice(inks), font, spacing=spacing, align=align)
    return image


def _cells(n: int, rng: random.Random) -> list[tuple[float, float, float]]:
    """Return n cells (centre x, y, side) of the central square in random order, none overlapping."""
    across = 2 if n <= 4 else 3 if n <= 9 else 4
    if n == 1:
        side = rng.uniform(0.45, 0.8)
        free = (0.96 - side) / 2
        return [(0.5 + rng.uniform(-free, free), 0.5 + rng.uniform(-free, free), side)]
    side = 0.96 / across
    spots = [0.02 + side * (i + 0.5) for i in range(across)]
    return rng.sample([(x, y, side) for x in spots for y in spots], n)


def _shade(rgb: Rgb, rng: random.Random, by: int) -> Rgb:
    lift = rng.randint(-by, by)
    red, green, blue = (min(255, max(0, v + lift + rng.randint(-by // 3, by // 3))) for v in rgb)
    return red, green, blue


def _luma(rgb: Rgb) -> float:
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]


def _contrast(a: Rgb, b: Rgb) -> float:
    return abs(_luma(a) - _luma(b)) + 0.1 * math.dist(a, b)


def _towards(rgb: Rgb, share: float) -> Rgb:
    """Mix with white if the colour is dark, with black if it is light."""
    goal = 255 if _luma(rgb) < 128 else 0
    red, green, blue = (round(v + (goal - v) * share) for v in rgb)
    return red, green, blue


def _draw_background(ground: Background, size: tuple[int, int]) -> Image.Image:
    image = Image.new("RGB", size, ground.rgb)
    other = _towards(ground.rgb, 0.2)
    if ground.pattern == "fading":
        fade = Image.linear_gradient("L").resize(size, Image.Resampling.BILINEAR)
        image.paste(Image.new("RGB", size, _towards(ground.rgb, 0.3)), mask=fade)
    elif ground.pattern in {"striped", "checked"}:
        draw = ImageDraw.Draw(image)
        step = min(size) / 8
        for row in range(math.ceil(size[1] / step)):
            y0, y1 = round(row * step), round((row + 1) * step) - 1
            if ground.pattern == "striped":
                if row % 2:
                    draw.rectangle((0, y0, size[0], y1), fill=other)
                continue
            for column in range(row % 2, math.ceil(size[0] / step), 2):
                draw.rectangle((round(column * step), y0, round((column + 1) * step) - 1, y1), fill=other)
    return image


def _fill(draw: ImageDraw.ImageDraw, group: Group, centre: Point, radius: float, turn: float, fill: Rgb | int) -> None:
    cos, sin = math.cos(math.radians(turn)) * radius, math.sin(math.radians(turn)) * radius
    for part in SHAPES[group.shape]:
        draw.polygon([(centre[0] + x * cos - y * sin, centre[1] + x * sin + y * cos) for x, y in part], fill=fill)


def _fill_textured(canvas: Image.Image, group: Group, centre: Point, radius: float, turn: float) -> None:
    box = math.ceil(2 * radius) + 2
    mask = Image.new("L", (box, box))
    _fill(ImageDraw.Draw(mask), group, (box / 2, box / 2), radius, turn, 255)
    cloth = Image.new("RGB", (box, box), group.rgb)
    draw = ImageDraw.Draw(cloth)
    light = _towards(group.rgb, 0.6)
    if group.texture == "striped":
        # A stripe is a seventh of the object wide: thinner ones would not be visible in a 64-pixel picture.
        step = box / 7
        for i in range(1, 7, 2):
            draw.rectangle((round(i * step), 0, round((i + 1) * step), box), fill=light)
    else:
        step, dot = box / 4, box / 11
        for row in range(5):
            for column in range(5):
                x, y = (column + 0.5 * (row % 2)) * step, row * step
                draw.ellipse((x - dot, y - dot, x + dot, y + dot), fill=light)
    canvas.paste(cloth, (round(centre[0] - box / 2), round(centre[1] - box / 2)), mask)


@lru_cache(maxsize=64)
def _font(points: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(points)


def _stamp(image: Image.Image, text: str, rng: random.Random) -> Image.Image:
    side = min(image.size)
    # Twice the size of the picture, so that it covers the corners when rotated.
    sheet = Image.new("L", (2 * side, 2 * side))
    draw = ImageDraw.Draw(sheet)
    probe = draw.textlength(text, font=_font(100))
    points = 100 * rng.uniform(0.75, 0.95) * side / probe
    font = _font(max(1.0, min(points, 0.3 * side)))
    gap = side * rng.uniform(0.3, 0.4)
    alpha = rng.randint(120, 180)
    for row in (-1, 0, 1):
        draw.text((side, side + row * gap), text, fill=alpha, font=font, anchor="mm")
    sheet = sheet.rotate(rng.choice((25, 30, 35)), Image.Resampling.BILINEAR)
    left, top = side - image.width // 2, side - image.height // 2
    mask = sheet.crop((left, top, left + image.width, top + image.height))
    lightness = image.convert("L").resize((1, 1), Image.Resampling.BOX).tobytes()[0]
    ink = (255, 255, 255) if lightness < 140 else (40, 40, 40)
    marked = image.copy()
    marked.paste(Image.new("RGB", image.size, ink), mask=mask)
    return marked


def _round_path(radius: Callable[[float], float], steps: int = 40) -> list[Point]:
    angles = [2 * math.pi * i / steps for i in range(steps)]
    return [(radius(a) * math.sin(a), -radius(a) * math.cos(a)) for a in angles]


def _regular(corners: int) -> list[Point]:
    return _round_path(lambda _: 1.0, corners)


def _ring(inner: float) -> list[Point]:
    outside = _regular(40)
    inside = [(x * inner, y * inner) for x, y in outside]
    return [*outside, outside[0], inside[0], *reversed(inside)]


def _heart() -> list[Point]:
    path = []
    for i in range(40):
        t = 2 * math.pi * i / 40
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        path.append((x / 17, -(y + 2.5) / 17))
    return path


def _moon() -> list[Point]:
    outside = [(math.cos(a), math.sin(a)) for a in (math.radians(d) for d in range(50, 311, 10))]
    bite = [(0.36 + 0.82 * math.cos(a), 0.82 * math.sin(a)) for a in (math.radians(d) for d in range(290, 69, -10))]
    return [(x + 0.15, y) for x, y in (*outside, *bite)]


def _ellipse(x: float, y: float, rx: float, ry: float) -> list[Point]:
    return [(x + px * rx, y + py * ry) for px, py in _regular(32)]


# Polygons inside the unit circle, with y downwards; a shape is the union of its polygons.
SHAPES: dict[str, tuple[list[Point], ...]] = {
    "circle": (_regular(40),),
    "square": ([(-0.7, -0.7), (0.7, -0.7), (0.7, 0.7), (-0.7, 0.7)],),
    "triangle": ([(0, -0.95), (0.87, 0.5), (-0.87, 0.5)],),
    "diamond": ([(0, -1), (0.62, 0), (0, 1), (-0.62, 0)],),
    "star": ([(x * (1, 0.42)[i % 2], y * (1, 0.42)[i % 2]) for i, (x, y) in enumerate(_regular(10))],),
    "heart": (_heart(),),
    "ring": (_ring(0.55),),
    "cross": (
        [(-0.28, -0.95), (0.28, -0.95), (0.28, 0.95), (-0.28, 0.95)],
        [(-0.95, -0.28), (0.95, -0.28), (0.95, 0.28), (-0.95, 0.28)],
    ),
    "moon": (_moon(),),
    "arrow": ([(-0.95, -0.22), (0.1, -0.22), (0.1, -0.65), (0.98, 0), (0.1, 0.65), (0.1, 0.22), (-0.95, 0.22)],),
    "flower": (_round_path(lambda a: 0.66 + 0.34 * math.cos(5 * a)),),
    "house": ([(-0.62, 0.75), (-0.62, -0.1), (-0.85, -0.1), (0, -0.95), (0.85, -0.1), (0.62, -0.1), (0.62, 0.75)],),
    "fish": (_ellipse(-0.2, 0, 0.72, 0.46), [(0.3, 0), (0.92, -0.45), (0.92, 0.45)]),
    "tree": (_ellipse(0, -0.35, 0.68, 0.6), [(-0.16, 0.1), (0.16, 0.1), (0.16, 0.98), (-0.16, 0.98)]),
}
