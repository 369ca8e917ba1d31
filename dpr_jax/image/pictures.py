"""Pictures for people: a contact sheet with the lit spheres, a grid of results, a film of a turning light."""

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dpr_jax.base.native_libraries import import_native
from dpr_jax.light import light as light_module
from dpr_jax.light import sh
from dpr_jax.light.light import Light

cv2 = import_native("cv2")

_SHEET_COLUMNS = 6
_SHEET_GAP = 8
_TITLE_HEIGHT, _TITLE_SCALE = 24, 0.5
_SHEET_GRAY = 104  # neither the lit nor the dark side of a sphere drowns in it
_GIF_SIDE = 480  # pixels along the longer side, at most

# Numbers of ITU-T H.273 (and FFmpeg).
_BT709 = 1
_LIMITED_RANGE = 1


def astronaut() -> np.ndarray:
  """Head and shoulders of scikit-image's astronaut (NASA, public domain), `[300, 300, 3]` uint8."""
  skimage = importlib.util.find_spec("skimage")  # which takes a second to import, for a file that lies in it
  if skimage is None or skimage.origin is None:
    raise ModuleNotFoundError("the package skimage is missing", name="skimage")
  with Image.open(Path(skimage.origin).with_name("data") / "astronaut.png") as picture:
    return np.asarray(picture)[:300, 70:370].copy()


def shrink(pixels: np.ndarray, longest_side: int) -> np.ndarray:
  """A picture `[H, W]` or `[H, W, 3]` made no larger than `longest_side`; never enlarged."""
  scale = longest_side / max(pixels.shape[:2])
  if scale >= 1:
    return pixels
  height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
  return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)


def contact_sheet(pictures: Sequence[np.ndarray], lights: Sequence[Light | np.ndarray | None]) -> np.ndarray:
  """Pictures in rows, below each the sphere under its light, as the authors show their results.

  Args:
    pictures: `[H, W, 3]` uint8, all of one size.
    lights: a `Light` or `[9]` each; None leaves the place below a picture empty.

  Returns:
    `[H', W', 3]` uint8.
  """
  cells = [_cell(picture, light) for picture, light in zip(pictures, lights, strict=True)]
  rows = -(-len(cells) // _SHEET_COLUMNS)
  columns = -(-len(cells) // rows)
  cells += [np.full_like(cells[0], _SHEET_GRAY)] * (rows * columns - len(cells))
  return _sheet([cells[start : start + columns] for start in range(0, len(cells), columns)])


def relighting_grid(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str] = ()) -> np.ndarray:
  """What networks make of faces: a row for each, with the spheres of the two lights below source and target.

  Args:
    rows: (source, source_light, target, target_light, output, ...) each: luminance `[H, W]` in [0, 1], all of one size
      (what leaves the range is clipped), and lights `[9]`. There may be several outputs, equally many in every row.
    titles: of the columns source, target, output, ..., written above them; by default nothing is.

  Returns:
    `[H', W', 3]` uint8.

  Raises:
    ValueError: no rows, or rows or titles that do not fit each other.
  """
  if not rows or len({(len(row), row[0].shape) for row in rows}) != 1 or len(rows[0]) < 5:
    raise ValueError("a grid needs rows of source, source_light, target, target_light and outputs, all of one size")
  sheet = _sheet([_relighting_cells(*row) for row in rows])
  if not titles:
    return sheet
  if len(titles) != len(rows[0]) - 2:
    raise ValueError(f"{len(titles)} titles for {len(rows[0]) - 2} columns")
  column = (sheet.shape[1] - _SHEET_GAP) // len(titles)
  return np.vstack([np.hstack([_full(_TITLE_HEIGHT, _SHEET_GAP), *(_title(text, column) for text in titles)]), sheet])


def _relighting_cells(source, source_light, target, target_light, *outputs) -> list[np.ndarray]:
  pictures = [source, target, *outputs]
  lights = [source_light, target_light, *[None] * len(outputs)]
  return [_cell(_gray_picture(picture), light) for picture, light in zip(pictures, lights, strict=True)]


def _gray_picture(luminance: np.ndarray) -> np.ndarray:
  """Luminance `[H, W]` in [0, 1] -> `[H, W, 3]` uint8."""
  levels = np.rint(255 * np.clip(luminance, 0, 1)).astype(np.uint8)
  return np.repeat(levels[..., None], 3, axis=-1)


def _title(text: str, width: int) -> np.ndarray:
  """A strip `[_TITLE_HEIGHT, width, 3]` with a line of text, or the end of it, which tells paths apart."""
  place, font = _full(_TITLE_HEIGHT, width - _SHEET_GAP), cv2.FONT_HERSHEY_SIMPLEX
  while len(text) > 3 and cv2.getTextSize(text, font, _TITLE_SCALE, 1)[0][0] > place.shape[1]:
    text = "..." + text[4:]
  cv2.putText(place, text, (0, _TITLE_HEIGHT - 4), font, _TITLE_SCALE, (255, 255, 255), 1, cv2.LINE_AA)
  return np.hstack([place, _full(_TITLE_HEIGHT, _SHEET_GAP)])


def _full(height: int, width: int) -> np.ndarray:
  return np.full((height, width, 3), _SHEET_GRAY, np.uint8)


def sphere(light: Light | np.ndarray, size: int) -> np.ndarray:
  """A white sphere under a light, `[size, size, 3]` uint8, black around the disc.

  Stretched as `sh.sphere_picture`, which draws lights of nine numbers; here it also has the lamps and the colours.

  Args:
    light: a `Light` without leading axes, or `[9]`.
    size: width in pixels.
  """
  if not isinstance(light, Light):
    return np.repeat(sh.sphere_picture(light, size)[..., None], 3, axis=-1)
  normals, disc = sh.sphere_normals(size)
  shading = np.asarray(light_module.shading(light, normals))
  luminance = shading @ light_module.LUMINANCE_WEIGHTS if light.channels == 3 else shading[..., 0]
  dark, bright = luminance.min(), np.percentile(luminance, 95)
  span = bright - dark
  level = np.minimum((luminance - dark) / span, 1) if span > 1e-6 * bright else np.ones_like(luminance)
  colour = (shading / np.maximum(luminance, 1e-6 * luminance.max())[..., None]) ** (1 / 2.2)
  picture = level[..., None] * colour
  picture = picture / np.maximum(picture.max(axis=-1, keepdims=True), 1)
  return (np.broadcast_to(picture, (*disc.shape, 3)) * disc[..., None] * 255).astype(np.uint8)


def _cell(picture: np.ndarray, light: Light | np.ndarray | None) -> np.ndarray:
  """A picture with the sphere below it (None: an empty place), and a gap on the right and at the bottom."""
  height, width = picture.shape[:2]
  side = max(16, min(height, width) // 3)
  column = max(width, side)
  cell = _full(height + side + 3 * _SHEET_GAP, column + _SHEET_GAP)
  left = (column - width) // 2
  cell[:height, left : left + width] = picture
  if light is not None:
    left = (column - side) // 2
    _draw_sphere(cell[height + _SHEET_GAP : height + _SHEET_GAP + side, left : left + side], light)
  return cell


def _sheet(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
  """Rows of cells, all of one size, with a gap all around."""
  sheet = np.vstack([np.hstack(row) for row in rows])
  return cv2.copyMakeBorder(sheet, _SHEET_GAP, 0, _SHEET_GAP, 0, cv2.BORDER_CONSTANT, value=(_SHEET_GRAY,) * 3)


def _draw_sphere(place: np.ndarray, light: Light | np.ndarray) -> None:
  """Fills a square `[S, S, 3]` with the sphere under a light, its rim smooth."""
  oversampled = 4 * len(place)
  _, disc = sh.sphere_normals(oversampled)
  picture = np.where(disc[..., None], sphere(light, oversampled), _SHEET_GRAY).astype(np.uint8)
  place[:] = cv2.resize(picture, place.shape[:2], interpolation=cv2.INTER_AREA)


def write_films(mp4: Path, gif: Path, frames: Iterable[np.ndarray], fps: int) -> None:
  """Writes frames as an H.264 MP4 and as a looping GIF, one frame in memory at a time (of the GIF: small ones).

  Args:
    mp4: where to write the MP4.
    gif: where to write the GIF, of at most 480 pixels along its longer side.
    frames: `[H, W, 3]` uint8, all of one size; an odd last row or column is left out of the MP4.
    fps: frames a second.
  """
  import av  # 35 MB that only films need

  small = []
  with av.open(mp4, "w", format="mp4", options={"movflags": "faststart"}) as container:
    stream = container.add_stream("libx264", rate=fps, options={"crf": "18", "preset": "medium"})
    stream.pix_fmt = "yuv420p"  # the one that every player knows
    # BT.709, and said so: of a film that says nothing, players guess the colours by its size.
    codec = stream.codec_context
    codec.colorspace = codec.color_primaries = codec.color_trc = _BT709
    codec.color_range = _LIMITED_RANGE
    for pixels in frames:
      even = np.ascontiguousarray(pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2])
      if not small:
        stream.height, stream.width = even.shape[:2]
      frame = av.VideoFrame.from_ndarray(even, format="rgb24")
      container.mux(stream.encode(frame.reformat(format=stream.pix_fmt, dst_colorspace=_BT709)))
      small.append(Image.fromarray(shrink(pixels, _GIF_SIDE)).quantize(colors=255, dither=Image.Dither.FLOYDSTEINBERG))
    container.mux(stream.encode())
  # GIF counts in hundredths of a second.
  small[0].save(gif, "GIF", save_all=True, append_images=small[1:], duration=round(100 / fps) * 10, loop=0)
