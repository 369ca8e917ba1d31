"""Films in: the decoded frames, one by one, upright, in RGB, with their timestamps, and what else the file says.

libav works in a single thread, here and where frames are encoded. In several, an encoder cuts frames into as many
slices, and a decoder makes up what is damaged from as much as the others have got ready: the cores that a run may use
would show in the film.
"""

import dataclasses
import os
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideDataType

from dpr_jax.base.errors import BadInput
from dpr_jax.base.input_files import check_regular

THREADS = 1  # of libav, for decoding, conversion and encoding each; see the module

_MOST_PIXELS = 50_000_000
_LONGEST_SIDE = 16384  # more than that H.264 cannot hold
# libav reads far more than films: text as the screen of a terminal, a photo as a film of one frame.
_NO_FILMS = ("tty", "image2", "bin", "idf", "xbin", "adf")
_OF_THE_FILE = ("major_brand", "minor_version", "compatible_brands", "encoder")  # that the metadata were read from
_FILE = "file:"  # before a name, which cannot be taken for an address then

# Numbers of ITU-T H.273 (and FFmpeg).
BT709 = 1
_UNSPECIFIED = 2
_PQ, _HLG = 16, 18
_HD_LINES = 720  # from here on films that don't say so have the colours of BT.709, by every player's custom


@dataclasses.dataclass(frozen=True)
class FilmFrame:
  """One frame as it lies in the file.

  Attributes:
    index: counted from 0.
    pts: when it is shown, in units of the film's `time_base`; larger than that of the frame before.
    duration: for how long, in the same units; 0 where the film does not say.
    coded: the decoded frame.
  """

  index: int
  pts: int
  duration: int
  coded: av.VideoFrame


class FilmReader:
  """A film, open for reading once from its beginning; use it in a `with` statement.

  Attributes:
    path: of the film.
    time_base: unit of all timestamps, in seconds.
    rate: frames a second, on average.
    seconds: how long its picture says it is, or None.
    length: about how many frames that is, or None.
    sound_tracks: how many it has.
    start: seconds by which everything is moved forward, so that the output begins at 0.
    aspect: width over height of its pixels, as they are coded.
    metadata: what the file says of the film: its title, when it was made and so on.
    picture_metadata: the same of its picture.
    damaged: whether something could not be read, so far.
    read_seconds: how much has been read, so far.
  """

  def __init__(self, path: Path):
    """Opens the film and looks at its header.

    Raises:
      BadInput: no such file, no film, no picture in it, too large, or high dynamic range.
    """
    self.path = path
    self._container = open_film(path)
    try:
      self._stream = self._video_stream()
      self._check_size(self._stream.codec_context.width, self._stream.codec_context.height)
      if self._stream.codec_context.color_trc in (_PQ, _HLG):
        raise BadInput(f"{path}: its colours are of high dynamic range (HDR); convert it to SDR first")
    except BaseException:
      self._container.close()
      raise
    self._stream.codec_context.thread_count = THREADS
    self._stream.codec_context.options = {"max_pixels": str(_MOST_PIXELS)}
    self.rate = self._stream.average_rate or self._stream.guessed_rate or Fraction(25)
    self.time_base = self._stream.time_base or 1 / Fraction(self.rate)
    sounds = self._container.streams.audio
    self.sound_tracks = len(sounds)
    seconds = self._stream.duration and self._stream.duration * self.time_base
    if not seconds and not sounds and self._container.duration:  # with sound, that of the longest track
      seconds = Fraction(self._container.duration, av.time_base)
    self.seconds = seconds or None
    self.length = self._stream.frames or (round(seconds * self.rate) if seconds else None)
    starts = [
      stream.start_time * stream.time_base for stream in (self._stream, *sounds) if stream.start_time is not None
    ]
    self.start = max(Fraction(0), min(starts, default=Fraction(0)))
    self.aspect = self._stream.sample_aspect_ratio or Fraction(1)
    self.metadata = {name: value for name, value in self._container.metadata.items() if name not in _OF_THE_FILE}
    self.picture_metadata = {
      name: self._stream.metadata[name] for name in ("creation_time", "language") if name in self._stream.metadata
    }
    self.damaged = False
    self.read_seconds = Fraction(0)
    self._size: tuple[int, int] | None = None

  def __enter__(self) -> "FilmReader":
    return self

  def __exit__(self, *exception) -> None:
    self._container.close()

  def _video_stream(self):
    if self._container.format.name.endswith("_pipe") or self._container.format.name in _NO_FILMS:
      raise BadInput(f"{self.path}: not a film (a photo is given with --image)")
    for stream in self._container.streams.video:
      if not stream.disposition & av.stream.Disposition.attached_pic and stream.codec_context is not None:
        return stream
    raise BadInput(f"{self.path}: has sound, perhaps, but no film in it")

  def _check_size(self, width: int, height: int) -> None:
    if min(width, height) < 2:
      raise BadInput(f"{self.path}: frames of {width} x {height} pixels; a film needs at least 2 x 2")
    if width * height > _MOST_PIXELS or max(width, height) > _LONGEST_SIDE:
      raise BadInput(
        f"{self.path}: frames of {width} x {height} pixels; at most {_MOST_PIXELS // 1_000_000} megapixels "
        f"and {_LONGEST_SIDE} a side"
      )

  def frames(self, skip: int = 0) -> Iterator[FilmFrame]:
    """The frames from number `skip` on, one at a time, to the end or to where the file is damaged beyond reading."""
    shift = round(self.start / self.time_base)
    step = max(1, round(1 / (self.rate * self.time_base)))
    last = None
    for index, frame in enumerate(self._decoded()):
      pts = None if frame.pts is None else frame.pts - shift
      if last is not None and (pts is None or pts <= last):
        pts = last + (step if pts is None else 1)
      last = 0 if pts is None else pts
      self.damaged = self.damaged or frame.is_corrupt
      self.read_seconds = (last + (frame.duration or step)) * self.time_base
      if index >= skip:
        yield FilmFrame(index, last, frame.duration or 0, frame)

  def _decoded(self) -> Iterator[av.VideoFrame]:
    packets = self._container.demux(self._stream)
    while True:
      try:
        packet = next(packets, None)
      except av.error.FFmpegError:
        self.damaged, packet = True, None
      if packet is None:
        return
      try:
        decoded = packet.decode()
      except av.error.FFmpegError:
        self.damaged, decoded = True, []
      for frame in decoded:
        if self._size is None:
          self._size = (frame.width, frame.height)
        yield frame

  def pixels(self, frame: FilmFrame) -> np.ndarray:
    """A frame as it is to be seen: upright, `[H, W, 3]` uint8 RGB, all of the size of the film's first one."""
    coded = frame.coded
    colours = coded.colorspace
    if colours == _UNSPECIFIED:
      colours = BT709 if min(coded.width, coded.height) >= _HD_LINES else None
    width, height = self._size
    rgb = coded.reformat(width=width, height=height, format="rgb24", src_colorspace=colours, threads=THREADS)
    return np.ascontiguousarray(_upright(rgb.to_ndarray(), _display_matrix(coded)))

  def upright_aspect(self, frame: FilmFrame) -> Fraction:
    """Width over height of the pixels of `pixels(frame)`."""
    return 1 / self.aspect if _lies_on_its_side(_display_matrix(frame.coded)) else self.aspect


def _display_matrix(coded: av.VideoFrame) -> tuple[int, int, int, int]:
  """Where a step to the right (x, y) and a step down (x, y) in the coded frame lead on the screen.

  A phone held upright films lying, and one's front camera in a mirror; both say so in the file.
  """
  matrix = coded.side_data.get(SideDataType.DISPLAYMATRIX)
  if matrix is None or len(bytes(matrix)) != 36:
    return 1, 0, 0, 1
  a, b, _, c, d, *_ = struct.unpack("9i", bytes(matrix))
  return (a, b, c, d) if any((a, b, c, d)) else (1, 0, 0, 1)


def _lies_on_its_side(matrix: tuple[int, int, int, int]) -> bool:
  a, b, c, d = matrix
  return abs(b) + abs(c) > abs(a) + abs(d)


def _upright(pixels: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
  """`[H, W, C]` as a display matrix says, which may turn by right angles and mirror."""
  x, y = matrix[0], matrix[3]
  if _lies_on_its_side(matrix):
    pixels, (y, x) = pixels.swapaxes(0, 1), matrix[1:3]
  return pixels[:: 1 if y >= 0 else -1, :: 1 if x >= 0 else -1]


def open_film(path: Path) -> InputContainer:
  """The container of a film, open for reading.

  Raises:
    BadInput: no such file, not a file, or nothing that libav knows.
  """
  try:
    check_regular(path)
    with path.open("rb"):
      pass
    return av.open(f"{_FILE}{path}", metadata_errors="replace")
  except OSError as error:
    what = "is a folder, not a film" if os.path.isdir(path) else f"cannot be read ({error.strerror})"
    raise BadInput(f"{path}: {what}") from None
  except av.error.FFmpegError:
    raise BadInput(f"{path}: not a film, or cut off before it can be opened") from None


def check_film(path: Path) -> None:
  """Raises BadInput if `path` is no film that can be relit; quick, for before the long work."""
  FilmReader(path).__exit__()
