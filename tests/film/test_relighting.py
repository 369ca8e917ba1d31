"""Films made here, relit by a stand-in for the network, and decoded again."""

import itertools
import json
import os
import shutil
import struct
import subprocess
import sys
import weakref
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from dpr_jax.base.errors import BadInput
from dpr_jax.film import relighting
from dpr_jax.film.parts import parts_folder
from dpr_jax.film.reader import FilmReader
from dpr_jax.film.relighting import relight_film

FPS = 25
BT709, BT601 = 1, 6
PQ, HLG = 16, 18


class StandIn:
  """In place of a `MovingPortrait`: remembers the mean of all frames, as that one remembers averages."""

  def __init__(self, face=True):
    self.face, self.faces_seen, self.mean, self.times = face, False, np.zeros(()), []

  def see(self, pixels, time):
    self.times.append(time)
    self.faces_seen = self.faces_seen or self.face
    self.mean = 0.9 * self.mean + 0.1 * pixels.mean()
    return (pixels, float(self.mean)) if self.face else None

  def state(self):
    return {"mean": self.mean, "faces_seen": np.array(self.faces_seen)}

  def restore(self, state):
    self.mean, self.faces_seen = state["mean"], bool(state["faces_seen"])


def darkened(portrait, k):
  """By what has been seen so far."""
  pixels, mean = portrait
  return np.clip(pixels.astype(float) - mean / 4, 0, 255).astype(np.uint8)


def unchanged(portrait, k):
  return portrait[0]


def wandering(frames, height=48, width=64):
  """A light spot that moves by two pixels each frame, on a ramp."""
  y, x = np.mgrid[:height, :width]
  for k in range(frames):
    spot = 120 * np.exp(-((x - 10 - 2 * k) ** 2 + (y - height / 2) ** 2) / 60)
    yield np.clip(np.stack([40 + x, 60 + y, 80 + 0 * x], axis=-1) + spot[..., None], 0, 255).astype(np.uint8)


def sine(count, channels=1, rate=44100):
  tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(count) / rate)
  return np.repeat(tone[None].astype(np.float32), channels, axis=0)


def make_film(
  path, frames, *, pts=None, time_base=Fraction(1, FPS), codec="libx264", sound=None, pix_fmt="yuv420p", tags=None,
  options=None, encoder=None, aspect=None, sound_from=0.0,
):  # fmt: skip
  """Writes frames, and a sine of the same length by the codec `sound`."""
  frames = list(frames)
  pts = list(range(len(frames))) if pts is None else pts
  with av.open(path, "w", options=options or {}) as container:
    stream = container.add_stream(codec, rate=FPS, options=encoder or {})
    stream.pix_fmt, stream.height, stream.width = pix_fmt, *frames[0].shape[:2]
    stream.codec_context.time_base = time_base
    for name, value in (tags or {}).items():
      setattr(stream.codec_context, name, value)
    if aspect:
      stream.codec_context.sample_aspect_ratio = aspect
    if sound:
      track = container.add_stream(sound, rate=44100, layout="mono")
      for start in range(0, round(44100 * len(frames) / FPS), 1024):
        part = av.AudioFrame.from_ndarray(sine(start + 1024)[:, start:], format="fltp", layout="mono")
        part.sample_rate, part.time_base, part.pts = 44100, Fraction(1, 44100), start + round(44100 * sound_from)
        container.mux(track.encode(part))
      container.mux(track.encode())
    for moment, pixels in zip(pts, frames, strict=True):
      frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
      frame = frame.reformat(format=pix_fmt, dst_colorspace=(tags or {}).get("colorspace", BT601))
      frame.pts, frame.time_base = moment, time_base
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return path


def shown(path):
  """Timestamps in seconds, and pixels."""
  with av.open(path) as container:
    frames = list(container.decode(video=0))
    return [frame.pts * frame.time_base for frame in frames], [frame.to_ndarray(format="rgb24") for frame in frames]


def heard(path, track=0):
  """Timestamps in seconds, and bytes of the packets."""
  with av.open(path) as container:
    packets = [packet for packet in container.demux(audio=track) if packet.dts is not None]
    return [packet.pts * packet.time_base for packet in packets], [bytes(packet) for packet in packets]


def contents(folder):
  return {path.name for path in folder.iterdir()}


def refusal(source, target, moving=None, **wishes):
  with pytest.raises(BadInput) as caught:
    relight_film(moving or StandIn(), unchanged, source, target, **wishes)
  assert "\n" not in str(caught.value)
  return str(caught.value)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
  """Of five and ten seconds; a segment has four."""
  folder = tmp_path_factory.mktemp("films")
  return {seconds: make_film(folder / f"{seconds}.mp4", wandering(seconds * FPS), sound="aac") for seconds in (5, 10)}


@pytest.fixture
def film(films, tmp_path):
  return Path(shutil.copy(films[5], tmp_path / "in.mp4"))


@pytest.fixture
def long_film(films, tmp_path):
  return Path(shutil.copy(films[10], tmp_path / "in.mp4"))


@pytest.fixture
def out(tmp_path):
  return tmp_path / "out.mp4"


# What is kept.


def test_frames_timestamps_rate_and_sound_are_kept(film, out):
  moving = StandIn()
  relight_film(moving, darkened, film, out)
  (before, pixels), (after, relit) = shown(film), shown(out)
  assert after == before
  assert len(before) == 5 * FPS
  np.testing.assert_allclose(moving.times, [float(moment) for moment in before])
  for k in (0, 60, 124):
    change = pixels[k].astype(int) - relit[k]
    assert 3 < change.mean() < 40
    assert change.std() < 3
  assert heard(out) == heard(film)
  with av.open(film) as source, av.open(out) as target:
    (a, b), (c, d) = source.streams, target.streams
    assert (a.frames, a.average_rate, a.duration * a.time_base) == (c.frames, c.average_rate, c.duration * c.time_base)
    assert (b.codec_context.name, b.rate, b.time_base) == (d.codec_context.name, d.rate, d.time_base)
    assert b.duration == pytest.approx(d.duration, abs=44)  # a millisecond
    assert c.codec_context.name == "h264"
  assert contents(out.parent) == {"in.mp4", "out.mp4"}


def test_a_variable_rate_is_kept_to_the_tick(tmp_path, out):
  rng = np.random.default_rng(0)
  pts = np.cumsum(rng.integers(900, 30000, 60)).tolist()  # over several segments, and sparse ones
  make_film(tmp_path / "in.mp4", wandering(60), pts=[moment - pts[0] for moment in pts], time_base=Fraction(1, 90000))
  relight_film(StandIn(), unchanged, tmp_path / "in.mp4", out)
  assert shown(out)[0] == [Fraction(moment - pts[0], 90000) for moment in pts]
  assert pts[-1] - pts[0] > 2 * 4 * 90000


@pytest.mark.parametrize("suffix", ["mkv", "avi", "mov", "webm", "ts"])
def test_films_of_other_kinds(tmp_path, out, suffix):
  codec, sound = {"webm": ("libvpx", None), "avi": ("mpeg4", "mp2"), "ts": ("mpeg2video", "mp2")}.get(
    suffix, ("libx264", "aac")
  )
  source = make_film(tmp_path / f"in.{suffix}", wandering(30), codec=codec, sound=sound)
  relight_film(StandIn(), unchanged, source, out)
  (before, pixels), (after, relit) = shown(source), shown(out)
  start = min(before[0], heard(source)[0][0]) if sound else before[0]
  np.testing.assert_allclose([float(t) for t in after], [float(t - max(start, 0)) for t in before], atol=1e-3)
  assert len(relit) == 30
  assert np.abs(relit[20].astype(int) - pixels[20]).mean() < 3
  if sound:
    assert heard(out)[1] == heard(source)[1]
    shift = float(heard(source)[0][0] - before[0])  # the sound goes with the picture
    assert float(heard(out)[0][0] - after[0]) == pytest.approx(shift, abs=2e-3)


def test_what_begins_late_begins_at_0_and_in_step(tmp_path, out):
  late = [90000 * 3 + 3600 * k for k in range(20)]
  source = make_film(
    tmp_path / "in.mkv", wandering(20), pts=late, time_base=Fraction(1, 90000), sound="aac", sound_from=3.5
  )
  relight_film(StandIn(), unchanged, source, out)
  assert float(shown(out)[0][0]) == pytest.approx(0, abs=1e-3)
  assert float(heard(out)[0][1] - shown(out)[0][0]) == pytest.approx(0.5, abs=2e-3)


def test_several_tracks_of_sound_with_their_languages(tmp_path, out):
  source = tmp_path / "in.mkv"
  with av.open(source, "w") as container:
    stream = container.add_stream("libx264", rate=FPS)
    stream.pix_fmt, stream.height, stream.width = "yuv420p", 48, 64
    tracks = [container.add_stream("aac", rate=44100, layout="mono") for _ in range(2)]
    for track, language in zip(tracks, ("deu", "fra"), strict=True):
      track.metadata["language"] = language
    for pixels in wandering(10):
      container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
    for level, track in enumerate(tracks, 1):
      frame = av.AudioFrame.from_ndarray(sine(8192) / level, format="fltp", layout="mono")
      frame.sample_rate, frame.pts = 44100, 0
      container.mux(track.encode(frame))
    for each in (stream, *tracks):
      container.mux(each.encode())
  relight_film(StandIn(), unchanged, source, out)
  for k in range(2):
    assert heard(out, k)[1] == heard(source, k)[1]
  assert heard(out, 0)[1] != heard(out, 1)[1]
  with av.open(out) as container:
    assert [track.language for track in container.streams.audio] == ["deu", "fra"]


def test_sound_that_an_mp4_cannot_hold_is_encoded_anew(tmp_path, out):
  source = make_film(tmp_path / "in.avi", wandering(50), codec="mpeg4", sound="adpcm_ms")
  relight_film(StandIn(), unchanged, source, out)
  with av.open(out) as container:
    [track] = container.streams.audio
    assert track.codec_context.name == "aac"
    tone = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(track)])
  assert len(tone) / 44100 == pytest.approx(2, abs=0.1)
  spectrum = np.abs(np.fft.rfft(tone[4096 : 4096 + 44100]))
  assert np.argmax(spectrum) == pytest.approx(440, abs=2)


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_s24be"])
def test_sound_that_players_do_not_play_in_an_mp4_is_encoded_anew(tmp_path, out, codec):
  source = make_film(tmp_path / "in.mov", wandering(30), sound=codec)
  relight_film(StandIn(), unchanged, source, out)
  with av.open(out) as container:
    [track] = container.streams.audio
    assert track.codec_context.name == "aac"
    tone = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(track)])
  assert np.argmax(np.abs(np.fft.rfft(tone[4096 : 4096 + 44100]))) == pytest.approx(440, abs=3)


def test_title_and_date_are_kept(tmp_path, out):
  source = make_film(tmp_path / "in.mov", wandering(5))
  told = {"title": "my film", "creation_time": "2024-05-06T07:08:09.000000Z", "comment": "by hand"}
  with av.open(source) as film, av.open(tmp_path / "told.mov", "w") as container:
    container.metadata.update(told)
    picture = container.add_stream_from_template(film.streams.video[0])
    for packet in film.demux(video=0):
      if packet.dts is not None:
        packet.stream = picture
        container.mux(packet)
  relight_film(StandIn(), unchanged, tmp_path / "told.mov", out)
  with av.open(out) as container:
    assert {name: container.metadata.get(name) for name in told} == told
    assert container.metadata["major_brand"] == "isom"


def test_metadata_that_are_no_utf_8_end_nothing(tmp_path, out, film):
  content = film.read_bytes()
  assert content.count(b"isomiso2") == 1
  film.write_bytes(content.replace(b"isomiso2", b"is\xedmiso2"))
  relight_film(StandIn(), unchanged, film, out)
  assert len(shown(out)[1]) == 5 * FPS


def test_the_odd_films(shared, out):
  relight_film(StandIn(), unchanged, shared("cases/odd/hflip.mp4"), out)
  coded, seen = (shown(path)[1][0].astype(int) for path in (shared("cases/odd/hflip.mp4"), out))
  assert np.abs(seen - coded[:, ::-1]).mean() < 3
  relight_film(StandIn(), unchanged, shared("cases/odd/pcm.mov"), out, overwrite=True)
  with av.open(out) as container:
    assert container.streams.audio[0].codec_context.name == "aac"
    assert container.metadata["title"] == "my film"
  damaged = shared("cases/hostile/meta_latin1_a.mp4")
  assert refusal(damaged, out, overwrite=True) == f"{damaged}: no frame of it can be decoded"


def test_two_runs_on_one_output_do_not_meet(film, out):
  refused = []

  def relight(portrait, k):
    if not refused:
      refused.append(refusal(film, out, overwrite=True))
    return portrait[0]

  relight_film(StandIn(), relight, film, out)
  assert refused == [f"{out}: another run writes it just now"]
  assert len(shown(out)[1]) == 5 * FPS
  assert contents(out.parent) == {"in.mp4", "out.mp4"}
  relight_film(StandIn(), unchanged, film, out, overwrite=True)  # the lock is gone


def test_a_silent_film(tmp_path, out):
  relight_film(StandIn(), unchanged, make_film(tmp_path / "in.mp4", wandering(5)), out)
  with av.open(out) as container:
    assert [stream.type for stream in container.streams] == ["video"]


def test_the_film_starts_before_it_is_loaded(film, out):
  relight_film(StandIn(), unchanged, film, out)
  assert out.read_bytes().index(b"moov") < out.read_bytes().index(b"mdat")


# How it looks.


def lie_down(path, matrix):
  """Writes a display matrix into the film's track header (ISO/IEC 14496-12, 8.3.2)."""
  data = bytearray(path.read_bytes())
  place = data.index(b"tkhd") + 4 + 4 + 20 + 16
  data[place : place + 36] = struct.pack(">9i", *matrix)
  path.write_bytes(data)


ONE, LAST = 1 << 16, 1 << 30


@pytest.mark.parametrize(
  ("steps", "upright"),  # where a step to the right, and one down, lead on the screen: x, y each
  [
    ((1, 0, 0, 1), lambda pixels: pixels),
    ((-1, 0, 0, 1), lambda pixels: pixels[:, ::-1]),
    ((-1, 0, 0, -1), lambda pixels: np.rot90(pixels, 2)),
    ((1, 0, 0, -1), lambda pixels: pixels[::-1]),
    ((0, 1, 1, 0), lambda pixels: pixels.swapaxes(0, 1)),
    ((0, 1, -1, 0), lambda pixels: np.rot90(pixels, -1)),  # what phones held upright write: to be turned clockwise
    ((0, -1, -1, 0), lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1)),
    ((0, -1, 1, 0), lambda pixels: np.rot90(pixels, 1)),
  ],
  ids=[str(orientation) for orientation in range(1, 9)],  # as EXIF counts
)
def test_a_film_that_lies_or_is_mirrored_is_set_upright(tmp_path, out, steps, upright):
  source = make_film(tmp_path / "in.mp4", wandering(4), encoder={"crf": "5"}, aspect=Fraction(4, 3))
  coded = shown(source)[1]
  a, b, c, d = (step * ONE for step in steps)
  lie_down(source, (a, b, 0, c, d, 0, 0, 0, LAST))
  relight_film(StandIn(), unchanged, source, out)
  seen, expected = shown(out)[1], [upright(pixels) for pixels in coded]
  assert seen[0].shape == expected[0].shape
  assert np.abs(seen[2].astype(int) - expected[2]).mean() < 3
  with av.open(out) as container:
    frame = next(container.decode(video=0))
    assert frame.rotation == 0
    assert container.streams.video[0].sample_aspect_ratio == (Fraction(4, 3) if steps[0] else Fraction(3, 4))


@pytest.mark.parametrize("shape", [(47, 65), (48, 65), (47, 64), (3, 3)])
def test_an_odd_last_row_or_column_is_left_out(tmp_path, out, shape):
  source = make_film(tmp_path / "in.mkv", wandering(3, *shape), codec="ffv1", pix_fmt="yuv444p")
  relight_film(StandIn(), unchanged, source, out)
  assert shown(out)[1][0].shape == (shape[0] // 2 * 2, shape[1] // 2 * 2, 3)


@pytest.mark.parametrize("colours", [BT709, BT601])
def test_colours_stay_and_are_named(tmp_path, out, colours):
  rgb = np.full((64, 64, 3), (200, 60, 30), np.uint8)
  source = make_film(tmp_path / "in.mp4", [rgb] * 3, tags={"colorspace": colours}, encoder={"crf": "5"})
  relight_film(StandIn(), unchanged, source, out)
  assert np.abs(shown(out)[1][1].astype(int) - rgb).max() <= 4
  with av.open(out) as container:
    codec = container.streams.video[0].codec_context
    assert (codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range) == (1, 1, 1, 1)


@pytest.mark.parametrize(("shape", "colours"), [((720, 736), BT709), ((96, 128), BT601)])
def test_a_film_that_does_not_name_its_colours_has_those_of_its_size(tmp_path, shape, colours):
  rgb = np.full((*shape, 3), (200, 60, 30), np.uint8)
  frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p", dst_colorspace=colours)
  with av.open(tmp_path / "in.mp4", "w") as container:
    stream = container.add_stream("libx264", rate=FPS, options={"crf": "5"})
    stream.pix_fmt, stream.height, stream.width = "yuv420p", *shape
    container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.to_ndarray(), format="yuv420p")))
    container.mux(stream.encode())
  with FilmReader(tmp_path / "in.mp4") as film:
    seen = film.pixels(next(film.frames()))
  assert np.abs(seen.astype(int) - rgb).max() <= 4


def test_pixels_that_are_no_squares_stay_so(tmp_path, out):
  source = make_film(tmp_path / "in.mp4", wandering(3), aspect=Fraction(4, 3))
  relight_film(StandIn(), unchanged, source, out)
  with av.open(out) as container:
    assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
  lie_down(source, (0, ONE, 0, -ONE, 0, 0, 0, 0, LAST))
  relight_film(StandIn(), unchanged, source, out, overwrite=True)
  with av.open(out) as container:
    assert container.streams.video[0].sample_aspect_ratio == Fraction(3, 4)


def test_frames_that_change_their_size_are_made_alike(tmp_path, out):
  parts = [make_film(tmp_path / f"{k}.ts", wandering(10, 48, 64 + 32 * k), codec="mpeg2video") for k in range(2)]
  (tmp_path / "in.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
  relight_film(StandIn(), unchanged, tmp_path / "in.ts", out)
  times, frames = shown(out)
  assert {frame.shape for frame in frames} == {(48, 64, 3)}
  assert len(frames) >= 19
  assert (np.diff([float(moment) for moment in times]) > 0).all()


def test_frames_without_a_face_are_the_films_own(film, out):
  moving, faces = StandIn(), itertools.cycle([True, False])
  see = moving.see
  moving.see = lambda pixels, time: see(pixels, time) if next(faces) else None
  relight_film(moving, lambda portrait, k: np.zeros_like(portrait[0]), film, out)
  relit = shown(out)[1]
  assert relit[0].max() < 10
  assert np.abs(relit[61].astype(int) - shown(film)[1][61]).mean() < 3


# Memory.


def test_frames_are_let_go_of(film, out):
  """Two at a time, and no more are decoded than are asked for."""
  alive, most = [], 0

  def relight(portrait, k):
    nonlocal most
    alive.append(weakref.ref(portrait[0]))
    most = max(most, sum(frame() is not None for frame in alive))
    return portrait[0]

  relight_film(StandIn(), relight, film, out)
  assert len(alive) == 5 * FPS
  assert most <= 3


def test_frames_are_decoded_as_they_are_asked_for(film):
  with FilmReader(film) as reader:
    decoded, decode = [], reader._decoded
    reader._decoded = lambda: (decoded.append(frame) or frame for frame in decode())
    frames = reader.frames()
    for _ in range(5):
      next(frames)
    assert len(decoded) == 5


# Going on.


class Killed(BaseException):
  pass


def killed_at(frame, relit):
  def relight(portrait, k):
    if k == frame:
      raise Killed
    relit.append(k)
    return darkened(portrait, k)

  return relight


@pytest.mark.parametrize("stops", [[0], [50], [100], [101], [120, 130, 249]])
def test_a_run_that_was_interrupted_goes_on_and_writes_the_same_bytes(long_film, out, stops):
  relight_film(StandIn(), darkened, long_film, out)
  (times, frames), sound, expected = shown(out), heard(out), out.read_bytes()
  out.unlink()
  relit = []
  for stop in stops:
    with pytest.raises(Killed):
      relight_film(StandIn(), killed_at(stop, relit), long_film, out, job={"light": (1, 2)})
    assert not out.exists()
    assert parts_folder(out).is_dir()
  first = stops[-1] // 100 * 100  # of the segment of four seconds
  relit = []
  relight_film(StandIn(), killed_at(-1, relit), long_film, out, job={"light": (1, 2)})
  assert relit == list(range(first, 250))
  # What the bytes say, first: should they differ, it is known where.
  assert shown(out)[0] == times
  np.testing.assert_array_equal(shown(out)[1], frames)
  assert heard(out) == sound
  assert out.read_bytes() == expected
  assert contents(out.parent) == {"in.mp4", "out.mp4"}


def test_the_same_frames_make_the_same_bytes(tmp_path):
  """x264's code for AVX-512 reads what was never written, and one run in six made others."""
  film = make_film(tmp_path / "in.mp4", wandering(60, 48, 240))
  seen = set()
  for k in range(12):
    relight_film(StandIn(), unchanged, film, tmp_path / f"{k}.mp4")
    seen.add((tmp_path / f"{k}.mp4").read_bytes())
  assert len(seen) == 1


@pytest.fixture
def on_cores():
  """Runs a function where the process may use so many cores; threads that it starts inherit that."""
  allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
  if len(allowed) < 2:
    pytest.skip("needs a system that can take one of several cores away")

  def run(count, function, *arguments):
    os.sched_setaffinity(0, set(sorted(allowed)[:count]))
    try:
      return function(*arguments)
    finally:
      os.sched_setaffinity(0, allowed)

  return run


def test_the_bytes_do_not_depend_on_the_number_of_cores(tmp_path, out, on_cores):
  """On several, libav would take as many threads: to cut frames of this height, and to make up damaged ones."""
  frames = np.stack(list(wandering(40, 144, 160))) + np.random.default_rng(0).normal(0, 6, (40, 144, 160, 1))
  frames = np.clip(frames, 0, 255).astype(np.uint8)
  source = make_film(tmp_path / "in.mp4", frames, encoder={"threads": "1", "slices": "4"})
  data = bytearray(source.read_bytes())
  middle = (data.index(b"mdat") + data.index(b"moov")) // 2
  data[middle : middle + 8] = bytes(8)
  source.write_bytes(data)
  relit = []
  for count in (1, 2):
    on_cores(count, relight_film, StandIn(), darkened, source, out)
    relit.append((shown(out), out.read_bytes()))
    out.unlink()
  ((_, one), one_bytes), ((_, several), several_bytes) = relit
  assert len(one) == 40
  np.testing.assert_array_equal(one, several)
  assert one_bytes == several_bytes


_KILLED = """
import os
from pathlib import Path
import tests.film.test_relighting as t
def relight(portrait, k):
  if k == 130:
    os.kill(os.getpid(), 9)
  return t.darkened(portrait, k)
t.relight_film(t.StandIn(), relight, Path("in.mp4"), Path("out.mp4"))
"""


def test_a_process_that_is_killed_leaves_nothing_under_the_films_name(long_film, out, monkeypatch):
  monkeypatch.chdir(out.parent)
  environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
  ended = subprocess.run([sys.executable, "-c", _KILLED], env=environment, capture_output=True, check=False)
  assert ended.returncode == -9
  assert contents(out.parent) == {"in.mp4", "out.mp4.parts"}
  relit = []
  relight_film(StandIn(), killed_at(-1, relit), Path("in.mp4"), Path("out.mp4"))
  assert relit[0] == 100
  assert contents(out.parent) == {"in.mp4", "out.mp4"}
  assert len(shown(out)[0]) == 250


def test_a_run_that_was_stopped_while_joining_only_joins(long_film, out, monkeypatch):
  def stop(*_):
    raise Killed

  with monkeypatch.context() as patched:
    patched.setattr(relighting, "join_segments", stop)
    with pytest.raises(Killed):
      relight_film(StandIn(), darkened, long_film, out)
  relit = []
  relight_film(StandIn(), killed_at(-1, relit), long_film, out)
  assert relit == []
  assert len(shown(out)[0]) == 250


def test_a_segment_counts_only_when_it_is_whole(long_film, out):
  relit = []
  with pytest.raises(Killed):
    relight_film(StandIn(), killed_at(220, relit), long_film, out)
  parts = parts_folder(out)
  assert contents(parts) == {"job.json", *(f"0000000{k}.{suffix}" for k in (0, 1) for suffix in ("mp4", "npz"))}
  (parts / "00000002.npz").write_bytes(b"its state was written, it was not")
  (parts / ".0123456789abcdef.mp4").write_bytes(b"half of it")
  relit = []
  relight_film(StandIn(), killed_at(-1, relit), long_film, out)
  assert relit[0] == 200
  assert contents(out.parent) == {"in.mp4", "out.mp4"}


def test_parts_of_another_run_are_refused_or_discarded(long_film, out):
  with pytest.raises(Killed):
    relight_film(StandIn(), killed_at(150, []), long_film, out, job={"light": [1], "turn": None})
  before = contents(parts_folder(out))
  assert refusal(long_film, out, job={"light": [2], "turn": None}) == (
    f"{out}.parts: holds parts of another run (other light); remove the folder, or --overwrite discards it"
  )
  more = {"light": [1], "turn": None, "person segmenter": None}
  assert "(other person segmenter)" in refusal(long_film, out, job=more)
  assert "(other light, turn)" in refusal(long_film, out, job={})  # what that run had and this one has not
  os.utime(long_film, (1, 1))
  assert "(other date of the input, turn)" in refusal(long_film, out, job={"light": [1], "turn": 3})
  assert contents(parts_folder(out)) == before
  relit = []
  relight_film(StandIn(), killed_at(-1, relit), long_film, out, job={"light": [2]}, overwrite=True)
  assert relit[0] == 0
  assert contents(out.parent) == {"in.mp4", "out.mp4"}


def test_overwrite_goes_on_where_the_parts_are_of_the_same_run(long_film, out):
  out.write_bytes(b"old")
  with pytest.raises(Killed):
    relight_film(StandIn(), killed_at(150, []), long_film, out, overwrite=True)
  assert out.read_bytes() == b"old"
  relit = []
  relight_film(StandIn(), killed_at(-1, relit), long_film, out, overwrite=True)
  assert relit[0] == 100
  assert len(shown(out)[0]) == 250


@pytest.mark.parametrize("note", [None, b"", b"[]", b"\xff", json.dumps({"input": 3}).encode()])
def test_a_folder_that_is_nobodys_is_not_used(film, out, note):
  parts_folder(out).mkdir()
  (parts_folder(out) / "00000000.mp4").write_bytes(b"a photo album")
  if note is not None:
    (parts_folder(out) / "job.json").write_bytes(note)
  assert "remove the folder, or --overwrite discards it" in refusal(film, out)
  assert "00000000.mp4" in contents(parts_folder(out))


def test_a_state_that_cannot_be_read(long_film, out):
  with pytest.raises(Killed):
    relight_film(StandIn(), killed_at(150, []), long_film, out)
  state = parts_folder(out) / "00000000.npz"
  packed = bytearray(state.read_bytes())
  packed[packed.index(b"PK\1\2") + 10] = packed[8] = 99  # a way to pack that zipfile doesn't know
  for content in (packed, b"PK\3\4 what a disk made of it"):
    state.write_bytes(content)
    assert refusal(long_film, out) == f"{out}.parts: damaged; remove the folder, or --overwrite discards it"


# Bad input.


def test_what_is_no_film_is_refused_and_leaves_nothing_behind(tmp_path, out):
  from PIL import Image

  for name, data, what in (
    ("empty.mp4", b"", "not a film, or cut off before it can be opened"),
    ("noise.mp4", np.random.default_rng(0).bytes(5000), "not a film, or cut off before it can be opened"),
    ("text.txt", b"words, words, words\n" * 50, "not a film (a photo is given with --image)"),
  ):
    (tmp_path / name).write_bytes(data)
    assert refusal(tmp_path / name, out) == f"{tmp_path / name}: {what}"
    (tmp_path / name).unlink()
  for suffix in ("jpg", "png", "webp", "bmp"):
    photo = tmp_path / f"photo.{suffix}"
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(photo)
    assert "not a film" in refusal(photo, out)
    photo.unlink()
  assert refusal(tmp_path / "none.mp4", out) == f"{tmp_path / 'none.mp4'}: cannot be read (No such file or directory)"
  assert refusal(tmp_path, out) == f"{tmp_path}: is a folder, not a film"
  assert contents(tmp_path) == set()


def test_names_are_no_addresses(tmp_path, out, monkeypatch):
  monkeypatch.chdir(tmp_path)
  name = "concat:a.mp4"
  make_film(tmp_path / "a.mp4", wandering(3)).rename(tmp_path / name)
  relight_film(StandIn(), unchanged, Path(name), out)
  assert len(shown(out)[0]) == 3


def test_sound_alone_is_no_film(tmp_path, out):
  with av.open(tmp_path / "in.m4a", "w", format="mp4") as container:
    track = container.add_stream("aac", rate=44100, layout="mono")
    frame = av.AudioFrame.from_ndarray(sine(8192), format="fltp", layout="mono")
    frame.sample_rate = 44100
    container.mux(track.encode(frame))
    container.mux(track.encode())
  assert refusal(tmp_path / "in.m4a", out).endswith("in.m4a: has sound, perhaps, but no film in it")
  assert contents(tmp_path) == {"in.m4a"}


def test_a_film_without_a_face(film, out):
  assert refusal(film, out, StandIn(face=False)) == f"{film}: no face found in its 125 frames"
  assert contents(out.parent) == {"in.mp4"}


def test_frames_that_are_too_large_are_refused_before_they_are_decoded(film, out, monkeypatch):
  monkeypatch.setattr("dpr_jax.film.reader._MOST_PIXELS", 3000)
  monkeypatch.setattr(FilmReader, "_decoded", lambda self: pytest.fail("decoded"))
  assert "frames of 64 x 48 pixels; at most 0 megapixels" in refusal(film, out)
  monkeypatch.setattr("dpr_jax.film.reader._MOST_PIXELS", 50_000_000)
  monkeypatch.setattr("dpr_jax.film.reader._LONGEST_SIDE", 60)
  assert "frames of 64 x 48 pixels; at most 50 megapixels and 60 a side" in refusal(film, out)
  assert contents(out.parent) == {"in.mp4"}


@pytest.mark.parametrize("curve", [PQ, HLG])
def test_high_dynamic_range_is_refused(tmp_path, out, curve):
  source = make_film(tmp_path / "in.mp4", wandering(3), tags={"color_trc": curve})
  assert "high dynamic range (HDR); convert it to SDR first" in refusal(source, out)


def test_targets_that_cannot_be(film, out):
  assert refusal(film, out.with_suffix(".avi")) == f"{out.with_suffix('.avi')}: a relit film has the suffix .mp4"
  assert refusal(film, out.parent) == f"{out.parent}: is a folder, not a file to write to"
  assert refusal(film, film) == f"{film}: exists already (--overwrite replaces it)"
  assert refusal(film, film / "out.mp4").startswith(f"{film / 'out.mp4.parts'}: cannot be made a folder")
  parts_folder(out).write_bytes(b"a file")
  assert "remove the folder" in refusal(film, out)
  assert refusal(film, out, overwrite=True) == f"{parts_folder(out)}: not a folder"
  assert contents(out.parent) == {"in.mp4", "out.mp4.parts"}


def test_a_film_may_replace_itself(film):
  relight_film(StandIn(), darkened, film, film, overwrite=True)
  assert len(shown(film)[0]) == 125
  assert contents(film.parent) == {"in.mp4"}


def cut(path, share):
  data = path.read_bytes()
  path.write_bytes(data[: int(len(data) * share)])


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_of_a_film_that_is_cut_off_what_is_there_is_relit(tmp_path, out, capsys, suffix):
  noise = np.random.default_rng(0).integers(0, 255, (100, 48, 64, 3), np.uint8)
  source = make_film(tmp_path / f"in.{suffix}", noise, options={"movflags": "faststart"} if suffix == "mp4" else {})
  cut(source, 0.6)
  relight_film(StandIn(), unchanged, source, out)
  frames = len(shown(out)[0])
  assert 50 < frames < 65
  assert capsys.readouterr().err == f"{source}: damaged or cut off; the {frames} frames that could be read are relit\n"


def test_a_whole_film_is_not_called_damaged(film, out, capsys):
  relight_film(StandIn(), unchanged, film, out)
  assert capsys.readouterr().err == ""


def test_a_film_that_is_cut_off_before_its_end_matter(film, out):
  cut(film, 0.6)  # an MP4 has its table of contents at the end
  assert refusal(film, out) == f"{film}: not a film, or cut off before it can be opened"


def test_a_film_of_which_nothing_can_be_decoded(tmp_path, out):
  source = make_film(tmp_path / "in.mp4", wandering(10), options={"movflags": "faststart"})
  data = bytearray(source.read_bytes())
  start = data.index(b"mdat") + 4
  data[start:] = bytes(len(data) - start)
  source.write_bytes(data)
  assert refusal(source, out) == f"{source}: no frame of it can be decoded"
  assert contents(tmp_path) == {"in.mp4"}
