"""ICT-FaceKit's morphable head (Li et al., CVPR 2020): identities, expressions and gaze as vertices of one mesh.

Axes of the head: x to the subject's left, y up, z out of the face, lengths in cm, so that a head seen from the front
has x to the picture's right.
"""

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dpr_jax.base.errors import BadInput, reason_of
from dpr_jax.base.input_files import numpy_silenced

HEAD_FILE = "ict_facekit.npz"

# Numbers of the file's `face_region`.
FACE, HEAD, MOUTH, GUMS, TEETH, LEFT_EYEBALL, RIGHT_EYEBALL = 0, 1, 2, 5, 6, 7, 8
_KEPT_REGIONS = (0, 1, 2, 3, 4, GUMS, TEETH, LEFT_EYEBALL, RIGHT_EYEBALL)  # 9-14 are transparent, 15-16 lashes
INSIDE_MOUTH = (MOUTH, GUMS, TEETH)
_SCLERA_MATERIALS = {LEFT_EYEBALL: 4, RIGHT_EYEBALL: 6}  # the eyeball's outer shell; the inner one is never seen
_ARRAYS = {
  "neutral": (None, 3),
  "identity": (None, None, 3),
  "expression": (None, None, 3),
  "expression_names": (None,),
  "faces": (None, 3),
  "face_region": (None,),
  "face_material": (None,),
  "landmarks68": (68,),
}
_MOST_BYTES = 2**28


class MorphableHead(NamedTuple):
  """A linear model of heads, without the parts that are never seen.

  Attributes:
    neutral: `[V, 3]` float32, the mean head in cm.
    identity: `[I, V, 3]` float32, displacements of one standard deviation.
    expression: `[E, V, 3]` float32, displacements at weight 1.
    expression_names: one name for each expression.
    triangles: `[T, 3]` int32, counterclockwise seen from outside.
    region: `[T]` int8, the file's numbers.
    vertex_region: `[V]` int8; the smallest region among a vertex's triangles.
    file_vertex: `[V]` int32, each vertex's number in the file.
    mirror: `[V]` int32, the vertex on the other side of the neutral head.
    landmarks68: `[68]` vertex numbers in Multi-PIE's order.
  """

  neutral: np.ndarray
  identity: np.ndarray
  expression: np.ndarray
  expression_names: tuple[str, ...]
  triangles: np.ndarray
  region: np.ndarray
  vertex_region: np.ndarray
  file_vertex: np.ndarray
  mirror: np.ndarray
  landmarks68: np.ndarray

  def vertices(
    self, identity: np.ndarray, expression: np.ndarray, gaze: tuple[float, float] = (0.0, 0.0)
  ) -> np.ndarray:
    """The vertices `[V, 3]` of one head in cm.

    Args:
      identity: at most `[I]` weights, in standard deviations.
      expression: `[E]` weights in [0, 1].
      gaze: degrees by which the eyes turn to the subject's left, and upwards.
    """
    count = len(identity)
    modes = self.identity[:count].reshape(count, self.neutral.size)
    vertices = self.neutral + (identity.astype(np.float32) @ modes).reshape(self.neutral.shape)
    for number in np.flatnonzero(expression):
      vertices += np.float32(expression[number]) * self.expression[number]
    turn = _gaze_rotation(*gaze)
    for region in (LEFT_EYEBALL, RIGHT_EYEBALL):
      eyeball = self.vertex_region == region
      centre = sphere_centre(vertices[eyeball])
      vertices[eyeball] = (vertices[eyeball] - centre) @ turn.T + centre
    return vertices

  def named_expression(self, **weights: float) -> np.ndarray:
    """`[E]` weights; a name without `_L` or `_R` stands for both sides."""
    expression = np.zeros(len(self.expression_names))
    for name, weight in weights.items():
      numbers = [i for i, full in enumerate(self.expression_names) if full in (name, f"{name}_L", f"{name}_R")]
      if not numbers:
        raise ValueError(f"unknown expression {name!r}")
      expression[numbers] = weight
    return expression


def load_morphable_head(path: str | Path) -> MorphableHead:
  """Reads `ict_facekit.npz`.

  Raises:
    BadInput: the file is missing, damaged or lacks an array.
  """
  arrays = {}
  try:
    with zipfile.ZipFile(path) as archive:
      if sum(entry.file_size for entry in archive.infolist()) > _MOST_BYTES:
        raise BadInput(f"{path}: larger than a morphable head can be")
    with numpy_silenced(), np.load(path, allow_pickle=False) as file:
      for name, shape in _ARRAYS.items():
        array = arrays[name] = file[name]
        if array.ndim != len(shape) or any(
          want not in (None, have) for want, have in zip(shape, array.shape, strict=True)
        ):
          raise BadInput(f"{path}: {name} has the shape {list(array.shape)}")
  except BadInput:
    raise
  except KeyError as error:
    raise BadInput(f"{path}: not a morphable head: {error.args[0]}") from error
  except Exception as error:  # zipfile, zlib and NumPy's parser of headers answer damage with nearly any exception
    raise BadInput(f"{path}: cannot be read as a morphable head: {reason_of(error)}") from error
  _check(path, arrays)
  return _without_hidden_parts(arrays)


def draw_identity(rng: np.random.Generator, model: MorphableHead, *, spread: float = 0.8) -> np.ndarray:
  """`[I]` random identity weights, normal with the standard deviation `spread`."""
  return spread * rng.standard_normal(len(model.identity))


def draw_expression(rng: np.random.Generator, model: MorphableHead) -> np.ndarray:
  """`[E]` random expression weights: about a third neutral, else the usual ones and a few odd ones."""
  if rng.random() < 0.3:
    return np.zeros(len(model.expression_names))
  weights = np.zeros(len(model.expression_names))
  for names, chance, highest in _USUAL_EXPRESSIONS:
    if rng.random() < chance:
      weight = rng.uniform(0.15, highest)
      for name in names:
        weights = np.maximum(weights, model.named_expression(**{name: weight * rng.uniform(0.8, 1)}))
  odd = rng.choice(len(weights), rng.integers(0, 4), replace=False)
  weights[odd] = np.maximum(weights[odd], rng.uniform(0.1, 0.5, len(odd)))
  return weights


_USUAL_EXPRESSIONS = (
  (("mouthSmile",), 0.35, 0.9),
  (("jawOpen",), 0.3, 0.75),
  (("mouthUpperUp", "mouthLowerDown"), 0.2, 0.6),
  (("browInnerUp", "browOuterUp"), 0.2, 0.9),
  (("browDown",), 0.15, 0.8),
  (("eyeBlink",), 0.15, 1.0),
  (("eyeSquint", "cheekSquint"), 0.2, 0.8),
  (("eyeWide",), 0.1, 0.7),
  (("mouthPucker",), 0.08, 0.8),
  (("mouthFunnel",), 0.06, 0.6),
  (("mouthFrown",), 0.1, 0.7),
  (("jawLeft",), 0.04, 0.5),
  (("jawRight",), 0.04, 0.5),
)


def sphere_centre(points: np.ndarray) -> np.ndarray:
  """`[3]`: the centre of the sphere that fits points `[N, 3]` best in the algebraic sense."""
  mean = points.mean(axis=0)
  offset = points - mean
  system = np.column_stack([2 * offset, np.ones(len(offset))])
  return mean + np.linalg.lstsq(system, (offset**2).sum(axis=1), rcond=None)[0][:3]


def _gaze_rotation(left: float, up: float) -> np.ndarray:
  yaw, pitch = np.radians([left, up])
  turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
  return turn @ np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])


def _check(path: str | Path, arrays: dict[str, np.ndarray]) -> None:
  vertices, triangles = len(arrays["neutral"]), len(arrays["faces"])
  if arrays["identity"].shape[1] != vertices or arrays["expression"].shape[1] != vertices:
    raise BadInput(f"{path}: its modes have another number of vertices than its neutral head")
  if len(arrays["expression_names"]) != len(arrays["expression"]):
    raise BadInput(f"{path}: its expressions and their names differ in number")
  if len(arrays["face_region"]) != triangles or len(arrays["face_material"]) != triangles:
    raise BadInput(f"{path}: its triangles, regions and materials differ in number")
  for name in ("faces", "landmarks68"):
    if arrays[name].size == 0 or not 0 <= arrays[name].min() <= arrays[name].max() < vertices:
      raise BadInput(f"{path}: {name} names a vertex that does not exist")
  if not np.isfinite(arrays["neutral"]).all():
    raise BadInput(f"{path}: its neutral head has vertices that are not finite")


def _without_hidden_parts(arrays: dict[str, np.ndarray]) -> MorphableHead:
  from scipy.spatial import cKDTree  # takes long to import

  region, material = arrays["face_region"], arrays["face_material"]
  kept = np.isin(region, _KEPT_REGIONS)
  for eyeball, sclera in _SCLERA_MATERIALS.items():
    kept &= (region != eyeball) | (material == sclera)
  triangles, region = arrays["faces"][kept], region[kept]
  file_vertex = np.unique(triangles)
  number = np.full(len(arrays["neutral"]), -1, np.int32)
  number[file_vertex] = np.arange(len(file_vertex))
  triangles = number[triangles]
  vertex_region = np.full(len(file_vertex), 127, np.int8)
  np.minimum.at(vertex_region, triangles.ravel(), np.repeat(region, 3))
  neutral = arrays["neutral"][file_vertex].astype(np.float32)
  return MorphableHead(
    neutral=neutral,
    identity=np.ascontiguousarray(arrays["identity"][:, file_vertex], np.float32),
    expression=np.ascontiguousarray(arrays["expression"][:, file_vertex], np.float32),
    expression_names=tuple(str(name) for name in arrays["expression_names"]),
    triangles=triangles.astype(np.int32),
    region=region,
    vertex_region=vertex_region,
    file_vertex=file_vertex.astype(np.int32),
    mirror=cKDTree(neutral).query(neutral * (-1, 1, 1))[1].astype(np.int32),
    landmarks68=number[arrays["landmarks68"]],
  )
