"""Relights films, frame by frame, in segments that survive an interruption.

No more than a few frames are in memory at a time, however long the film. A run that is started again after it was
killed goes on after the last finished segment, and writes the same bytes as one that ran through, if it computed the
same pixels.
"""

import contextlib
import hashlib
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dpr_jax.base.errors import BadInput, one_line
from dpr_jax.base.output_files import atomic_output, check_free, claimed
from dpr_jax.film.moving_portrait import MovingPortrait
from dpr_jax.film.parts import FILM_SUFFIX, Parts, parts_folder
from dpr_jax.film.reader import FilmFrame, FilmReader
from dpr_jax.film.writer import join_segments, write_segment
from dpr_jax.portrait.portrait import Portrait

_SEGMENT_SECONDS = 4
_LAST_FRAME_SECONDS = 1  # by which a film may end early and still be whole


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
    parts = Parts(parts_folder(target))
    parts.begin(_job(source, job or {}), overwrite)
    done = parts.restore(moving)
    with tqdm(total=film.length, initial=done, unit="frame", disable=None) as progress:
      for number, frames in itertools.groupby(film.frames(done), lambda frame: _segment_of(film, frame)):
        relit = _relit(moving, relight, film, frames)
        with parts.segment(number) as aside:
          done += write_segment(aside, film, _counted(relit, progress))
          parts.keep(number, moving, done)
  if not done or not moving.faces_seen:
    parts.remove()
    raise BadInput(f"{source}: " + (f"no face found in its {done} frames" if done else "no frame of it can be decoded"))
  with atomic_output(target, overwrite) as aside:
    join_segments(parts.segments(), film, aside)
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
