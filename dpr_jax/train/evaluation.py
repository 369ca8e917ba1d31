"""How well networks relight held-out faces, beside the identity baseline: a table, a JSON file, a grid of pictures.

A pair is a source, a portrait with its own light, and a target, the same portrait under another light, which the
network is told. All that are compared see the same pixels: luminance L / 100 at one size. Prediction and target are
compared over the face, whose normals are known; the background of a relit portrait is a guess. The identity baseline
gives back the source.
"""

import collections
import contextlib
import functools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from dpr_jax import records
from dpr_jax.base.cpu import available_cores
from dpr_jax.base.errors import BadInput
from dpr_jax.base.output_files import atomic_output, check_free
from dpr_jax.image import pictures
from dpr_jax.image.color import photo_luminance
from dpr_jax.image.photo import Photo
from dpr_jax.image.photo_writing import write_photo
from dpr_jax.light.light import nine_numbers
from dpr_jax.network.encoding import ALL_SKIPS
from dpr_jax.network.networks import network_for
from dpr_jax.network.weights import load_params
from dpr_jax.train import metrics
from dpr_jax.train.augmentation import Augmentation
from dpr_jax.train.record_source import RecordSource

if TYPE_CHECKING:
  from dpr_jax.network.networks import Network

IDENTITY = "identity"
REPORT, GRID = "evaluation.json", "evaluation.png"

# Where a target light comes from; see `light_side`.
SIDES = ("front", "left", "right", "above", "below", "behind", "even")

# Sources `[B, S, S, 1]` and target lights `[T, B, 9]` in; relit `[T, B, S, S, 1]` and the sources' lights `[B, 9]`, or
# None, out.
Relight = Callable[[np.ndarray, np.ndarray], tuple[Any, Any]]

_IMAGE_SCORES = ("l1", "si_mse", "ssim")
_LIGHT_SCORES = ("light_angle", "light_error")
_BATCH_PIXELS = 2**19  # of the sources in a batch, for each device
_CACHE_BYTES = 2**29
_GRID_SIDE = 256
_MOST_ROWS = 40  # of a table; the report has them all
_SMALLEST, _LARGEST = 16, 2048  # sides in pixels
# What counts as light without a direction: band 1 over the first coefficient.
_EVEN = 0.05


class Face(NamedTuple):
  """A record as it is compared.

  Attributes:
    images: `[1 + K, S, S]` float32, L / 100: the photo, then the relit images.
    lights: `[1 + K, 9]`, theirs.
    mask: `[S, S]` bool, the face.
    names: K, of the target lights.
  """

  images: np.ndarray
  lights: np.ndarray
  mask: np.ndarray
  names: tuple[str, ...]


class _Task(NamedTuple):
  """A source and its targets, as indices into the images of one face."""

  face_index: int
  face: Face
  source: int
  targets: tuple[int, ...]


class Scores:
  """What one network made of all pairs.

  Attributes:
    pairs: a dict each: the scores, `face` (its number), `light` (where the target light comes from), `name` (its name).
    sources: a dict each: the scores of the estimated source light; empty for what estimates none.
    outputs: by the number of the face, what was made of its photo: the index of the target, and `[S, S]`.
  """

  def __init__(self):
    self.pairs: list[dict[str, Any]] = []
    self.sources: list[dict[str, float]] = []
    self.outputs: dict[int, tuple[int, np.ndarray]] = {}

  def summary(self) -> dict[str, Any]:
    """Means over all pairs (sources, for the source light), and over the pairs of each kind of target light.

    `by_direction` is grouped by `light_side`; `by_name` by the lights' names, where faces share them.
    """
    names = {pair["name"] for pair in self.pairs}
    groups = {"by_direction": _grouped(self.pairs, "light")}
    if 2 * len(names) <= len({(pair["name"], pair["face"]) for pair in self.pairs}):
      groups["by_name"] = _grouped(self.pairs, "name")
    return _means(self.pairs, _IMAGE_SCORES) | _means(self.sources, _LIGHT_SCORES, "sources") | groups


def _grouped(pairs: Sequence[Mapping[str, Any]], key: str) -> dict[str, dict[str, float]]:
  groups = collections.defaultdict(list)
  for pair in pairs:
    groups[pair[key]].append(pair)
  order = SIDES.index if key == "light" else None
  return {name: _means(groups[name], _IMAGE_SCORES) for name in sorted(groups, key=order)}


def _means(rows: Sequence[Mapping[str, Any]], names: Sequence[str], what: str = "pairs") -> dict[str, float]:
  """The number of rows and the mean of each score; nothing without rows.

  An angle that is not defined (NaN: one of the lights has no direction) is left out of the mean; whatever else is not
  a number makes the mean none.
  """
  if not rows:
    return {}
  means = {what: len(rows)}
  for name in names:
    values = np.array([row[name] for row in rows], np.float64)
    values = values[~np.isnan(values)] if name == "light_angle" else values
    means[name] = float(values.mean()) if len(values) else math.nan
  return means


def light_side(light: np.ndarray) -> str:
  """Where a light `[9]` mainly comes from: front (the camera's side), behind, left, right (of the image), above, below.

  The axis nearest to the direction of band 1; or "even", where the light has hardly a direction.
  """
  x, y, z = light[[3, 1, 2]]
  if math.hypot(x, y, z) <= _EVEN * abs(light[0]):
    return "even"
  sides = {"right": x, "left": -x, "behind": y, "front": -y, "above": z, "below": -z}
  return max(sides, key=sides.get)


def identity(sources: np.ndarray, lights: np.ndarray) -> tuple[np.ndarray, None]:
  """The baseline: the source itself, whatever the light."""
  return np.broadcast_to(sources, (len(lights), *sources.shape)), None


def network_relight(variables: Any, skip_mask: Sequence[bool] = ALL_SKIPS) -> Relight:
  """A network as a `Relight`; batches are cut over the devices of this process.

  Args:
    variables: `{"params", "batch_stats"}`, of either network.
    skip_mask: which skip connections are on, as in the stage that it was trained to.
  """
  mesh = Mesh(np.array(jax.local_devices()), ("data",))
  # By way of the host: the variables of a training run are spread over the devices of all processes.
  variables = jax.device_put(jax.device_get(variables), NamedSharding(mesh, PartitionSpec()))

  def relight(sources, lights):
    sources = jax.device_put(sources, NamedSharding(mesh, PartitionSpec("data")))
    lights = jax.device_put(lights, NamedSharding(mesh, PartitionSpec(None, "data")))
    return _relight(variables, sources, lights, tuple(skip_mask))

  return relight


@functools.partial(jax.jit, static_argnums=3)
def _relight(
  variables, sources: jax.Array, lights: jax.Array, skip_mask: tuple[bool, ...]
) -> tuple[jax.Array, jax.Array]:
  network = network_for(variables)
  encoding = network.apply(variables, sources, method="encode")
  # One light after another: memory stays that of a single decode.
  relit = jax.lax.map(lambda light: network.apply(variables, encoding, light, skip_mask, method="decode"), lights)
  return relit, nine_numbers(encoding.light)


class Evaluator:
  """Held-out faces, opened once for any number of networks; the same numbers whenever it is asked.

  Attributes:
    size: side of the images that are compared, in pixels.
    num_faces: how many faces.
  """

  def __init__(
    self,
    folder: str | os.PathLike,
    split: str,
    size: int | None = None,
    limit: int | None = None,
    *,
    relit_sources: bool = False,
    whole_picture: bool = False,
    on_corrupt: str = "stop",
  ):
    """Opens a split of a dataset.

    Args:
      folder: of `export_dataset.py`.
      split: "train", "validation" or "test".
      size: side to which the images are brought before a network sees them; None: as they are.
      limit: how many faces, the first ones; None: all.
      relit_sources: take the relit images as sources too, each with all the others as targets.
      whole_picture: compare the background too.
      on_corrupt: "stop" at a damaged record, or "skip" it; `limit` counts it all the same.

    Raises:
      BadInput: no such split, no face in it, or (with "stop") a record that cannot be read.
    """
    if split not in records.SPLITS:
      raise BadInput(f"--split {split}: must be one of {', '.join(records.SPLITS)}")
    if limit is not None and limit < 1:
      raise BadInput(f"--limit {limit}: must be at least 1")
    if size is not None and not _SMALLEST <= size <= _LARGEST:
      raise BadInput(f"--size {size}: must lie in {_SMALLEST} to {_LARGEST}")
    self._source = RecordSource(folder, split, on_corrupt)
    self.num_faces = min(len(self._source), limit or len(self._source))
    self._skips = on_corrupt == "skip"
    self._relit_sources, self._whole_picture = relit_sources, whole_picture
    self.size, self._cache = size, None
    with contextlib.closing(self.faces()) as faces:
      first = next(faces, None)
    if first is None:
      raise BadInput(f"{folder}: none of {self.num_faces} records of the {split} split can be read")
    self.size = len(first.mask)
    self._targets = len(first.names)  # at once; a face with more takes several turns
    # Where they fit into memory, they are decoded once.
    if self.num_faces * first.images.nbytes <= _CACHE_BYTES:
      self._cache = list(self.faces())
      self.num_faces = len(self._cache)
    self._identity = None

  def faces(self) -> Iterator[Face]:
    """The faces in order, as they are compared."""
    if self._cache is not None:
      yield from self._cache
      return
    workers = available_cores()
    with ThreadPoolExecutor(workers) as pool:
      faces = _in_order(pool, self._face, range(self.num_faces), ahead=2 * workers)
      yield from (face for face in faces if face is not None)

  def run(self, variables: Any, skip_mask: Sequence[bool] = ALL_SKIPS) -> dict[str, float]:
    """Means over all pairs, for a network and for the baseline.

    Args:
      variables: `{"params", "batch_stats"}`, of either network.
      skip_mask: as for `network_relight`.

    Returns:
      `l1`, `si_mse`, `ssim`, `light_angle` (degrees), `light_error` (relative), `identity_l1`, `identity_si_mse`,
      `identity_ssim`.
    """
    if self._identity is None:
      summary = self.evaluate(identity).summary()
      self._identity = {f"{IDENTITY}_{name}": summary[name] for name in _IMAGE_SCORES}
    summary = self.evaluate(network_relight(variables, skip_mask)).summary()
    return {name: summary[name] for name in (*_IMAGE_SCORES, *_LIGHT_SCORES)} | self._identity

  def evaluate(self, relight: Relight, *, label: str | None = None, num_pictures: int = 0) -> Scores:
    """Relights every source to each of its targets, and compares.

    Args:
      relight: what to evaluate; it is always asked for as many images and lights at once.
      label: shows a progress bar with this name.
      num_pictures: keep the outputs of so many faces, the first ones.
    """
    devices = jax.local_device_count()
    batch_size = devices * max(1, min(_BATCH_PIXELS // self.size**2, -(-self.num_faces // devices)))
    scores = Scores()
    with (
      ThreadPoolExecutor(available_cores()) as pool,
      contextlib.closing(self._tasks()) as tasks,
      tqdm(total=self.num_faces, desc=label, unit=" faces", disable=None if label else True, dynamic_ncols=True) as bar,
    ):
      while batch := list(islice(tasks, batch_size)):
        self._score(batch, *_relit(relight, batch, batch_size, self._targets), pool, num_pictures, scores)
        bar.update(batch[-1].face_index - bar.n)  # the last face may have more sources
      bar.update(self.num_faces - bar.n)
    return scores

  def _score(self, batch, relit, estimated, pool, num_pictures, scores) -> None:
    pairs = [(t, b) for b, task in enumerate(batch) for t in range(len(task.targets))]

    def score(t, b):
      task = batch[b]
      compared = {
        "prediction": relit[t, b, ..., 0],
        "target": task.face.images[task.targets[t]],
        "mask": None if self._whole_picture else task.face.mask,
      }
      return {name: float(getattr(metrics, name)(**compared)) for name in _IMAGE_SCORES}

    for (t, b), scored in zip(pairs, pool.map(score, *zip(*pairs, strict=True)), strict=True):
      task = batch[b]
      target = task.targets[t]
      light, name = light_side(task.face.lights[target]), task.face.names[target - 1]
      scores.pairs.append(scored | {"face": task.face_index, "light": light, "name": name})
      # One target of each face, another one from face to face.
      shown = 1 + task.face_index % len(task.face.names)
      if task.face_index < num_pictures and task.source == 0 and target == shown:
        scores.outputs[task.face_index] = target, relit[t, b, ..., 0].copy()
    if estimated is not None:
      for task, light in zip(batch, estimated, strict=False):  # the batch may be padded
        if task.targets[0] == _first_target(task.source):
          scores.sources.append(_light_scores(light, task.face.lights[task.source]))

  def _tasks(self) -> Iterator[_Task]:
    for index, face in enumerate(self.faces()):
      count = len(face.images)
      for source in range(count if self._relit_sources and count > 2 else 1):
        targets = [target for target in range(1, count) if target != source]
        for start in range(0, len(targets), self._targets):
          yield _Task(index, face, source, tuple(targets[start : start + self._targets]))

  def _face(self, index: int) -> Face | None:
    """The face of a record; None: damaged, and to be skipped."""
    try:
      return self._compared(self._source[index])
    except BadInput:
      if self._skips:
        return None
      raise

  def _compared(self, record: records.Record) -> Face:
    height, width = record.mask.shape
    if height != width:
      raise BadInput(f"record {record.id!r}: is not square ({height} x {width} pixels, height and width)")
    move = Augmentation(self.size or height)
    images = [photo_luminance(move.resize(image)) for image in (record.original, *record.relit)]
    mask = move.mask(record.mask) > 0
    if not mask.any():
      raise BadInput(f"record {record.id!r}: its mask marks no face")
    lights = np.concatenate([record.source_light[None], record.target_lights])
    return Face(np.stack(images), lights, mask, record.light_names)


def _first_target(source: int) -> int:
  return 2 if source == 1 else 1


def _relit(relight: Relight, batch: Sequence[_Task], batch_size: int, num_targets: int):
  """Relights a batch, which is brought to its full size by repeating the last of it: nothing is compiled twice."""
  padded = [*batch, *[batch[-1]] * (batch_size - len(batch))]
  sources = np.stack([task.face.images[task.source] for task in padded])[..., None]
  lights = []
  for task in padded:
    targets = [*task.targets, *[task.targets[-1]] * (num_targets - len(task.targets))]
    lights.append(task.face.lights[targets])
  relit, estimated = relight(sources, np.stack(lights, axis=1))
  return np.asarray(relit), None if estimated is None else np.asarray(estimated)


def _light_scores(prediction: np.ndarray, target: np.ndarray) -> dict[str, float]:
  """Degrees between the dominant directions, and the length of the difference over that of the true light.

  How bright a light is cannot be told apart from the albedo: both are compared at a first coefficient of 1.
  """
  angle = float(metrics.light_angle(prediction=prediction, target=target))
  if not prediction[0] > 0 or not target[0] > 0:
    return {"light_angle": angle, "light_error": math.nan}
  prediction, target = prediction / prediction[0], target / target[0]
  return {"light_angle": angle, "light_error": float(np.linalg.norm(prediction - target) / np.linalg.norm(target))}


def _in_order(pool: ThreadPoolExecutor, function: Callable, items: Iterable, ahead: int) -> Iterator:
  """`map` in threads that run no more than so many items ahead."""
  waiting = collections.deque()
  try:
    for item in items:
      waiting.append(pool.submit(function, item))
      if len(waiting) > ahead:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()
  finally:
    for future in waiting:
      future.cancel()


def evaluate(
  weights: Sequence[str],
  folder: str | os.PathLike,
  split: str = "test",
  *,
  size: int | None = None,
  limit: int | None = None,
  out: str | os.PathLike | None = None,
  overwrite: bool = False,
  relit_sources: bool = False,
  whole_picture: bool = False,
  on_corrupt: str = "stop",
  num_pictures: int = 8,
) -> str:
  """Evaluates networks side by side, and the identity baseline with them.

  Args:
    weights: as for `load_params`, or "identity".
    folder: see `Evaluator`.
    split: see `Evaluator`.
    size: see `Evaluator`.
    limit: see `Evaluator`.
    out: folder for `evaluation.json` and `evaluation.png`; None: neither is written.
    overwrite: whether these may be replaced.
    relit_sources: see `Evaluator`.
    whole_picture: see `Evaluator`.
    on_corrupt: see `Evaluator`.
    num_pictures: rows of the grid.

  Returns:
    Tables, for people.

  Raises:
    BadInput: weights or records that cannot be used, a size that a network does not take, outputs that exist.
  """
  targets = [Path(out) / name for name in (REPORT, GRID)] if out else []
  for target in targets:
    check_free(target, overwrite)
  if num_pictures < 1:
    raise BadInput(f"--pictures {num_pictures}: must be at least 1")
  networks = {name: load_params(name) for name in dict.fromkeys(weights) if name != IDENTITY}
  evaluator = Evaluator(
    folder, split, size, limit, relit_sources=relit_sources, whole_picture=whole_picture, on_corrupt=on_corrupt
  )
  for name, variables in networks.items():
    _check_fits(name, network_for(variables), evaluator.size)
  scores = {IDENTITY: evaluator.evaluate(identity, label=IDENTITY, num_pictures=num_pictures)}
  for name, variables in networks.items():
    scores[name] = evaluator.evaluate(network_relight(variables), label=name, num_pictures=num_pictures)
  summaries = {name: score.summary() for name, score in scores.items()}
  about = {
    "split": split,
    "faces": evaluator.num_faces,
    "size": evaluator.size,
    "sources": "the photos and their relit images" if relit_sources else "the photos",
    "region": "whole picture" if whole_picture else "face",
  }
  if targets:
    report = _without_nan(about | {"weights": summaries})
    with atomic_output(targets[0], overwrite) as temporary:
      temporary.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    write_photo(targets[1], Photo(_grid(evaluator, scores)), overwrite=overwrite)
  return "\n\n".join(_tables(about, summaries))


def _check_fits(name: str, network: "Network", size: int) -> None:
  if not network.gray:
    raise BadInput(f"weights {name!r}: take lights of {network.light_size} numbers; here a light is gray, 9 numbers")
  if size % network.size_multiple:
    raise BadInput(
      f"weights {name!r}: take images whose side is a multiple of {network.size_multiple}, not of {size} pixels; "
      "--size brings them to another size"
    )


def _without_nan(value: Any) -> Any:
  """JSON has no NaN: null."""
  if isinstance(value, Mapping):
    return {name: _without_nan(inner) for name, inner in value.items()}
  return None if isinstance(value, float) and not math.isfinite(value) else value


def _grid(evaluator: Evaluator, scores: Mapping[str, Scores]) -> np.ndarray:
  rows, first = [], next(iter(scores.values()))
  with contextlib.closing(evaluator.faces()) as faces:
    for index, face in enumerate(islice(faces, len(first.outputs))):
      target, _ = first.outputs[index]
      outputs = [score.outputs[index][1] for name, score in scores.items() if name != IDENTITY]
      outputs = outputs or [first.outputs[index][1]]  # of the baseline, where there is nothing else
      source, wanted, *outputs = (
        pictures.shrink(picture, _GRID_SIDE) for picture in (face.images[0], face.images[target], *outputs)
      )
      rows.append((source, face.lights[0], wanted, face.lights[target], *outputs))
  names = [name for name in scores if name != IDENTITY] or [IDENTITY]
  return pictures.relighting_grid(rows, ["source", "target", *names])


def _tables(about: Mapping[str, Any], summaries: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
  baseline = summaries[IDENTITY]
  yield (
    f"{about['faces']} faces of {about['split']}, {baseline['pairs']} pairs of {about['size']} x {about['size']} "
    f"pixels; sources: {about['sources']}; compared: {about['region']}"
  )
  rows = [("", "L1", "si-MSE x 1000", "of identity's", "SSIM", "light, degrees", "light, relative")]
  for name, summary in summaries.items():
    share = summary["si_mse"] / baseline["si_mse"] if baseline["si_mse"] else math.nan
    light = [_number(summary.get(score, math.nan), digits) for score, digits in zip(_LIGHT_SCORES, (1, 3), strict=True)]
    image = [_number(summary["l1"], 4), _number(1000 * summary["si_mse"], 3), _number(share, 3)]
    rows.append((name, *image, _number(summary["ssim"], 4), *light))
  yield _aligned(rows)
  for group, title in (("by_direction", "light from"), ("by_name", "light")):
    if len(baseline.get(group, ())) not in range(1, _MOST_ROWS + 1):
      continue
    rows = [(f"si-MSE x 1000, {title}", "pairs", *summaries)]
    for key, mean in baseline[group].items():
      errors = (_number(1000 * summary[group][key]["si_mse"], 3) for summary in summaries.values())
      rows.append((key, str(mean["pairs"]), *errors))
    yield _aligned(rows)


def _number(value: float, digits: int) -> str:
  return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = []
  for first, *rest in rows:
    cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
    lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
  return "\n".join(lines)
