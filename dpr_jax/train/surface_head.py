"""What our network makes of a face finder's mesh, learnt on rendered heads, whose shape is known exactly.

Everything else in the network is learnt before and stays as it is. A view is a head under a light of its own, as in
training; what the network sees in it, and what mesh the landmarks span there, is looked at once and kept. From both
together `SurfaceHead` learns the head's own normals and depth.
"""

import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging

from dpr_jax.base.cpu import compiler_options
from dpr_jax.base.errors import BadInput
from dpr_jax.base.output_files import atomic_output, check_free
from dpr_jax.image import color
from dpr_jax.network.networks import network_for
from dpr_jax.network.ratio_network import RatioHourglassNet, SurfaceHead
from dpr_jax.network.shape import Shape, Surface
from dpr_jax.network.weights import check_ending, digest, load_params, save_params
from dpr_jax.portrait.face_finders import FACE_FINDERS, open_face_finder
from dpr_jax.portrait.faces import FaceFinder, Framing
from dpr_jax.portrait.landmark_mesh import mesh_surface
from dpr_jax.train import losses
from dpr_jax.train.config import check_config, default_config
from dpr_jax.train.input_pipeline import make_iterator
from dpr_jax.train.record_source import RecordSource
from dpr_jax.train.views import relight_faces

_SIZE = RatioHourglassNet.native_size
_CELL = RatioHourglassNet.shape_cell
_FACES = 16  # looked at together
# As landmarks frame a face, it lies nearly where the record has it.
_CROP, _SCALE = 0.03, 0.06
# As in `portraits_256:default`, by which the network is taught.
_DARKEN, _LAMP_SHARE, _ORIGINAL_SHARE = 1.0, 0.75, 0.25
_FACE = 2.0  # how much more a cell of the face counts than one of hair or neck
_LEARNING_RATE, _EMA_DECAY = 2e-3, 0.995
_LOG_EVERY = 200
_HEAD = "surface_head"  # as the network has it
_LONGEST_REASON = 120


class SurfaceViews(NamedTuple):
  """N views of heads in cells, `[N, h, w, C]` float16 each; `seen_` is of the photo, `mirror_` of its mirror image.

  Attributes:
    seen_features: what the network saw the photo by.
    seen_normal: the network's normals of it.
    seen_depth: the network's depth of it.
    seen_skin: the network's skin of it.
    mirror_features: what the network saw the mirror image by.
    mirror_normal: its normals, not turned back.
    mirror_depth: its depth.
    mirror_skin: its skin.
    mesh_normal: of the landmarks, as `Surface.normal`, 0 where nothing is known.
    mesh_depth: as `Surface.depth`, 0 where nothing is known.
    mesh_weight: as `Surface.weight`.
    normal: of the head.
    depth: of the head.
    mask: the face.
    weight: what the shape of each cell is worth learning.
  """

  seen_features: np.ndarray
  seen_normal: np.ndarray
  seen_depth: np.ndarray
  seen_skin: np.ndarray
  mirror_features: np.ndarray
  mirror_normal: np.ndarray
  mirror_depth: np.ndarray
  mirror_skin: np.ndarray
  mesh_normal: np.ndarray
  mesh_depth: np.ndarray
  mesh_weight: np.ndarray
  normal: np.ndarray
  depth: np.ndarray
  mask: np.ndarray
  weight: np.ndarray


class _Batch(NamedTuple):
  """Views, or their mirror images, as the head is given them, and the truth."""

  shape: Shape
  surface: Surface
  features: np.ndarray
  normal: np.ndarray
  depth: np.ndarray
  mask: np.ndarray
  weight: np.ndarray


def make_surface_head(
  weights: str,
  dataset: Path,
  workdir: Path,
  out: Path,
  *,
  views: int = 6720,
  steps: int = 2400,
  batch: int = 16,
  seed: int = 0,
  overwrite: bool = False,
) -> None:
  """Gives weights of our network a `SurfaceHead`.

  MediaPipe's landmarks are learnt from, and for two views in seven those of the embedded finder; without MediaPipe for
  all. Looking at the views takes 0.1 s each, 0.8 GiB of disk and 1.2 GiB of memory for a thousand.

  Args:
    weights: of our network, as `load_params` takes them; a head that they have is learnt anew.
    dataset: of `export_dataset.py --source=heads`.
    workdir: keeps the views, which are not looked at again when the same command is given again.
    out: a new `.npz` or `.safetensors`.
    views: how many are learnt from.
    steps: of the training.
    batch: views in a step.
    seed: of every draw.
    overwrite: replace `out`.

  Raises:
    BadInput: weights of another network, no dataset of rendered heads, views that cannot be read or were made of other
      weights or data, a loss that is not finite, or `out` exists or cannot be written.
  """
  check_ending(out)
  check_free(out, overwrite)
  params = load_params(weights)
  if not isinstance(network_for(params), RatioHourglassNet):
    raise BadInput(f"{weights}: is of no network that knows shape, as default is")
  for split in ("train", "validation"):
    if not RecordSource(dataset, split).whole_shape:
      raise BadInput(f"{dataset}: not of rendered heads (--source=heads), whose shape alone is exact")
  try:
    workdir.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise BadInput(f"{workdir}: cannot be made ({error.strerror})") from error
  shares = _finder_shares()
  seen = {
    split: [
      _kept(workdir / f"{split}-{name}.npz", params, dataset, split, name, max(1, round(share * count)), seed)
      for name, share in shares.items()
    ]
    for split, count in (("train", views), ("validation", max(2, views // 16)))
  }
  head = train(seen["train"], seen["validation"], shares=tuple(shares.values()), steps=steps, batch=batch, seed=seed)
  joined = {kind: dict(tree) | {_HEAD: head[kind]} for kind, tree in params.items()}
  save_params(out, joined, overwrite=overwrite)


def _finder_shares() -> dict[str, float]:
  """Whose landmarks are learnt from, by name, and how many of them."""
  with open_face_finder() as finder:
    best = finder.name
  embedded = FACE_FINDERS[0]
  return {embedded: 1.0} if best == embedded else {best: 5 / 7, embedded: 2 / 7}


def _kept(path: Path, params: Any, dataset: Path, split: str, finder_name: str, count: int, seed: int) -> SurfaceViews:
  """`look_at_heads`, or what an earlier call kept in the file."""
  seen_by = {kind: {name: part for name, part in tree.items() if name != _HEAD} for kind, tree in params.items()}
  made_from = f"weights {digest(seen_by)}, dataset {dataset.resolve()}, {count} views, seed {seed}"
  if not path.is_file():
    with open_face_finder(finder_name) as finder:
      # A seed for each: the finders shall not see the same views.
      views = look_at_heads(params, dataset, split, finder, count, seed + FACE_FINDERS.index(finder_name))
    with atomic_output(path, overwrite=True) as temporary, temporary.open("wb") as file:
      np.savez(file, made_from=made_from, **views._asdict())
    return views
  try:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
      before = str(archive["made_from"])
      if before == made_from:
        return SurfaceViews(*(archive[name] for name in SurfaceViews._fields))
  except Exception as error:  # zipfile and NumPy's parser of headers answer damaged files with nearly any exception
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:_LONGEST_REASON]}"
    raise BadInput(f"{path}: cannot be read ({reason}); remove it, and it is made anew") from error
  raise BadInput(f"{path}: was made from {before}, not {made_from}; take another --workdir")


def look_at_heads(params: Any, dataset: Path, split: str, finder: FaceFinder, count: int, seed: int) -> SurfaceViews:
  """Views of the heads of a dataset, as network and finder see them; those without a face that is found are left out.

  Args:
    params: of our network.
    dataset: of `export_dataset.py --source=heads`.
    split: one of `records.SPLITS`.
    finder: whose landmarks span the mesh.
    count: how many views are looked at.
    seed: of framings and lights.

  Raises:
    BadInput: no such dataset, or no face is found in any view.
  """
  views_of = default_config()
  views_of.data.folder, views_of.data.mode, views_of.data.size = str(dataset), "online", _SIZE
  views_of.data.crop, views_of.data.scale, views_of.data.darken = _CROP, _SCALE, _DARKEN
  views_of.online.lamp_share, views_of.online.original_share = _LAMP_SHARE, _ORIGINAL_SHARE
  config = check_config(views_of)
  batches = make_iterator(config, dataset, split, batch_size=_FACES, seed=seed)
  relight = jax.jit(lambda key, faces: relight_faces(key, faces, config.online))
  network = network_for(params)
  see = jax.jit(functools.partial(network.apply, params, method="estimate"))
  rows, began = [], time.perf_counter()
  for number in range(-(-count // (2 * _FACES))):
    faces = next(batches)
    normal = _in_cells(faces.normal)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-6
    truth = (normal, *map(_in_cells, (faces.depth, faces.mask, faces.shape_weight)))
    for lightness in np.asarray(relight(jax.random.key(seed * 2**16 + number), faces).luminance):
      seen = _network_sees(see(np.concatenate([lightness, lightness[:, :, ::-1]])))
      for index in range(_FACES):
        mesh = _mesh(finder, lightness[index])
        if mesh is not None:
          row = (*(part[index] for part in seen), *mesh, *(part[index] for part in truth))
          rows.append([part.astype(np.float16) for part in row])
    if number % 10 == 0:
      logging.info("%s, %s: %d views, %.0f s", split, finder.name, len(rows), time.perf_counter() - began)
  if not rows:
    raise BadInput(f"{dataset}: the face finder {finder.name} finds no face in the split {split}")
  return SurfaceViews(*map(np.stack, zip(*rows[:count], strict=True)))


def _network_sees(seen: tuple) -> list[np.ndarray]:
  """The first eight parts of `SurfaceViews` from `RatioHourglassNet.estimate` of photos and their mirror images."""
  _, _, shape, features = seen
  parts = [np.asarray(part) for part in (features, shape.normal, shape.depth, shape.skin)]
  count = len(parts[0]) // 2
  return [part[:count] for part in parts] + [part[count:] for part in parts]


def _mesh(finder: FaceFinder, lightness: np.ndarray) -> Surface | None:
  """The mesh of the face in a square `[S, S, 1]` of L / 100, without the axis of a batch; None if none is found."""
  gray = color.delinearise(color.luminance_of_lightness(np.clip(lightness, 0, 1)))
  faces = finder.find(np.rint(255 * np.asarray(gray)).astype(np.uint8).repeat(3, axis=-1))
  if not faces:
    return None
  surface = mesh_surface(faces[0], Framing(np.eye(2, 3), 0.0, _SIZE), _SIZE // _CELL)
  known = surface.weight > 0  # beyond, depth may be anything
  return Surface(*(part[0] for part in (surface.normal * known, surface.depth * known, surface.weight)))


def _in_cells(array: jax.Array) -> np.ndarray:
  """Means over the pixels of each cell, `[B, H, W, C] -> [B, h, w, C]`."""
  b, h, w, c = array.shape
  return np.asarray(array).reshape(b, h // _CELL, _CELL, w // _CELL, _CELL, c).mean(axis=(2, 4))


def _batch(views: SurfaceViews, indices: Sequence[int] | slice, mirror: bool) -> _Batch:
  """Views, or what network and finder see in their mirror images."""
  chosen = SurfaceViews(*(part[indices].astype(np.float32) for part in views))
  seen, mirrored, known = chosen[:4], chosen[4:8], chosen[8:]
  if mirror:
    seen, known = mirrored, [part[:, :, ::-1] for part in known]
    towards_right = np.array([-1, 1, 1], np.float32)
    known[0], known[3] = known[0] * towards_right, known[3] * towards_right
  features, normal, depth, skin = seen
  return _Batch(Shape(None, None, normal, depth, skin, None), Surface(*known[:3]), features, *known[3:])


def train(
  views: Sequence[SurfaceViews],
  held_out: Sequence[SurfaceViews],
  *,
  shares: Sequence[float],
  steps: int,
  batch: int,
  seed: int,
) -> dict[str, Any]:
  """Learns a `SurfaceHead`, by Adam, the learning rate falling to zero as a cosine.

  Args:
    views: of each finder.
    held_out: other views of each finder; how good the head is on them is logged.
    shares: how much of the steps each finder gets.
    steps: how many.
    batch: views in a step, all of one finder.
    seed: of the draws.

  Returns:
    `params`, averaged over the steps, and `batch_stats`, of NumPy arrays.

  Raises:
    BadInput: a loss that is not finite, with the number of the step.
  """
  head = SurfaceHead()
  first = _batch(views[0], slice(1), mirror=False)
  variables = head.init(jax.random.key(seed), *first[:3], False)
  params, batch_stats = variables["params"], variables["batch_stats"]
  schedule = optax.warmup_cosine_decay_schedule(0.0, _LEARNING_RATE, min(100, steps // 10), steps)
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-3))

  @functools.partial(jax.jit, compiler_options=compiler_options())
  def step(params, batch_stats, state, average, given):
    def loss(params):
      variables = {"params": params, "batch_stats": batch_stats}
      shape, updated = head.apply(variables, *given[:3], True, mutable=["batch_stats"])
      weight = given.weight * (1 + _FACE * given.mask)
      turned = losses.normal_cosine(prediction=shape.normal, target=given.normal, weight=weight)
      off = losses.depth_l1(prediction=shape.depth, target=given.depth, mask=given.mask, weight=weight)
      return turned + off, updated["batch_stats"]

    (value, batch_stats), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    updates, state = optimizer.update(gradients, state, params)
    params = optax.apply_updates(params, updates)
    average = optax.incremental_update(params, average, 1 - _EMA_DECAY)
    return params, batch_stats, state, average, value

  state, average, began = optimizer.init(params), params, time.perf_counter()
  for number, given in enumerate(_draws(views, shares, batch, steps, np.random.default_rng(seed)), start=1):
    params, batch_stats, state, average, value = step(params, batch_stats, state, average, given)
    if not np.isfinite(value):
      raise BadInput(f"step {number}: the loss is not finite")
    if number % _LOG_EVERY == 0 or number == steps:
      learnt = {"params": average, "batch_stats": batch_stats}
      degrees = ", ".join("{:.2f} instead of {:.2f}".format(*mean_errors(learnt, each)) for each in held_out)
      logging.info("step %d: %s degrees off; %.0f s", number, degrees, time.perf_counter() - began)
  return jax.tree.map(np.asarray, {"params": average, "batch_stats": batch_stats})


def _draws(
  views: Sequence[SurfaceViews], shares: Sequence[float], batch: int, steps: int, rng: np.random.Generator
) -> Iterator[_Batch]:
  for _ in range(steps):
    of_finder = views[rng.choice(len(views), p=np.asarray(shares) / np.sum(shares))]
    count = len(of_finder.normal)
    yield _batch(of_finder, rng.choice(count, min(batch, count), replace=False), mirror=rng.random() < 0.5)


@jax.jit
def _join(variables: Any, shape: Shape, surface: Surface, features: jax.Array) -> Shape:
  return SurfaceHead().apply(variables, shape, surface, features, False)


def mean_errors(variables: Any, views: SurfaceViews) -> tuple[float, float]:
  """How far normals are off on the face, in degrees: of a head's shape, and of the mean that it sets right."""
  untaught = jax.tree.map(jnp.zeros_like, variables["params"])
  errors = []
  for begin in range(0, len(views.normal), _FACES):
    given = _batch(views, slice(begin, begin + _FACES), mirror=False)
    for params in (variables["params"], untaught):
      shape = _join(variables | {"params": params}, *given[:3])
      cosine = np.clip((np.asarray(shape.normal) * given.normal).sum(axis=-1), -1, 1)
      errors.append((np.degrees(np.arccos(cosine)) * given.mask[..., 0]).sum() / max(given.mask.sum(), 1e-6))
  return float(np.mean(errors[::2])), float(np.mean(errors[1::2]))
