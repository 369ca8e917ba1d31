"""Films in and out: decoded frame by frame, relit in segments that survive an interruption, joined with their sound.

No more than a few frames are in memory at a time, however long the film. A segment is some seconds of finished film in
a folder beside the output; with it lies what the next frame depends on. So a run that is started again after it was
killed goes on after the last segment, and writes the same bytes as one that ran through, if it computed the same
pixels.

For that, libav works in a single thread. In several, an encoder cuts frames into as many slices, and a decoder makes up
what is damaged from as much as the others have got ready: the cores that a run may use would show in the film.
"""

import contextlib
import dataclasses
import hashlib
import heapq
import io
import itertools
import json
import os
import shutil
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from tqdm import tqdm

from dpr_jax.base.errors import BadInput, one_line
from dpr_jax.base.input_files import check_regular, read_json
from dpr_jax.base.native_libraries import import_native
from dpr_jax.base.output_files import atomic_output, check_free, claimed
from dpr_jax.film.moving_portrait import MovingPortrait
from dpr_jax.portrait.portrait import Portrait

cv2 = import_native("cv2")

FILM_SUFFIX = ".mp4"

_SEGMENT_SECONDS = 4
_MOST_PIXELS = 50_000_000
_LONGEST_SIDE = 16384  # more than that H.264 cannot hold
# libav reads far more than films: text as the screen of a terminal, a photo as a film of one frame.
_NO_FILMS = ("tty", "image2", "bin", "idf", "xbin", "adf")
_THREADS = 1  # of libav, for decoding, conversion and encoding each; see the module
# B-frames would be decoded before they are shown, across the seams of the segments; without them the packets of all
# segments follow each other as they are.
_ENCODER = {"crf": "18", "preset": "medium", "bf": "0", "threads": str(_THREADS)}
# Where x264 finds AVX-512 (OpenCV's number for it), it reads what was never written: of the same frames, one run in six
# made other bytes, with libx264 in PyAV 18.1. Held to AVX2 it is no slower, and writes what other machines write.
_AVX512 = 256
_WITHOUT_AVX512 = {"x264-params": "asm=avx2"}
_LAST_FRAME_SECONDS = 1  # by which a film may end early and still be whole
# In an MP4, by most players; not PCM, which libav would put there for QuickTime alone.
_PLAYED_SOUND = ("aac", "mp2", "mp2float", "mp3", "mp3float", "ac3", "eac3", "alac", "flac", "opus", "libopus")
_OF_THE_FILE = ("major_brand", "minor_version", "compatible_brands", "encoder")  # that the metadata were read from
_AUDIO_RATE = 48_000
_AUDIO_BITS_PER_SECOND = 192_000

_DISCARD = "remove the folder, or --overwrite discards it"
_FILE = "file:"  # before a name, which cannot be taken for an address then

# Numbers of ITU-T H.273 (and FFmpeg).
_BT709 = 1
_UNSPECIFIED = 2
_PQ, _HLG = 16, 18
_LIMITED_RANGE = 1
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
    self._container = _open(path)
    try:
      self._stream = self._video_stream()
      self._check_size(self._stream.codec_context.width, self._stream.codec_context.height)
      if self._stream.codec_context.color_trc in (_PQ, _HLG):
        raise BadInput(f"{path}: its colours are of high dynamic range (HDR); convert it to SDR first")
    except BaseException:
      self._container.close()
      raise
    self._stream.codec_context.thread_count = _THREADS
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
      colours = _BT709 if min(coded.width, coded.height) >= _HD_LINES else None
    width, height = self._size
    rgb = coded.reformat(width=width, height=height, format="rgb24", src_colorspace=colours, threads=_THREADS)
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


def _open(path: Path):
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


def parts_folder(target: Path) -> Path:
  """Where the finished segments of `target` lie until all are there."""
  return target.with_name(f"{target.name}.parts")


def job_of_parts(target: Path) -> dict[str, Any]:
  """The `job` of an earlier run whose parts wait for `target`; empty if there are none."""
  return _Parts(parts_folder(target)).job()


def check_target(target: Path, overwrite: bool) -> None:
  """Raises BadInput if a film cannot be written to `target`."""
  check_free(target, overwrite)
  if target.suffix.lower() != FILM_SUFFIX:
    raise BadInput(f"{target}: a relit film has the suffix {FILM_SUFFIX}")


def relight_film(
  moving: MovingPortrait,
  relight: Callable[[Portrait, int], np.ndarray],
  source: Path,
  target: Path,
  *,
  job: dict[str, Any] | None = None,
  overwrite: bool = False,
) -> None:
  """Relights a film; goes on where an earlier run with the same `job` stopped.

  Frames, their timestamps and the sound are kept. The picture is H.264 in the colours of BT.709; an odd last row or
  column is left out. Sound that players know in an MP4 is copied, other sound is encoded anew as AAC. Title, date and
  the like are kept, subtitles are not.

  Args:
    moving: before its first frame.
    relight: a frame with a face, and its number from 0 -> its pixels under the light wanted.
    source: any film that libav reads.
    target: an MP4.
    job: all that the result depends on besides the film, fit for JSON; an earlier run's parts are used only if theirs
      was equal.
    overwrite: whether `target`, and parts of another job, may be replaced.

  Raises:
    BadInput: `source` cannot be used or has no face, `target` exists, or parts of another job lie there.
  """
  check_target(target, overwrite)
  with _alone(target), FilmReader(source) as film:
    parts = _Parts(parts_folder(target))
    parts.begin(_job(source, job or {}), overwrite)
    done = parts.restore(moving)
    with tqdm(total=film.length, initial=done, unit="frame", disable=None) as progress:
      for number, frames in itertools.groupby(film.frames(done), lambda frame: _segment_of(film, frame)):
        relit = _relit(moving, relight, film, frames)
        with parts.segment(number) as aside:
          done += _write_segment(aside, film, _counted(relit, progress))
          parts.keep(number, moving, done)
  if not done or not moving.faces_seen:
    parts.remove()
    raise BadInput(f"{source}: " + (f"no face found in its {done} frames" if done else "no frame of it can be decoded"))
  with atomic_output(target, overwrite) as aside:
    _join(parts.segments(), film, aside)
  parts.remove()
  if film.damaged or (film.seconds and film.read_seconds < film.seconds - _LAST_FRAME_SECONDS):
    line = f"{source}: damaged or cut off; the {done} frames that could be read are relit"
    print(one_line(line), file=sys.stderr)


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
  """Raises BadInput where another run of this user writes `target` just now."""
  place = hashlib.sha256(os.fsencode(target.resolve())).hexdigest()[:32]
  user = os.getuid() if hasattr(os, "getuid") else 0
  path = Path(tempfile.gettempdir(), f"dpr_jax_film_{user}_{place}.lock")
  with claimed(path, f"{target}: another run writes it just now"):
    try:
      yield
    finally:
      path.unlink(missing_ok=True)


def _relit(
  moving: MovingPortrait, relight: Callable[[Portrait, int], np.ndarray], film: FilmReader, frames: Iterator[FilmFrame]
) -> Iterator[tuple[FilmFrame, np.ndarray]]:
  for frame in frames:
    pixels = film.pixels(frame)
    portrait = moving.see(pixels, float(frame.pts * film.time_base))
    yield frame, pixels if portrait is None else relight(portrait, frame.index)


def _counted(items: Iterator, progress: tqdm) -> Iterator:
  for item in items:
    yield item
    progress.update()


def _segment_of(film: FilmReader, frame: FilmFrame) -> int:
  return int(frame.pts * film.time_base // _SEGMENT_SECONDS)


def _job(source: Path, job: dict[str, Any]) -> dict[str, Any]:
  status = source.stat()
  film = {"input": str(source.absolute()), "size of the input": status.st_size, "date of the input": status.st_mtime_ns}
  return json.loads(json.dumps(film | job))  # as it will be read again: lists, not tuples


class _Parts:
  """The folder of finished segments.

  A segment is there if its film is: its state, `<number>.npz`, is written before. Old states are removed.
  """

  def __init__(self, folder: Path):
    self._folder, self._note = folder, folder / "job.json"

  def job(self) -> dict[str, Any]:
    """Of the run whose parts lie here; empty where nothing readable says so."""
    try:
      job = read_json(self._note)
    except (OSError, ValueError):
      return {}
    return job if isinstance(job, dict) else {}

  def begin(self, job: dict[str, Any], overwrite: bool) -> None:
    """Makes the folder, or checks that what lies there is of the same job.

    Raises:
      BadInput: it is of another job and `overwrite` is False, or it cannot be written.
    """
    if os.path.lexists(self._folder):
      others = self.job()
      if others == job:
        return
      # A folder without a readable note is nobody's, or was being begun: nothing in it can be used.
      differing = [name for name in job | others if others.get(name, ...) != job.get(name, ...)]
      if not overwrite:
        raise BadInput(f"{self._folder}: holds parts of another run (other {', '.join(differing)}); {_DISCARD}")
      self.remove()
    with atomic_output(self._note) as aside:
      aside.write_text(json.dumps(job), encoding="utf-8")

  def remove(self) -> None:
    """Removes the folder with all that is in it."""
    if self._folder.is_symlink() or not self._folder.is_dir():
      raise BadInput(f"{self._folder}: not a folder")
    shutil.rmtree(self._folder, ignore_errors=True)

  def segments(self) -> list[Path]:
    """The finished ones, in order."""
    return sorted(path for path in self._folder.glob(f"*{FILM_SUFFIX}") if not path.name.startswith("."))

  def segment(self, number: int):
    """A context that yields a path to write segment `number` to."""
    return atomic_output(self._folder / f"{number:08d}{FILM_SUFFIX}", overwrite=True)

  def keep(self, number: int, moving: MovingPortrait, done: int) -> None:
    """Keeps the state after segment `number`, before that segment counts as finished."""
    with atomic_output(self._folder / f"{number:08d}.npz", overwrite=True) as aside:
      np.savez(aside, frames_done=done, **moving.state())
    finished = {path.stem for path in self.segments()[-1:]}
    for state in self._folder.glob("*.npz"):
      if state.stem not in finished | {f"{number:08d}"}:
        state.unlink(missing_ok=True)

  def restore(self, moving: MovingPortrait) -> int:
    """Puts `moving` where it was after the last finished segment; returns how many frames are done."""
    segments = self.segments()
    if not segments:
      return 0
    try:
      with segments[-1].with_suffix(".npz").open("rb") as file:
        state = dict(np.load(file, allow_pickle=False))
      moving.restore(state)
      return int(state["frames_done"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
      raise BadInput(f"{self._folder}: damaged; {_DISCARD}") from None


def _exact(film: FilmReader) -> dict[str, str]:
  """The muxer's options for a film that need not begin at 0: it would round its beginning to milliseconds."""
  return {"movie_timescale": str(film.time_base.denominator)}


def _write_segment(path: Path, film: FilmReader, frames: Iterator[tuple[FilmFrame, np.ndarray]]) -> int:
  """Encodes relit frames, with the timestamps they have in the film; returns how many."""
  written = 0
  with av.open(path, "w", format="mp4", options=_exact(film)) as container:
    options = _ENCODER | (_WITHOUT_AVX512 if cv2.checkHardwareSupport(_AVX512) else {})
    stream = container.add_stream("libx264", rate=film.rate, options=options)
    stream.pix_fmt = "yuv420p"  # the one that every player knows
    codec = stream.codec_context
    codec.time_base = film.time_base
    codec.colorspace = codec.color_primaries = codec.color_trc = _BT709
    codec.color_range = _LIMITED_RANGE
    for source, pixels in frames:
      even = np.ascontiguousarray(pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2])
      if not written:
        stream.height, stream.width = even.shape[:2]
        codec.sample_aspect_ratio = film.upright_aspect(source)
      frame = av.VideoFrame.from_ndarray(even, format="rgb24")
      frame = frame.reformat(format=stream.pix_fmt, dst_colorspace=_BT709, threads=_THREADS)
      frame.pts, frame.time_base, frame.duration = source.pts, film.time_base, source.duration
      container.mux(stream.encode(frame))
      written += 1
    container.mux(stream.encode())
  return written


def _join(segments: list[Path], film: FilmReader, target: Path) -> None:
  """The segments, one after another, and the film's sound, as one MP4."""
  with contextlib.ExitStack() as opened:
    options = _exact(film) | {"movflags": "faststart"}
    container = opened.enter_context(av.open(target, "w", format="mp4", options=options))
    template = opened.enter_context(av.open(segments[0]))
    container.metadata.update(film.metadata)
    picture = container.add_stream_from_template(template.streams.video[0], opaque=True)
    picture.metadata.update(film.picture_metadata)
    tracks = [_picture_packets(segments, picture)]
    for number in range(film.sound_tracks):
      source = opened.enter_context(_open(film.path))  # each read at its own pace
      tracks.append(_sound_packets(source, number, container, film.start))
    for packet in heapq.merge(*tracks, key=lambda packet: packet.dts * packet.time_base):
      container.mux(packet)


def _picture_packets(segments: list[Path], picture: av.VideoStream) -> Iterator[av.Packet]:
  for path in segments:
    with av.open(path) as segment:
      for packet in segment.demux(video=0):
        if packet.dts is not None:  # the last one is empty
          packet.stream = picture
          yield packet


def _sound_packets(source, number: int, container, start: Fraction) -> Iterator[av.Packet]:
  """Adds a track of sound to `container`, and returns its packets, `start` seconds earlier than in `source`."""
  stream = source.streams.audio[number]
  if copied := _fits_mp4(Path(source.name.removeprefix(_FILE)), number):
    track = container.add_stream_from_template(stream, opaque=True)
  else:
    rates = av.Codec("aac", "w").audio_rates
    layout = "mono" if stream.channels == 1 else "stereo"
    track = container.add_stream("aac", rate=stream.rate if stream.rate in rates else _AUDIO_RATE, layout=layout)
    track.codec_context.bit_rate = _AUDIO_BITS_PER_SECOND
  if language := stream.metadata.get("language"):
    track.metadata["language"] = language
  return _copied(source, stream, track, start) if copied else _encoded(source, stream, track, start)


def _fits_mp4(path: Path, number: int) -> bool:
  """Whether an MP4 can hold the packets of a track of sound as they are: tried out, for only the muxer knows.

  It takes more than players play.
  """
  try:
    with _open(path) as source, av.open(io.BytesIO(), "w", format="mp4") as trial:
      stream = source.streams.audio[number]
      if stream.codec_context is None or stream.codec_context.name not in _PLAYED_SOUND:
        return False
      track = trial.add_stream_from_template(stream, opaque=True)
      for packet in itertools.islice(_copied(source, stream, track, Fraction(0)), 3):
        trial.mux(packet)
  except (ValueError, av.error.FFmpegError):
    return False
  return True


def _copied(source, stream: av.AudioStream, track: av.AudioStream, start: Fraction) -> Iterator[av.Packet]:
  shift = round(start / stream.time_base)
  for packet in _readable(source.demux(stream)):
    if packet.dts is not None:
      packet.dts -= shift
      packet.pts = packet.dts if packet.pts is None else packet.pts - shift
      packet.stream = track
      yield packet


def _encoded(source, stream: av.AudioStream, track: av.AudioStream, start: Fraction) -> Iterator[av.Packet]:
  for packet in _readable(source.demux(stream)):
    with contextlib.suppress(av.error.InvalidDataError):
      for frame in packet.decode():
        if frame.pts is not None:
          frame.pts -= round(start / frame.time_base)
        yield from track.encode(frame)
  yield from track.encode()


def _readable(packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
  """Packets to the end, or to where the file is damaged."""
  with contextlib.suppress(av.error.FFmpegError):
    while (packet := next(packets, None)) is not None:
      yield packet
