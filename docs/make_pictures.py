"""Makes the pictures of the pages in this folder.

python docs/make_pictures.py

Everything is drawn in linear light with the library's own functions: a procedural face whose normals and depth are
known, and scikit-image's astronaut (NASA, public domain) with the normals of the mesh that is fitted to her, relit by
ratio images. No trained relighting network takes part. The same command gives the same pictures.
"""

import functools
import io
import re
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage import data

from data_gen.face_maps import Label
from data_gen.pages import normal_picture
from data_gen.portraits import PhotoFolder
from data_gen.procedural_faces import Scene, draw_face, geometry
from data_gen.synthesis import Settings, Synthesis
from data_gen.target_lights import TargetLight
from dpr_jax.base.errors import BadInput
from dpr_jax.base.native_libraries import import_native
from dpr_jax.image import color, pictures
from dpr_jax.light import exposure, sh
from dpr_jax.light import light as light_module
from dpr_jax.light import prior as light_prior
from dpr_jax.light.light import Light
from dpr_jax.light.shading import face_shading
from dpr_jax.portrait import lights
from dpr_jax.portrait.compositing import multiply_light

cv2 = import_native("cv2")

HERE = Path(__file__).resolve().parent

_GAP = 10
_GRAY = 104  # the ground of the library's own sheets
_WALL = 134  # behind balls and faces: neither their lit nor their dark side drowns in it
_WHITE, _FAINT = (255, 255, 255), (214, 214, 214)
_ORANGE, _BLUE, _GREEN = (255, 160, 40), (60, 130, 240), (110, 205, 120)
_BIG, _SMALL = 17, 14  # letters, in pixels
_FINER = 2  # everything is rendered so many times larger, for smooth edges
_KEY = 0.5  # linear luminance of the lit side of white things
_FARTHEST = -9.0  # depth of the backdrop, which casts no shadows
_SIDE = 176


# ---------------------------------------------------------------------------------------------------------------------
# Letters and sheets.


def _font(size: float) -> ImageFont.FreeTypeFont:
  return ImageFont.load_default(size)  # comes with Pillow, on every machine the same


def _write(
  draw: ImageDraw.ImageDraw,
  place: tuple[float, float],
  text: str,
  size: float = _SMALL,
  fill: tuple[int, int, int] = _WHITE,
  anchor: str = "la",
) -> None:
  """Writes one line, in which `^2` is a raised 2."""
  parts = [part for part in re.split(r"(\^\d)", text) if part]
  fonts = [_font(0.7 * size) if part.startswith("^") else _font(size) for part in parts]
  widths = [draw.textlength(part.lstrip("^"), font) for part, font in zip(parts, fonts, strict=True)]
  x, y = place
  x -= {"l": 0, "m": sum(widths) / 2, "r": sum(widths)}[anchor[0]]
  for part, font, width in zip(parts, fonts, widths, strict=True):
    lift = 0.1 * size if part.startswith("^") and anchor[1] == "a" else 0.28 * size if part.startswith("^") else 0
    draw.text((x, y - lift), part.lstrip("^"), fill, font, anchor="l" + anchor[1])
    x += width


def _ground(height: int, width: int) -> np.ndarray:
  return np.full((height, width, 3), _GRAY, np.uint8)


def _captioned(picture: np.ndarray, lines: Sequence[str], width: int | None = None) -> np.ndarray:
  """A picture `[H, W, 3]` with lines of text below it, the first one larger."""
  height, own = picture.shape[:2]
  width = width or own
  cell = _ground(height + 8 + 20 * len(lines), width)
  left = (width - own) // 2
  cell[:height, left : left + own] = picture
  image = Image.fromarray(cell)
  for number, line in enumerate(lines):
    _write(
      ImageDraw.Draw(image),
      (width / 2, height + 6 + 20 * number),
      line,
      _BIG if number == 0 else _SMALL,
      _WHITE if number == 0 else _FAINT,
      "ma",
    )
  return np.asarray(image)


def _row(cells: Sequence[np.ndarray]) -> np.ndarray:
  """Cells of one height side by side, with gaps between and around them but not above and below."""
  gap = _ground(len(cells[0]), _GAP)
  return np.hstack([gap, *(part for cell in cells for part in (cell, gap))])


def _stack(rows: Sequence[np.ndarray]) -> np.ndarray:
  """Rows of cells above each other; a shorter one is centred."""
  width = max(row.shape[1] for row in rows)
  gap = _ground(_GAP, width)
  full = []
  for row in rows:
    left = (width - row.shape[1]) // 2
    whole = _ground(len(row), width)
    whole[:, left : left + row.shape[1]] = row
    full += [whole, gap]
  return np.vstack([gap, *full])


def _grid(cells: Sequence[np.ndarray], columns: int) -> np.ndarray:
  return _stack([_row(cells[start : start + columns]) for start in range(0, len(cells), columns)])


def _shrunk(picture: np.ndarray, side: int) -> np.ndarray:
  return cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)


# ---------------------------------------------------------------------------------------------------------------------
# Things to put under a light.


def _tone(linear: np.ndarray) -> np.ndarray:
  """Linear light `[H, W]` or `[H, W, C]` as a picture, `[H, W, 3]` uint8."""
  linear = np.broadcast_to(np.atleast_3d(linear), (*linear.shape[:2], 3))
  return np.rint(255 * color.delinearise(np.clip(linear, 0, 1))).astype(np.uint8)


def _on_wall(picture: np.ndarray, where: np.ndarray, side: int, wall: int = _WALL) -> np.ndarray:
  """A picture `[S, S, 3]` on plain gray where `where` is false, made smaller with smooth edges."""
  return _shrunk(np.where(where[..., None], picture, np.uint8(wall)), side)


def _exposed(shading: np.ndarray, where: np.ndarray) -> np.ndarray:
  """A shading `[H, W, C]` of a white thing that lies where `where` is, its lit side as bright as `_KEY`."""
  return shading * (_KEY / exposure.key(light_module.luminance(shading), where.astype(np.float32)))


def _ball(light: Light | np.ndarray, side: int = _SIDE, brightness: float | None = None) -> np.ndarray:
  """A white ball under a light; where a brightness is given, that of a surface of shading 1, it is not exposed."""
  normals, disc = sh.sphere_normals(_FINER * side)
  shading = light_module.shading(light_module.as_light(light), normals)
  return _on_wall(_tone(_exposed(shading, disc) if brightness is None else brightness * shading), disc, side)


@functools.cache
def _scene(**changes: object) -> Scene:
  """A procedural face that looks into the camera, with other traits where some are named."""
  straight = {"yaw": 0.0, "pitch": 0.0, "roll": 0.0, "gaze_right": 0.0, "gaze_up": 0.0}
  face = draw_face(np.random.default_rng(1))._replace(**straight, skin_tone=0.42, freckles=0.1, mouth_open=0.0)
  return geometry(face._replace(**changes), _FINER * 192)


def _skin(scene: Scene) -> np.ndarray:
  """`[S, S]` float32, 1 on the skin of the face."""
  return (scene.label == Label.SKIN).astype(np.float32)


def _shading_of(scene: Scene, light: Light | np.ndarray) -> np.ndarray:
  """`face_shading`, `[S, S, C]`: attached and cast shadows, and some light thrown back."""
  depth = np.where(scene.foreground, scene.depth / len(scene.depth), _FARTHEST).astype(np.float32)
  return np.asarray(_FACE_SHADING(scene.normal, depth, _skin(scene), light_module.as_light(light)))


_FACE_SHADING = jax.jit(face_shading)


def _clay(shading: np.ndarray, side: int = _SIDE) -> np.ndarray:
  """The face as white clay, under a shading of its pixels, as bright as it is."""
  return _on_wall(_tone(shading), _scene().foreground, side)


def _clay_under(light: Light | np.ndarray, side: int = _SIDE) -> np.ndarray:
  """The face as white clay, exposed."""
  return _clay(_exposed(_shading_of(_scene(), light), _skin(_scene()) > 0), side)


def _portrait(
  light: Light | np.ndarray,
  strength: float = 1.0,
  stops: float = 0.0,
  side: int = _SIDE,
  *,
  keeps_key: bool = True,
) -> np.ndarray:
  """The painted face under a light, as `dpr_jax.portrait.portrait` relights a photo, but by its true shape.

  Args:
    light: gray or RGB, or nine numbers.
    strength: exponent of the ratio.
    stops: by how much brighter than the photo its skin becomes.
    side: of the picture, in pixels.
    keeps_key: whether the lit side stays as bright; otherwise a surface of shading 1 does.
  """
  scene, skin = _scene(), _skin(_scene())
  photo = np.where(scene.foreground[..., None], scene.albedo, scene.backdrop).astype(np.float32)
  log_ratio = np.log(_shading_of(scene, light)) - np.log(_shading_of(scene, _EVEN))
  before = light_module.luminance(photo)
  if keeps_key:
    after = light_module.luminance(before[..., None] * np.exp(log_ratio))
    log_ratio = log_ratio + np.log(exposure.key(before, skin) / exposure.key(after, skin))
  # The backdrop hangs behind the head and is not lit by the lamp.
  log_ratio = np.where(scene.foreground[..., None], strength * (log_ratio + np.log(2) * stops), 0).astype(np.float32)
  return _shrunk(_tone(multiply_light(photo, log_ratio)), side)


# Light that shows the colours and no shape.
_EVEN = light_module.even_light()


class _GivenLights:
  """A source of soft lights, nine numbers each, that always gives the same ones, in their order."""

  name = fingerprint = "given"
  rejected = ()

  def __init__(self, given: Sequence[np.ndarray]):
    self._given = given

  def draw(self, rng: np.random.Generator, count: int) -> list[TargetLight]:
    return [TargetLight(f"given {number}", light, None) for number, light in enumerate(self._given)]


def _relit_photo(given: Sequence[np.ndarray], side: int = _SIDE) -> list[np.ndarray]:
  """The astronaut as she is, then under each light, as `export_dataset.py` makes it."""
  with tempfile.TemporaryDirectory() as folder:
    Image.fromarray(data.astronaut()).save(Path(folder, "astronaut.png"))
    settings = Settings(
      source=folder, size=384, normals="face_mesh", light_estimator="fit", lights_per_image=len(given)
    )
    with Synthesis(settings, _GivenLights(given)) as synthesis:
      (result,) = synthesis.relit("astronaut.png")
  return [_shrunk(picture, side) for picture in (result.record.original, *result.record.relit)]


# ---------------------------------------------------------------------------------------------------------------------
# spherical_harmonics.md


# The basis is shown from a place to the right of the camera and above it, so that no axis is hidden.
_VIEWER = sh.direction(-35, 22).astype(float)
_RIGHTWARDS = np.cross([0.0, 0.0, 1.0], -_VIEWER)
_RIGHTWARDS *= -1 / np.linalg.norm(_RIGHTWARDS)
_UPWARDS = np.cross(_RIGHTWARDS, -_VIEWER)


def _seen(direction: Sequence[float]) -> np.ndarray:
  """Where a direction lies in that view: right, down, towards the viewer."""
  return np.array([direction @ _RIGHTWARDS, -(direction @ _UPWARDS), direction @ _VIEWER])


def _painted_sphere(values: Callable[[np.ndarray], np.ndarray], side: int) -> np.ndarray:
  """A sphere seen from `_VIEWER`: orange where a function of the direction is positive, blue where it is negative."""
  grid = np.linspace(-1, 1, _FINER * side)
  u, v = np.meshgrid(grid, -grid)
  disc = u**2 + v**2 <= 1
  w = np.sqrt(np.maximum(1 - u**2 - v**2, 0))
  value = values(u[..., None] * _RIGHTWARDS + v[..., None] * _UPWARDS + w[..., None] * _VIEWER)[..., None]
  tint = np.where(value > 0, np.array(_ORANGE, float), np.array(_BLUE, float))
  share = np.minimum(np.abs(value), 1) ** 0.8
  picture = (255 * (1 - share) + tint * share) * (0.62 + 0.38 * w[..., None])
  return _on_wall(picture.astype(np.uint8), disc, side, _GRAY)


def sh_basis() -> np.ndarray:
  """The nine basis functions, painted on spheres, band under band."""
  side = 132
  names = ("1", "y", "z", "x", "xy", "yz", "3z^2 - 1", "xz", "x^2 - y^2")
  largest = np.abs(sh.basis(_sphere_points())).max(axis=0)

  def cell(number):
    sphere = _painted_sphere(lambda points: sh.basis(points)[..., number] / largest[number], side)
    return _captioned(sphere, [f"{number}:  {names[number]}"])

  bands = [_row([cell(number) for number in numbers]) for numbers in ((0,), (1, 2, 3), (4, 5, 6, 7, 8))]
  sheet = Image.fromarray(_stack(bands))
  draw = ImageDraw.Draw(sheet)
  _draw_axes(sheet, (118, 92), 62)
  for line, tint, text in (
    (0, _ORANGE, "positive: adds light"),
    (1, _WHITE, "zero"),
    (2, _BLUE, "negative: takes away"),
  ):
    x, y = sheet.width - 226, 40 + 34 * line
    draw.rounded_rectangle((x, y, x + 24, y + 24), 5, tint)
    _write(draw, (x + 34, y + 12), text, anchor="lm")
  return np.asarray(sheet)


def _sphere_points() -> np.ndarray:
  normals, disc = sh.sphere_normals(65)
  front = normals[disc].astype(float)
  return np.concatenate([front, -front])


def _draw_axes(sheet: Image.Image, centre: tuple[int, int], length: float) -> None:
  """The three axes as `_VIEWER` sees them, with a small camera where the photographer stands."""
  scale = 4
  large = Image.new("RGBA", (sheet.width * scale // 2, 200 * scale), (0, 0, 0, 0))
  draw = ImageDraw.Draw(large)
  origin = np.array(centre, float) * scale
  labels = []
  for axis, name in ((np.array([1.0, 0, 0]), "x"), (np.array([0, 1.0, 0]), "y"), (np.array([0, 0, 1.0]), "z")):
    tip = origin + length * scale * _seen(axis)[:2]
    _draw_arrow(draw, origin, tip, 2.2 * scale, _WHITE)
    along = (tip - origin) / np.linalg.norm(tip - origin)
    labels.append(((tip + 13 * scale * along) / scale, name))
  camera = origin + length * scale * _seen(np.array([0, -1.0, 0]))[:2]
  draw.line((*origin, *camera), (*_FAINT, 130), round(1.2 * scale))
  x, y = camera
  draw.rounded_rectangle((x - 13 * scale, y - 7 * scale, x + 9 * scale, y + 9 * scale), 3 * scale, _FAINT)
  draw.polygon(
    [(x + 9 * scale, y - 1 * scale), (x + 17 * scale, y - 6 * scale), (x + 17 * scale, y + 6 * scale)], _FAINT
  )
  small = large.resize((large.width // scale, large.height // scale), Image.LANCZOS)
  sheet.paste(small, (0, 0), small)
  draw = ImageDraw.Draw(sheet)
  for place, name in labels:
    _write(draw, tuple(place), name, _BIG, anchor="mm")
  _write(draw, (camera[0] / scale, camera[1] / scale + 13), "camera", _SMALL, _FAINT, "ma")


def _draw_arrow(draw: ImageDraw.ImageDraw, start: np.ndarray, tip: np.ndarray, width: float, fill) -> None:
  along = (tip - start) / np.linalg.norm(tip - start)
  across = np.array([-along[1], along[0]])
  neck = tip - 4 * width * along
  draw.line((*start, *neck), fill, round(width))
  draw.polygon([tuple(tip), tuple(neck + 2 * width * across), tuple(neck - 2 * width * across)], fill)


_LAMP = sh.direction(50, 30)
_DIMMED = 0.28  # so that the brightest of the pictures is just not overexposed


def _point_lamp(dc: float = 0.75) -> np.ndarray:
  """The nine numbers of a lamp that is a point, cut off after band 2."""
  harmonics = sh.basis(_LAMP.astype(float))
  return harmonics * dc / harmonics[0]


def sh_bands() -> np.ndarray:
  """A point lamp built up band by band, beside the lamp itself: on a ball and on a face."""
  lamp = _point_lamp()
  side = 168
  # A point lamp that sends as much light as the nine numbers: radiance dc * Y0 on average, 4 pi of it.
  power = lamp[0] * sh.basis(np.array([0.0, -1.0, 0.0]))[0] * 4 * np.pi
  scene, (normals, disc) = _scene(), sh.sphere_normals(_FINER * side)
  columns = []
  for bands, title in ((1, "band 0"), (4, "bands 0 and 1"), (9, "bands 0, 1 and 2")):
    light = np.where(np.arange(9) < bands, lamp, 0)
    numbers = "1 number" if bands == 1 else f"{bands} numbers"
    columns.append(([sh.shading(normal.astype(float), light) for normal in (normals, scene.normal)], title, numbers))
  point = [power * np.maximum(normal.astype(float) @ _LAMP, 0) for normal in (normals, scene.normal)]
  columns.append((point, "the lamp itself", "max(0, cos)"))
  cells = []
  for (ball, face), title, below in columns:
    ball, face = _on_wall(_tone(_DIMMED * ball), disc, side), _clay(_DIMMED * face, side)
    cells.append(np.vstack([ball, _ground(_GAP, side), _captioned(face, [title, below])]))
  return _stack([_row(cells)])


def sh_curves() -> np.ndarray:
  """How bright a surface is that is turned away from a point lamp: the truth, and what bands 0, 1 and 2 make of it."""
  width, height, scale = 760, 330, 3
  left, right, top, bottom = 64, 24, 22, 50
  image = Image.new("RGB", (width * scale, height * scale), (_GRAY,) * 3)
  draw = ImageDraw.Draw(image)
  low, high = -0.22, 1.12

  def place(degrees, value):
    x = left + (width - left - right) * degrees / 180
    y = top + (height - top - bottom) * (high - value) / (high - low)
    return x, y

  def line(points, fill, thick):
    draw.line([(x * scale, y * scale) for x, y in points], fill, round(thick * scale), joint="curve")

  for value in (0, 0.5, 1):
    line([place(0, value), place(180, value)], (150,) * 3 if value else _FAINT, 1)
  for degrees in range(0, 181, 45):
    line([place(degrees, low), place(degrees, low + 0.03)], _FAINT, 1)
  cosine = np.cos(np.radians(np.arange(181)))
  polynomials = np.stack([np.ones(181), cosine, (3 * cosine**2 - 1) / 2], axis=-1)
  # Shading under a point lamp of strength 1: the clamped cosine, whose bands are LAMBERTIAN times (2 l + 1) / 4 pi.
  weights = sh.LAMBERTIAN[[0, 1, 4]] * np.array([1, 3, 5]) / (4 * np.pi)
  curves = [(np.maximum(cosine, 0), _WHITE, 3.4)]
  for count, tint in ((1, _BLUE), (2, _GREEN), (3, _ORANGE)):
    curves.append((polynomials[:, :count] @ weights[:count], tint, 2.6))
  for values, tint, thick in curves:
    line([place(degrees, value) for degrees, value in enumerate(values)], tint, thick)
  image = image.resize((width, height), Image.LANCZOS)
  draw = ImageDraw.Draw(image)
  for value in (0, 0.5, 1):
    _write(draw, (left - 10, place(0, value)[1]), f"{value:g}", anchor="rm")
  for degrees in range(0, 181, 45):
    anchor = "ma" if degrees < 180 else "ra"
    _write(draw, (place(degrees, 0)[0], height - bottom + 6), f"{degrees}°", anchor=anchor)
  _write(draw, (left + (width - left - right) / 2, height - 20), "angle between surface normal and lamp", anchor="ma")
  for number, (text, tint) in enumerate(
    (
      ("the lamp itself: max(0, cos)", _WHITE),
      ("bands 0, 1 and 2: nine numbers", _ORANGE),
      ("bands 0 and 1", _GREEN),
      ("band 0", _BLUE),
    )
  ):
    x, y = 470, 34 + 25 * number
    draw.line((x, y, x + 28, y), tint, 4)
    _write(draw, (x + 38, y), text, anchor="lm")
  return np.asarray(image)


def sh_light_face() -> np.ndarray:
  """Three lights of nine numbers, each on a ball, on a face of clay, on a painted face and on a photo."""
  given = {
    "from the left": sh.directional(sh.direction(65, 10), 0.1),
    "from above": sh.directional(sh.direction(0, 60), 0.1),
    "from the upper right": sh.directional(sh.direction(-50, 40), 0.1),
  }
  photo, *relit = _relit_photo(list(given.values()))
  normals, disc = sh.sphere_normals(_FINER * _SIDE)
  scene = _scene()
  first = [
    _on_wall(normal_picture(normals), disc, _SIDE),
    _on_wall(normal_picture(scene.normal), scene.foreground, _SIDE),
    _portrait(_EVEN),
    photo,
  ]
  titles = ("normals of a ball", "normals of a face", "its colours", "a photo")
  rows = [_row([_captioned(picture, [title]) for picture, title in zip(first, titles, strict=True)])]
  for (name, light), result in zip(given.items(), relit, strict=True):
    cells = [_ball(light), _clay_under(light), _portrait(light), result]
    titles = (name, "", "", "")
    rows.append(_row([_captioned(picture, [title]) for picture, title in zip(cells, titles, strict=True)]))
  return _stack(rows)


def sh_shadows() -> np.ndarray:
  """One lamp: as nine numbers, and as a lamp with attached shadows, and with cast shadows."""
  side, fill = 196, 0.1
  scene = _scene(hair_style="bald")
  lamp = light_module.key_and_fill(sh.direction(38, 45), fill, 6)
  softbox = lamp._replace(size=np.float32([40]))
  shown = (
    (sh.shading(scene.normal, light_module.harmonics(lamp)[0]), ["nine numbers", "the shadow has no edge"]),
    (light_module.shading(lamp, scene.normal), ["attached shadow", "where it faces away"]),
    (_shading_of(scene, lamp), ["with cast shadow", "where something is in the way"]),
    (_shading_of(scene, softbox), ["a larger lamp", "40 degrees instead of 6"]),
  )
  brightness = 0.62
  return _grid(
    [_captioned(_on_wall(_tone(brightness * shading), scene.foreground, side), lines, 206) for shading, lines in shown],
    4,
  )


# ---------------------------------------------------------------------------------------------------------------------
# conventions.md


def directions() -> np.ndarray:
  """Six lamps, where they stand, and what they light."""
  named = (
    ("front", (0, 0), "y = -1"),
    ("behind", (180, 0), "y = +1"),
    ("picture's left", (90, 0), "x = -1"),
    ("picture's right", (-90, 0), "x = +1"),
    ("above", (0, 90), "z = +1"),
    ("below", (0, -90), "z = -1"),
  )
  side, cells = 132, []
  for title, angles, axis in named:
    light = lights.studio_light(lights.Direction(*angles, fill=0.15))
    lines = [title, axis, f"azimuth {angles[0]}°", f"elevation {angles[1]}°"]
    # All with one exposure: what a lamp behind the head leaves dark is dark here.
    ball, face = _ball(light, side, brightness=_KEY), _portrait(light, side=side, keeps_key=False)
    cells.append(_captioned(np.vstack([ball, _ground(_GAP, side), face]), lines))
  return _grid(cells, 6)


def axes() -> np.ndarray:
  """The axes as the camera sees them, azimuth from above, elevation from the side."""
  side, scale = 264, 3
  front = Image.fromarray(_shrunk(np.asarray(_portrait(_EVEN, side=2 * _SIDE)), side))
  large = front.resize((side * scale, side * scale), Image.LANCZOS)
  draw, middle = ImageDraw.Draw(large), np.array([side / 2, side * 0.5]) * scale
  for tip in ((0.93, 0.5), (0.5, 0.07)):
    _draw_arrow(draw, middle, np.array(tip) * side * scale, 3 * scale, _WHITE)
  draw.ellipse((*(middle - 8 * scale), *(middle + 8 * scale)), outline=_WHITE, width=3 * scale)
  for sign in (-1, 1):
    draw.line((*(middle - 5 * scale * np.array([1, sign])), *(middle + 5 * scale * np.array([1, sign]))), _WHITE, 6)
  front = large.resize((side, side), Image.LANCZOS)
  draw = ImageDraw.Draw(front)
  for place, text, anchor in (
    ((0.94, 0.44), "x", "rm"),
    ((0.545, 0.08), "z", "lm"),
    ((0.545, 0.57), "y: into it", "lm"),
  ):
    x, y = np.array(place) * side
    draw.text((x, y), text, _WHITE, _font(19), anchor=anchor, stroke_width=3, stroke_fill=(40, 40, 40))
  cells = [
    _captioned(np.asarray(front), ["the picture", "x: its right, z: up, y: into it"]),
    _captioned(_angle_drawing(side, scale, top=True), ["from above: azimuth", "grows to the picture's left"]),
    _captioned(_angle_drawing(side, scale, top=False), ["from the side: elevation", "grows upwards"]),
  ]
  return _grid(cells, 3)


def _angle_drawing(side: int, scale: int, *, top: bool) -> np.ndarray:
  """A head, the camera, and lamps at some angles around it."""
  image = Image.new("RGB", (side * scale, side * scale), (_GRAY,) * 3)
  draw = ImageDraw.Draw(image)
  # From above the camera is at the bottom, and the picture's left is left. From the side it is at the left.
  centre, radius = np.array([side * 0.5, side * 0.5]) * scale, 0.375 * side * scale
  if top:
    angles = {0: "0°", 45: "45°", 90: "90°", 135: "135°", 180: "180°", -45: "-45°", -90: "-90°", -135: "-135°"}
  else:
    angles = {0: "0°", 45: "45°", 90: "90°", -45: "-45°", -90: "-90°"}

  def at(degrees, distance=1.0):
    turned = np.radians(degrees)
    if top:
      return centre + distance * radius * np.array([-np.sin(turned), np.cos(turned)])
    return centre - distance * radius * np.array([np.cos(turned), np.sin(turned)])

  steps = np.linspace(-180, 180, 200) if top else np.linspace(-90, 90, 120)
  draw.line([tuple(at(degrees)) for degrees in steps], (150,) * 3, round(1.5 * scale))
  head = 0.36 * radius
  draw.ellipse((*(centre - head), *(centre + head)), _FAINT)
  nose = at(0, 0.5)
  along = (nose - centre) / np.linalg.norm(nose - centre)
  across = np.array([-along[1], along[0]])
  base = centre + 0.9 * head * along
  draw.polygon([tuple(nose), tuple(base + 0.3 * head * across), tuple(base - 0.3 * head * across)], _FAINT)
  if top:
    for sign in (-1, 1):
      ear = centre + sign * 1.02 * head * across
      draw.ellipse((*(ear - 0.2 * head), *(ear + 0.2 * head)), _FAINT)
  for degrees in angles:
    x, y = at(degrees)
    size = (7 if degrees else 0) * scale
    draw.ellipse((x - size, y - size, x + size, y + size), (255, 214, 90))
  x, y = at(0)
  draw.rounded_rectangle((x - 13 * scale, y - 9 * scale, x + 13 * scale, y + 9 * scale), 3 * scale, (40, 40, 40))
  draw.ellipse((x - 6 * scale, y - 6 * scale, x + 6 * scale, y + 6 * scale), _FAINT)
  image = image.resize((side, side), Image.LANCZOS)
  draw = ImageDraw.Draw(image)
  for degrees, text in angles.items():
    place = at(degrees, 0.745) if degrees else at(0, 1.0) + (np.array([24, 0]) if top else np.array([0, 24])) * scale
    _write(draw, tuple(place / scale), text, anchor=("lm" if top and not degrees else "mm"))
  return np.asarray(image)


# ---------------------------------------------------------------------------------------------------------------------
# lights.md


def presets() -> np.ndarray:
  """Every preset, with its direction, fill and size, and the lighting ratio."""
  side, cells = 148, []
  for name, preset in lights.PRESETS.items():
    light = lights.parse_light(name)
    lines = [_text(preset), _lighting_ratio(preset.fill)] if preset else ["the same light", "from everywhere"]
    cells.append(_captioned(_with_ball(_portrait(light, side=side), light), [name, *lines]))
  return _grid(cells, 6)


def _text(preset: lights.Direction) -> str:
  """As `--light` takes it."""
  return ",".join(f"{number:g}" for number in preset)


def _lighting_ratio(fill: float) -> str:
  """Key and fill over fill."""
  return f"{1 + 1 / fill:.0f}:1" if fill else "the lamp alone"


def _with_ball(picture: np.ndarray, light: Light | np.ndarray) -> np.ndarray:
  """A picture with the ball under its light in the lower right corner."""
  picture, side = picture.copy(), len(picture) // 3
  ball = _shrunk(pictures.sphere(light, 4 * side), side)
  disc = _shrunk(255 * sh.sphere_normals(4 * side)[1].astype(np.uint8), side).astype(float)[..., None] / 255
  place = picture[-side - 4 : -4, -side - 4 : -4]
  place[:] = (ball + (1 - disc) * place).astype(np.uint8)
  return picture


def fill() -> np.ndarray:
  """One lamp with more and more fill, and one that gets larger."""
  rows = [
    [(f"55,25,{share:g}", _lighting_ratio(share)) for share in (0, 0.1, 0.25, 0.5, 1)],
    [(f"55,25,0.1,{size:g}", f"{size:g} degrees") for size in (0.5, 10, 20, 40, 60)],
  ]
  return _stack([_row([_under(text, [text, below]) for text, below in row]) for row in rows])


def _under(text: str, lines: Sequence[str]) -> np.ndarray:
  """The face and the ball under a light that is named as `--light` takes it, with lines of text below."""
  light = lights.parse_light(text)
  return _captioned(_with_ball(_portrait(light), light), lines)


def strength() -> np.ndarray:
  """The two dials of `relight.py`."""
  light = lights.parse_light("left-top")
  rows = [
    [_captioned(_portrait(light, value), [f"--strength={value:g}"]) for value in (0, 0.5, 1, 1.5)],
    [_captioned(_portrait(light, stops=value), [f"--exposure={value:g}"]) for value in (-1, -0.5, 0, 0.5)],
  ]
  return _stack([_row(row) for row in rows])


def turning() -> np.ndarray:
  """A light that goes round the head, and one that goes round the view axis."""
  start = lights.parse_light("60,35")
  rows = []
  for function, name in ((sh.turn, "turn"), (sh.roll, "roll")):
    cells = []
    for degrees in (0, 60, 120, 180, 240, 300):
      light = light_module.rotate(start, function(degrees))
      cells.append(_captioned(_with_ball(_portrait(light, side=148), light), [f"{name}({degrees})"]))
    rows.append(_row(cells))
  return _stack(rows)


def prior() -> np.ndarray:
  """Lights that the built-in prior draws, nine numbers each."""
  drawn = np.asarray(jax.vmap(light_prior.draw_light)(jax.random.split(jax.random.key(0), 12)))
  return _grid([_with_ball(_portrait(light, side=148), light) for light in drawn], 6)


# ---------------------------------------------------------------------------------------------------------------------
# your_own_dataset.md


def rejected() -> np.ndarray:
  """Photos that the export refuses, each with the reason that it gives."""
  photo = data.astronaut()
  photos = {
    "fine.png": photo,
    "gray.png": np.repeat(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=-1),
    "cut.png": np.ascontiguousarray(photo[20:280, 196:456]),
    "tiny.png": cv2.resize(photo[:300, 70:370], (96, 96), interpolation=cv2.INTER_AREA),
    "none.png": data.coffee(),
  }
  side, cells = 196, []
  with tempfile.TemporaryDirectory() as folder:
    for name, picture in photos.items():
      Image.fromarray(picture).save(Path(folder, name))
    source = PhotoFolder(Path(folder), 256)
    source.open()
    for name, picture in photos.items():
      cells.append(_captioned(_squared(picture, side), _wrapped(_reason(source, name))))
    source.close()
  return _grid(cells, 5)


def _reason(source: PhotoFolder, name: str) -> str:
  try:
    (portrait,) = source.load(name)
  except BadInput as error:
    return str(error)
  return getattr(portrait, "reason", "taken")


def _squared(picture: np.ndarray, side: int) -> np.ndarray:
  """A picture fitted into a square."""
  scale = side / max(picture.shape[:2])
  height, width = (round(length * scale) for length in picture.shape[:2])
  cell = _ground(side, side)
  top, left = (side - height) // 2, (side - width) // 2
  way = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST  # few pixels are seen to be few
  cell[top : top + height, left : left + width] = cv2.resize(picture, (width, height), interpolation=way)
  return cell


def _wrapped(text: str) -> list[str]:
  """A reason as three lines; the first, larger one ends at the colon, or where it is full."""
  title, _, rest = text.partition(": ")
  while len(title) > 18:
    title, _, word = title.rpartition(" ")
    rest = f"{word} {rest}".strip()
  return [title, *textwrap.wrap(rest, 28), "", ""][:3]


# ---------------------------------------------------------------------------------------------------------------------

PICTURES: dict[str, Callable[[], np.ndarray]] = {
  "sh_basis.jpg": sh_basis,
  "sh_bands.jpg": sh_bands,
  "sh_curves.png": sh_curves,
  "sh_light_face.jpg": sh_light_face,
  "sh_shadows.jpg": sh_shadows,
  "directions.jpg": directions,
  "axes.png": axes,
  "presets.jpg": presets,
  "fill.jpg": fill,
  "strength.jpg": strength,
  "turning.jpg": turning,
  "prior.jpg": prior,
  "rejected.jpg": rejected,
}


def encode(name: str, picture: np.ndarray) -> bytes:
  """A picture `[H, W, 3]` uint8 as the bytes of its file."""
  file = io.BytesIO()
  if name.endswith(".png"):
    image = Image.fromarray(picture).quantize(128, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    image.save(file, "PNG", optimize=True)
  else:
    Image.fromarray(picture).save(file, "JPEG", quality=84, optimize=True)
  return file.getvalue()


def main() -> None:
  for name, make in PICTURES.items():
    content = encode(name, make())
    (HERE / name).write_bytes(content)
    print(f"{name}: {len(content) / 1000:.0f} kB")


if __name__ == "__main__":
  main()
