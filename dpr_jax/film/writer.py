"""Films out: relit frames encoded as segments, which are joined with the sound of the film they were read from."""

import contextlib
import heapq
import io
import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer, OutputContainer

from dpr_jax.base.native_libraries import import_native
from dpr_jax.film.reader import BT709, THREADS, FilmFrame, FilmReader, open_film

cv2 = import_native("cv2")

# B-frames would be decoded before they are shown, across the seams of the segments; without them the packets of all
# segments follow each other as they are.
_ENCODER = {"crf": "18", "preset": "medium", "bf": "0", "threads": str(THREADS)}
# Where x264 finds AVX-512 (OpenCV's number for it), it reads what was never written: of the same frames, one run in six
# made other bytes, with libx264 in PyAV 18.1. Held to AVX2 it is no slower, and writes what other machines write.
_AVX512 = 256
_WITHOUT_AVX512 = {"x264-params": "asm=avx2"}
# In an MP4, by most players; not PCM, which libav would put there for QuickTime alone.
_PLAYED_SOUND = ("aac", "mp2", "mp2float", "mp3", "mp3float", "ac3", "eac3", "alac", "flac", "opus", "libopus")
_AUDIO_RATE = 48_000
_AUDIO_BITS_PER_SECOND = 192_000
_LIMITED_RANGE = 1  # in ITU-T H.273 (and FFmpeg)


def _exact(film: FilmReader) -> dict[str, str]:
  """The muxer's options for a film that need not begin at 0: it would round its beginning to milliseconds."""
  return {"movie_timescale": str(film.time_base.denominator)}


def write_segment(path: Path, film: FilmReader, frames: Iterator[tuple[FilmFrame, np.ndarray]]) -> int:
  """Encodes relit frames, with the timestamps they have in the film; returns how many."""
  written = 0
  with av.open(path, "w", format="mp4", options=_exact(film)) as container:
    options = _ENCODER | (_WITHOUT_AVX512 if cv2.checkHardwareSupport(_AVX512) else {})
    stream = container.add_stream("libx264", rate=film.rate, options=options)
    stream.pix_fmt = "yuv420p"  # the one that every player knows
    codec = stream.codec_context
    codec.time_base = film.time_base
    codec.colorspace = codec.color_primaries = codec.color_trc = BT709
    codec.color_range = _LIMITED_RANGE
    for source, pixels in frames:
      even = np.ascontiguousarray(pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2])
      if not written:
        stream.height, stream.width = even.shape[:2]
        codec.sample_aspect_ratio = film.upright_aspect(source)
      frame = av.VideoFrame.from_ndarray(even, format="rgb24")
      frame = frame.reformat(format=stream.pix_fmt, dst_colorspace=BT709, threads=THREADS)
      frame.pts, frame.time_base, frame.duration = source.pts, film.time_base, source.duration
      container.mux(stream.encode(frame))
      written += 1
    container.mux(stream.encode())
  return written


def join_segments(segments: list[Path], film: FilmReader, target: Path) -> None:
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
      source = opened.enter_context(open_film(film.path))  # each read at its own pace
      tracks.append(_sound_packets(source, film, number, container))
    for packet in heapq.merge(*tracks, key=lambda packet: packet.dts * packet.time_base):
      container.mux(packet)


def _picture_packets(segments: list[Path], picture: av.VideoStream) -> Iterator[av.Packet]:
  for path in segments:
    with av.open(path) as segment:
      for packet in segment.demux(video=0):
        if packet.dts is not None:  # the last one is empty
          packet.stream = picture
          yield packet


def _sound_packets(
  source: InputContainer, film: FilmReader, number: int, container: OutputContainer
) -> Iterator[av.Packet]:
  """Adds a track of the film's sound to `container`, and returns its packets, `film.start` seconds earlier.

  Args:
    source: the film, opened once more.
    film: what is known of it.
    number: of the track, from 0.
    container: the output.
  """
  stream = source.streams.audio[number]
  if copied := _fits_mp4(film.path, number):
    track = container.add_stream_from_template(stream, opaque=True)
  else:
    rates = av.Codec("aac", "w").audio_rates
    layout = "mono" if stream.channels == 1 else "stereo"
    track = container.add_stream("aac", rate=stream.rate if stream.rate in rates else _AUDIO_RATE, layout=layout)
    track.codec_context.bit_rate = _AUDIO_BITS_PER_SECOND
  if language := stream.metadata.get("language"):
    track.metadata["language"] = language
  packets = _copied if copied else _encoded
  return packets(source, stream, track, film.start)


def _fits_mp4(path: Path, number: int) -> bool:
  """Whether an MP4 can hold the packets of a track of sound as they are: tried out, for only the muxer knows.

  It takes more than players play.
  """
  try:
    with open_film(path) as source, av.open(io.BytesIO(), "w", format="mp4") as trial:
      stream = source.streams.audio[number]
      if stream.codec_context is None or stream.codec_context.name not in _PLAYED_SOUND:
        return False
      track = trial.add_stream_from_template(stream, opaque=True)
      for packet in itertools.islice(_copied(source, stream, track, Fraction(0)), 3):
        trial.mux(packet)
  except (ValueError, av.error.FFmpegError):
    return False
  return True


def _copied(
  source: InputContainer, stream: av.AudioStream, track: av.AudioStream, start: Fraction
) -> Iterator[av.Packet]:
  shift = round(start / stream.time_base)
  for packet in _readable(source.demux(stream)):
    if packet.dts is not None:
      packet.dts -= shift
      packet.pts = packet.dts if packet.pts is None else packet.pts - shift
      packet.stream = track
      yield packet


def _encoded(
  source: InputContainer, stream: av.AudioStream, track: av.AudioStream, start: Fraction
) -> Iterator[av.Packet]:
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
