"""Skin from real portraits: the morphable head fitted to a photo's landmarks, and the photo's colours on it."""

from typing import NamedTuple

import numpy as np

from data_gen.heads.landmarks import SurfacePoints
from data_gen.heads.materials import Regions
from data_gen.heads.morphable_head import MorphableHead
from data_gen.rasterize import rasterize, vertex_normals
from dpr_jax.base.native_libraries import import_native
from dpr_jax.image.color import linearise
from dpr_jax.portrait.faces import Face
from dpr_jax.portrait.landmark_mesh import LEAN

cv2 = import_native("cv2")

_IDENTITY_MODES = 50
_ROUNDS = 4
_NOISE = 0.12  # cm, of a landmark's place; its depth is known half as well
_EXPRESSION_DEVIATION = 0.35
_LEAST_FACING = 0.25


class PortraitTexture(NamedTuple):
  """A person taken from a photo.

  Attributes:
    identity: `[50]` weights in standard deviations.
    expression: `[E]` weights in [0, 1].
    albedo: `[V, 3]` linear RGB; the photo's own light is in it.
    known: `[V]` in [0, 1]: how well the photo, or its mirror image, shows each vertex.
    skin: `[3]` linear RGB, the median over the face.
  """

  identity: np.ndarray
  expression: np.ndarray
  albedo: np.ndarray
  known: np.ndarray
  skin: np.ndarray


def portrait_texture(
  model: MorphableHead, regions: Regions, landmarks: SurfacePoints, pixels: np.ndarray, face: Face
) -> PortraitTexture:
  """Fits the head to a portrait and takes its colours.

  Args:
    model: the head.
    regions: where its front is.
    landmarks: MediaPipe's landmarks on the model.
    pixels: `[H, W, 3]` uint8 RGB.
    face: as a face finder found it in the photo, with depth.
  """
  identity, expression, similarity = fit(model, landmarks, face)
  vertices = model.vertices(identity, expression).astype(np.float64)
  scale, turn, shift = similarity
  placed = scale * vertices @ turn.T + shift
  seen = placed * (1, -1, 1) - (0.5, 0.5, 0)
  zoom = 2
  big = seen * zoom
  height, width = pixels.shape[:2]
  normals = vertex_normals(placed, model.triangles)
  _, depth = rasterize(big, model.triangles, np.zeros((len(big), 0)), height * zoom, width * zoom)
  column = np.clip(np.round(big[:, 0]).astype(int), 0, width * zoom - 1)
  row = np.clip(np.round(big[:, 1]).astype(int), 0, height * zoom - 1)
  near = big[:, 2] > depth[row, column] - 0.4 * scale * zoom
  inside = (seen[:, 0] > 0) & (seen[:, 0] < width - 1) & (seen[:, 1] > 0) & (seen[:, 1] < height - 1)
  facing = np.clip((normals[:, 2] - _LEAST_FACING) / 0.3, 0, 1) * near * inside * (regions.skin > 0)
  linear = linearise(pixels.astype(np.float32) / 255)
  color = cv2.remap(linear, seen[:, :1].astype(np.float32), seen[:, 1:2].astype(np.float32), cv2.INTER_LINEAR).reshape(
    -1, 3
  )
  other = facing[model.mirror] * (1 - facing)
  known = facing + other
  albedo = (facing[:, None] * color + other[:, None] * color[model.mirror]) / np.maximum(known, 1e-6)[:, None]
  plain = regions.front * known * (regions.brows < 0.05) * (regions.lips < 0.05) * (regions.lids < 0.05) > 0.9
  skin = np.median(albedo[plain], axis=0) if plain.any() else np.full(3, 0.3)
  return PortraitTexture(identity, expression, albedo.astype(np.float32), known, skin)


def fit(
  model: MorphableHead, landmarks: SurfacePoints, face: Face
) -> tuple[np.ndarray, np.ndarray, tuple[float, np.ndarray, np.ndarray]]:
  """The head that has its landmarks where the face has them: regularised linear least squares, pose by pose.

  Args:
    model: the head.
    landmarks: MediaPipe's landmarks on it.
    face: with depth.

  Returns:
    identity: `[50]` weights.
    expression: `[E]` weights in [0, 1].
    similarity: scale, rotation `[3, 3]` and shift `[3]` to pixels, y up.
  """
  count = 468
  points = SurfacePoints(landmarks.corners[:count], landmarks.weights[:count])
  target = np.column_stack([face.landmarks[:count] * (1, -1), face.depth[:count]])
  mean = points.positions(model.neutral.astype(np.float64))
  modes = [points.positions(mode) for mode in model.identity[:_IDENTITY_MODES]]
  modes = np.stack([*modes, *(points.positions(mode) for mode in model.expression)]).astype(np.float64)
  deviation = np.concatenate([np.ones(_IDENTITY_MODES), np.full(len(model.expression), _EXPRESSION_DEVIATION)])
  weights = np.zeros(len(modes))
  trust = np.tile([1.0, 1.0, 0.4], (count, 1)) / _NOISE
  for number in range(_ROUNDS):
    shape = mean + np.einsum("k,knc->nc", weights, modes)
    scale, turn, shift = _similarity(shape, target)
    if number == 0:
      up = turn[:2, 1] / np.linalg.norm(turn[:2, 1])
      target[:, 2] -= LEAN * (target[:, :2] - target[:, :2].mean(axis=0)) @ up
    if number == _ROUNDS - 1:
      break
    system = np.einsum("knc,dc->ndk", modes, turn)
    rest = (target - shift) / scale - mean @ turn.T
    matrix = np.vstack([(system * trust[..., None]).reshape(-1, len(modes)), np.diag(1 / deviation)])
    right = np.concatenate([(rest * trust).ravel(), np.zeros(len(modes))])
    # Landmarks near each other err together: four of them say about as much as one.
    matrix[: system.shape[0] * 3] /= 2
    right[: system.shape[0] * 3] /= 2
    weights = np.linalg.solve(matrix.T @ matrix, matrix.T @ right)
    weights[_IDENTITY_MODES:] = np.clip(weights[_IDENTITY_MODES:], 0, 1)
  return weights[:_IDENTITY_MODES], weights[_IDENTITY_MODES:], (scale, turn, shift)


def _similarity(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
  """Umeyama 1991: scale, rotation and shift that lay `source` `[N, 3]` on `target`."""
  a, b = source - source.mean(axis=0), target - target.mean(axis=0)
  u, values, vt = np.linalg.svd(b.T @ a)
  signs = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
  turn = u @ np.diag(signs) @ vt
  scale = float((values * signs).sum() / (a**2).sum())
  return scale, turn, target.mean(axis=0) - scale * turn @ source.mean(axis=0)
