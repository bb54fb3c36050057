"""The drawing world: small pictures whose content is known, drawn from seeded randomness."""

import colorsys
import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

SIZE = 96
KINDS = ("circle", "square", "triangle", "star", "ring", "cross", "heart", "moon")
BLOCKED_KIND = "skull"
ALL_KINDS = (*KINDS, BLOCKED_KIND)
HUES = 10
COUNTS = (1, 2, 3, 4)
TEXTURES = ("plain", "stripes", "dots")
ATTRIBUTES = {
    "kind": len(ALL_KINDS),
    "hue": HUES,
    "background": HUES,
    "count": len(COUNTS),
    "texture": len(TEXTURES),
}
"""Each attribute of a scene and how many values it has."""


@dataclass(frozen=True, slots=True)
class World:
    """What the indices of a scene mean: its kinds of things, and how far the colours are turned.

    ``turn`` is in steps of the colour circle of :data:`HUES`.
    """

    kinds: tuple[str, ...]
    turn: float = 0.0


DEMO = World(ALL_KINDS)
CHANGED = World(
    ("diamond", "hexagon", "arrow", "drop", "bolt", "house", "hourglass", "clover"), turn=0.5
)
"""Kinds and colours that the built-in model never saw: what a fine-tuning is tried on."""

Picture = NDArray[np.uint8]
_Points = list[tuple[float, float]]
_Shape = list[tuple[_Points, int]]

_OVERSAMPLING = 2
# Fewer things are drawn larger, so that one thing and four fill the picture alike.
_RADII = {1: (20.0, 28.0), 2: (15.0, 21.0), 3: (13.0, 18.0), 4: (12.0, 16.0)}
_GAP = 4.0


@dataclass(frozen=True, slots=True)
class Scene:
    """Content of a picture; where things are is left to each drawing of it.

    Every field is an index: ``kind`` into :data:`ALL_KINDS`, ``hue`` and ``background`` into the
    colour circle of :data:`HUES`, ``count`` into :data:`COUNTS`, ``texture`` into
    :data:`TEXTURES`.
    """

    kind: int
    hue: int
    background: int
    count: int
    texture: int

    def labels(self) -> tuple[int, ...]:
        """The five indices, in the order of :data:`ATTRIBUTES`."""
        return astuple(self)


def held_out_scenes() -> frozenset[Scene]:
    """A tenth of all scenes, the same in every run; training never draws them."""
    return _held_out


def training_scenes(rng: np.random.Generator, blocked_share: float = 0.1) -> Iterator[Scene]:
    """Endless scenes to train on; ``blocked_share`` of them show the blocked kind."""
    while True:
        kind = len(KINDS) if rng.random() < blocked_share else int(rng.integers(len(KINDS)))
        scene = Scene(kind, *(int(rng.integers(n)) for n in list(ATTRIBUTES.values())[1:]))
        if scene not in _held_out:
            yield scene


def sample_held_out(n: int, rng: np.random.Generator, *, blocked: bool = False) -> list[Scene]:
    """``n`` different held-out scenes, all with the blocked kind or all without it."""
    wanted = sorted(
        (scene for scene in _held_out if (scene.kind == len(KINDS)) == blocked),
        key=Scene.labels,
    )
    return [wanted[i] for i in rng.choice(len(wanted), n, replace=False)]


def draw(scene: Scene, rng: np.random.Generator, world: World = DEMO) -> Picture:
    """One drawing of ``scene``: RGB, uint8 of shape ``[SIZE, SIZE, 3]``."""
    picture = Image.fromarray(_background(scene, rng, world.turn))
    fill = _things(scene, rng, world)
    outline = fill.filter(ImageFilter.MaxFilter(2 * _OVERSAMPLING + 1))
    hue = scene.hue + world.turn
    dark, colour = _colour(hue, 0.9, 0.3), _colour(hue, 0.88, 0.92)
    for tone, mask in ((dark, outline), (colour, fill)):
        picture.paste(tone, mask=mask.reduce(_OVERSAMPLING))
    return np.asarray(picture)


def draw_field(rng: np.random.Generator) -> tuple[Picture, Picture]:
    """Two crops of one soft field of random colours, grainy or not: as coarse as a photograph."""
    cells = int(rng.integers(2, 7))
    palette = rng.random((int(rng.integers(2, 5)), 3)) ** rng.uniform(0.6, 1.6)
    coarse = (palette[rng.integers(len(palette), size=(cells, cells))] * 255).astype(np.uint8)
    field = Image.fromarray(coarse).resize((2 * SIZE, 2 * SIZE), Image.Resampling.BICUBIC)
    grain = float(rng.choice([0.0, 4.0, 12.0]))
    return _crop(field, grain, rng), _crop(field, grain, rng)


def _crop(field: Image.Image, grain: float, rng: np.random.Generator) -> Picture:
    left, top = (int(rng.integers(SIZE // 2)) for _ in range(2))
    side = int(rng.integers(SIZE, 3 * SIZE // 2))
    box = (left, top, left + side, top + side)
    smooth = field.resize((SIZE, SIZE), Image.Resampling.BOX, box)
    noisy = np.asarray(smooth) + rng.normal(0, grain, (SIZE, SIZE, 1))
    crop: Picture = np.clip(noisy, 0, 255).astype(np.uint8)
    return crop


def _background(scene: Scene, rng: np.random.Generator, turn: float) -> Picture:
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
    angle = rng.uniform(0, 2 * math.pi)
    blend = (0.5 + x * math.cos(angle) + y * math.sin(angle))[..., None].clip(0, 1)
    light, dark = (
        np.array(_colour(scene.background + turn, s, v)) for s, v in ((0.25, 0.97), (0.5, 0.68))
    )
    shade = 1 - 0.22 * _texture(TEXTURES[scene.texture], x * SIZE, y * SIZE, rng)[..., None]
    shaded: Picture = np.clip((light * (1 - blend) + dark * blend) * shade, 0, 255).astype(np.uint8)
    return shaded


def _texture(
    name: str, x: NDArray[np.float64], y: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Ink between 0 and 1 at every pixel, its edges a pixel soft."""
    if name == "plain":
        return np.zeros_like(x)
    turn, period = rng.uniform(0, math.pi), rng.uniform(9, 12)
    u = x * math.cos(turn) + y * math.sin(turn) + rng.uniform(0, period)
    v = y * math.cos(turn) - x * math.sin(turn) + rng.uniform(0, period)
    across, along = (np.abs((w % period) - period / 2) for w in (u, v))
    distance = across - period / 4 if name == "stripes" else np.hypot(across, along) - period / 4
    ink: NDArray[np.float64] = np.clip(0.5 - distance, 0, 1)
    return ink


def _things(scene: Scene, rng: np.random.Generator, world: World) -> Image.Image:
    side = SIZE * _OVERSAMPLING
    mask = Image.new("L", (side, side))
    shape = _SHAPES[world.kinds[scene.kind]]
    for x, y, radius in _places(COUNTS[scene.count], rng):
        turn = rng.uniform(-0.5, 0.5)
        thing = Image.new("L", mask.size)
        pen = ImageDraw.Draw(thing)
        for points, value in shape:
            pen.polygon(_moved(points, x, y, radius, turn), fill=value)
        mask.paste(255, mask=thing)
    return mask


def _places(count: int, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Centres and radii, in pixels, of things that neither touch nor leave the picture."""
    while True:
        places: list[tuple[float, float, float]] = []
        for _ in range(40 * count):
            radius = rng.uniform(*_RADII[count])
            x, y = rng.uniform(radius + 2, SIZE - radius - 2, 2)
            if all(math.hypot(x - a, y - b) > radius + r + _GAP for a, b, r in places):
                places.append((x, y, radius))
            if len(places) == count:
                return places


def _moved(points: _Points, x: float, y: float, radius: float, turn: float) -> _Points:
    cos, sin = math.cos(turn) * radius, math.sin(turn) * radius
    return [
        ((x + a * cos - b * sin) * _OVERSAMPLING, (y + a * sin + b * cos) * _OVERSAMPLING)
        for a, b in points
    ]


def _colour(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    r, g, b = colorsys.hsv_to_rgb(hue / HUES % 1, saturation, value)
    return round(r * 255), round(g * 255), round(b * 255)


def _polygon(radii: Sequence[float], points: int, x: float = 0.0, y: float = 0.0) -> _Points:
    """``points`` corners around ``(x, y)``, the first on top, their radii taken in turn."""
    corners = []
    for i in range(points):
        angle, radius = 2 * math.pi * i / points, radii[i % len(radii)]
        corners.append((x + radius * math.sin(angle), y - radius * math.cos(angle)))
    return corners


def _heart() -> _Points:
    angles = [2 * math.pi * i / 40 for i in range(40)]
    return [
        (
            math.sin(a) ** 3,
            -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)) / 16,
        )
        for a in angles
    ]


def _cross(arm: float) -> _Points:
    quarter = [(-arm, -1.0), (arm, -1.0), (arm, -arm)]
    corners = []
    for _ in range(4):
        corners += quarter
        quarter = [(-b, a) for a, b in quarter]
    return corners


_DISC = _polygon([1.0], 40)
_SHAPES: dict[str, _Shape] = {
    "circle": [(_DISC, 255)],
    "square": [([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)], 255)],
    "triangle": [(_polygon([1.05], 3, y=0.15), 255)],
    "star": [(_polygon([1.1, 0.46], 10), 255)],
    "ring": [(_DISC, 255), (_polygon([0.52], 40), 0)],
    "cross": [(_cross(0.34), 255)],
    "heart": [(_heart(), 255)],
    "moon": [(_DISC, 255), (_polygon([0.85], 40, x=0.55, y=-0.1), 0)],
    "skull": [
        (_polygon([0.86], 40, y=-0.16), 255),
        ([(-0.5, 0.4), (0.5, 0.4), (0.46, 1.0), (-0.46, 1.0)], 255),
        (_polygon([0.27], 24, x=-0.36, y=-0.12), 0),
        (_polygon([0.27], 24, x=0.36, y=-0.12), 0),
    ],
    "diamond": [(_polygon([1.1, 0.6], 4), 255)],
    "hexagon": [(_polygon([0.95], 6), 255)],
    "arrow": [
        ([(0.0, -1.0), (0.8, -0.1), (-0.8, -0.1)], 255),
        ([(-0.3, -0.1), (0.3, -0.1), (0.3, 1.0), (-0.3, 1.0)], 255),
    ],
    "drop": [(_polygon([0.66], 40, y=0.34), 255), ([(0.0, -1.0), (0.6, 0.1), (-0.6, 0.1)], 255)],
    "bolt": [
        ([(0.3, -1.0), (-0.6, 0.2), (-0.05, 0.2), (-0.3, 1.0), (0.6, -0.3), (0.05, -0.3)], 255)
    ],
    "house": [
        ([(0.0, -1.0), (0.9, -0.15), (-0.9, -0.15)], 255),
        ([(-0.65, -0.15), (0.65, -0.15), (0.65, 0.85), (-0.65, 0.85)], 255),
        ([(-0.18, 0.3), (0.18, 0.3), (0.18, 0.85), (-0.18, 0.85)], 0),
    ],
    "hourglass": [
        ([(-0.75, -0.95), (0.75, -0.95), (0.1, 0.0), (-0.1, 0.0)], 255),
        ([(-0.1, 0.0), (0.1, 0.0), (0.75, 0.95), (-0.75, 0.95)], 255),
    ],
    "clover": [
        (_polygon([0.5], 30, x=x, y=y), 255)
        for x, y in ((0.0, -0.5), (0.5, 0.0), (0.0, 0.5), (-0.5, 0.0))
    ],
}
_ALL_SCENES = [Scene(*indices) for indices in product(*map(range, ATTRIBUTES.values()))]
_held_out = frozenset(
    _ALL_SCENES[i]
    for i in np.random.default_rng(96).choice(
        len(_ALL_SCENES), len(_ALL_SCENES) // 10, replace=False
    )
)
