"""OpenEXR files: their colours, out of whatever parts, layers and windows they have, and back.

Sizes are taken from the headers, for every part and channel, before memory is. Source: the technical introduction to
OpenEXR.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dpr_jax.base.errors import BadInput
from dpr_jax.base.native_libraries import native_log_silenced

MAGIC = b"\x76\x2f\x31\x01"
_MOST_CHANNELS = 4  # for each pixel that is allowed, of all parts together
LARGEST_HALF = 65504.0
_TYPES = (np.dtype("=u4"), np.dtype("=f2"), np.dtype("=f4"))  # by their numbers in OpenEXR

_Window = tuple[int, int, int, int]  # left, top, width and height


class ExrPicture(NamedTuple):
  """The first picture of a file.

  Attributes:
    colours: `[H, W, 3]` RGB or `[H, W]` luminance, float32, of the display window.
    alpha: `[H, W]` float32, or None; the colours are multiplied by it.
    chromaticities: x and y of red, green, blue and white, as the file gives them, or None: those of sRGB.
    is_half: whether all of these have 16 bits in the file.
  """

  colours: np.ndarray
  alpha: np.ndarray | None
  chromaticities: tuple[float, ...] | None
  is_half: bool


def read_exr(path: str, check_size: Callable[[int, int], None], max_pixels: int, what: str) -> ExrPicture:
  """Reads the first part. The data window is put into the display window, black around it.

  Args:
    path: the file.
    check_size: is given the width and height of each part, and raises what a caller thinks of them.
    max_pixels: the most pixels; four values of each are read at most.
    what: "an environment map", of which a message says that it needs other channels.

  Raises:
    BadInput: it is damaged, too large, or has no colours, or those of several layers.
  """
  import OpenEXR  # 5 MB that only these files need

  try:
    with (
      native_log_silenced(),
      OpenEXR.File(path, header_only=True) as file,
    ):  # which takes the headers with it when it is closed
      first, *others = (part.header for part in file.parts)
      display, window = _window(first, "displayWindow"), _window(first, "dataWindow")
      sizes = [_window(header, "dataWindow")[2:] for header in (first, *others)]
      counts = [len(header["channels"]) for header in (first, *others)]
      names: Sequence[str] = [channel.name for channel in first["channels"]]
      chromaticities = tuple(map(float, first["chromaticities"])) if "chromaticities" in first else None
    display = display if min(display[2:]) > 0 else window
    for width, height in (display[2:], *sizes):
      check_size(width, height)
    values = sum(width * height * count for (width, height), count in zip(sizes, counts, strict=True))
    if values > _MOST_CHANNELS * max_pixels:
      raise BadInput(
        f"{path}: {values} values in {len(sizes)} parts of up to {max(counts)} channels; at most "
        f"{_MOST_CHANNELS * max_pixels} are read"
      )
    names = _colour_channels(path, names, what)
    with native_log_silenced(), contextlib.closing(OpenEXR.InputFile(path)) as file:  # which decodes these alone
      types = [_TYPES[file.header()["channels"][name].type.v] for name in names]
      stored = [np.frombuffer(plane, kind) for plane, kind in zip(file.channels(names), types, strict=True)]
  except BadInput:
    raise
  except (OSError, RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    raise BadInput(f"{path}: not an OpenEXR file, or a damaged one ({reason})") from None
  if any(plane.size != window[3] * window[2] for plane in stored):
    raise BadInput(f"{path}: its colours have fewer pixels than it has")
  planes = np.stack([plane.astype(np.float32, copy=False).reshape(window[3], window[2]) for plane in stored], axis=-1)
  planes = _in_display(planes, window, display)
  count = 3 if len(names) >= 3 else 1
  return ExrPicture(
    planes[..., :3] if count == 3 else planes[..., 0],
    planes[..., count] if len(names) > count else None,
    chromaticities,
    all(plane.dtype == np.float16 for plane in stored),
  )


def write_exr(path: str | os.PathLike, picture: ExrPicture) -> None:
  """Writes one part, scan lines under ZIP. What does not fit into 16 bits, where those are wanted, is cut off.

  Raises:
    ValueError or RuntimeError: OpenEXR cannot write it.
  """
  import OpenEXR  # 5 MB that only these files need

  planes = picture.colours if picture.alpha is None else np.dstack([picture.colours, picture.alpha])
  planes = np.atleast_3d(planes)
  if picture.is_half:
    finite = np.isfinite(planes)
    planes = np.where(finite, np.clip(planes, -LARGEST_HALF, LARGEST_HALF), planes).astype(np.float16)
  names = ("Y", "A") if picture.colours.ndim == 2 else ("R", "G", "B", "A")
  channels = {name: np.ascontiguousarray(planes[..., k]) for k, name in enumerate(names[: planes.shape[2]])}
  header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
  if picture.chromaticities is not None:
    header["chromaticities"] = picture.chromaticities
  with native_log_silenced():
    OpenEXR.File(header, channels).write(os.fspath(path))


def _window(header: dict, name: str) -> _Window:
  low, high = header[name]
  left, top, right, bottom = (int(number) for number in (*low, *high))
  return left, top, right - left + 1, bottom - top + 1


def _colour_channels(path: str, names: Sequence[str], what: str) -> tuple[str, ...]:
  """The channels of red, green and blue, or of luminance alone: without a layer, or of the one layer that has them; and
  that layer's alpha, where it has one.
  """
  layers: dict[str, dict[str, str]] = {}
  for name in names:
    layer, _, channel = name.rpartition(".")
    layers.setdefault(layer, {})[channel.lower()] = name
  for wanted in (("r", "g", "b"), ("red", "green", "blue"), ("y",), ("l",)):
    found = {layer: channels for layer, channels in layers.items() if all(name in channels for name in wanted)}
    for likely in ("", "rgb", "rgba", "combined", "beauty"):
      found_here = [layer for layer in found if layer.lower().rpartition(".")[2] == likely]
      if len(found_here) == 1:
        return _of_layer(path, found[found_here[0]], wanted)
    if len(found) == 1:
      return _of_layer(path, next(iter(found.values())), wanted)
    if found:
      raise BadInput(f"{path}: has layers {', '.join(sorted(found))[:200]}; {what} is one of them")
  raise BadInput(f"{path}: has channels {', '.join(sorted(names))[:200]}; {what} needs R, G, B or Y")


def _of_layer(path: str, channels: dict[str, str], wanted: tuple[str, ...]) -> tuple[str, ...]:
  if wanted == ("y",) and not channels.keys().isdisjoint(("ry", "by")):
    raise BadInput(f"{path}: has luminance and chroma (Y, RY, BY); convert it to R, G and B first")
  alpha = channels.get("a") or channels.get("alpha")
  return (*(channels[name] for name in wanted), *([alpha] if alpha else []))


def _in_display(pixels: np.ndarray, window: _Window, display: _Window) -> np.ndarray:
  """What of the data window lies in the display window, black where there are no data."""
  if window == display:
    return pixels
  canvas = np.zeros((display[3], display[2], *pixels.shape[2:]), np.float32)
  left, top = window[0] - display[0], window[1] - display[1]
  inner = canvas[max(top, 0) : max(top + window[3], 0), max(left, 0) : max(left + window[2], 0)]
  inner[:] = pixels[max(-top, 0) :, max(-left, 0) :][: inner.shape[0], : inner.shape[1]]
  return canvas
