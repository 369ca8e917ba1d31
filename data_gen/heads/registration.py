"""Finds MediaPipe's landmarks on the morphable head and writes them to `landmarks.csv`.

Heads of many identities are rendered and shown to MediaPipe. Each of its landmarks marks a point of the surface, which
is the same for all heads once it is said in triangles; the median over the heads, made symmetrical, is kept.

python -m data_gen.heads.registration HEADS_FOLDER
"""

import sys

import igl
import numpy as np

from data_gen.face_mesh import face_mesh, head_pose
from data_gen.heads import attachments, lighting, materials
from data_gen.heads import morphable_head as parts
from data_gen.heads.landmarks import CORRESPONDENCE, COUNT
from data_gen.heads.morphable_head import MorphableHead, draw_identity, load_morphable_head
from data_gen.heads.pose import FRONTAL, MIDDLE, Camera, rotation
from data_gen.heads.rendering import picture_of
from data_gen.rasterize import rasterize
from dpr_jax.base.errors import BadInput
from dpr_jax.portrait.canonical_face import mirrored_landmarks
from dpr_jax.portrait.mediapipe_faces import MediaPipeFaceFinder

_SIZE = 640
_SCALE = 17.0  # pixels per cm
_IDENTITIES = 48
_YAWS = (0, -20, 20, 0, -40, 40)
_LEAST_FACING = 0.5  # cosine between normal and view, below which a ray's hit says little
_LEAST_GAP = 1.2  # cm of depth between a landmark and what its ray hits, from which on that hides it
_LEAST_HITS = 10  # of a landmark; with fewer the surface nearest to it in space is taken
# The lips' inner rims, and lids: which surface they lie on shows only where mouth and eyes are open.
_JAW_OPEN = 0.45
_IRISES = slice(468, COUNT)


def main(folder: str) -> None:
  """Writes the table for the head of a folder."""
  model = load_morphable_head(f"{folder}/ict_facekit.npz")
  where = materials.regions(model)
  rng = np.random.default_rng(0)
  reference = model.vertices(np.zeros(0), model.named_expression(jawOpen=_JAW_OPEN)).astype(np.float64)
  rays, nearest, fits = [], [], []
  with MediaPipeFaceFinder() as finder:
    for number in range(_IDENTITIES):
      found = _hits(rng, model, where, reference, finder, _YAWS[number % len(_YAWS)])
      if found is not None:
        for values, value in zip((rays, nearest, fits), found, strict=True):
          values.append(value)
  print(f"{len(fits)} of {_IDENTITIES} heads were found")
  fits = np.array(fits)
  middle = np.linalg.lstsq(fits[:, 2:5], fits[:, 5], rcond=None)[0] + MIDDLE
  print(f"MediaPipe's depth is {np.median(fits[:, 0]):.3f} times the true one, from {np.round(middle, 2)} in cm")
  print(f"its canonical face looks down by {np.median(fits[:, 1]):.2f} degrees more than the head as it is turned")
  mirror = mirrored_landmarks()
  places, spread = np.zeros((COUNT, 3)), np.zeros(COUNT)
  rays, nearest = np.stack(rays), np.stack(nearest)
  for landmark, other in enumerate(mirror):
    both = np.concatenate([rays[:, landmark], rays[:, other] * (-1, 1, 1)])
    both = both[np.isfinite(both).all(axis=1)]
    if len(both) < _LEAST_HITS:
      both = np.concatenate([nearest[:, landmark], nearest[:, other] * (-1, 1, 1)])
    distance = np.linalg.norm(both[:, None] - both, axis=-1)
    places[landmark], spread[landmark] = both[distance.sum(axis=1).argmin()], np.median(distance)
    close = np.linalg.norm(both - places[landmark], axis=1) < max(np.median(distance), 0.05)
    places[landmark] = both[close].mean(axis=0)
  places = (places + places[mirror] * (-1, 1, 1)) / 2
  print(f"median deviation {np.median(spread):.3f} cm, 90 % {np.percentile(spread, 90):.3f}, most {spread.max():.3f}")
  _write(model, reference, places)


def _hits(
  rng: np.random.Generator,
  model: MorphableHead,
  where: materials.Regions,
  reference: np.ndarray,
  finder: MediaPipeFaceFinder,
  yaw: float,
) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]] | None:
  """What MediaPipe's landmarks mark on a random head; None where it sees no head, or several.

  Returns:
    hits: `[478, 3]` places on the reference head that lie behind the landmarks in the picture; NaN where unsure.
    nearest: `[478, 3]` places whose counterparts on the random head lie nearest in space.
    fit: MediaPipe's depth per true depth, its pitch minus the true one in degrees, the view's direction `[3]` in the
      head's axes, and how far along it depth starts, in cm.
  """
  look = materials.draw_look(rng)._replace(beard=0.0, moustache=0.0, brow_strength=0.9, lip_redness=0.8)
  identity = draw_identity(rng, model)
  opened = rng.choice([0.0, 0.2, 0.45])
  vertices = model.vertices(identity, model.named_expression(jawOpen=opened)).astype(np.float64)
  albedo = materials.skin_albedo(rng, model, where, look)
  materials.eye_and_mouth_albedo(rng, model, where, look, albedo)
  hair = where.scalp[:, None]
  albedo = albedo * (1 - hair) + look.hair * hair
  pose = rotation(yaw, rng.uniform(-10, 10), 0) @ FRONTAL
  placed = (vertices - MIDDLE) @ pose.T
  camera = Camera(150.0, _SCALE, (_SIZE / 2, _SIZE / 2))
  light = lighting.draw_lighting(rng)._replace(lamp_color=np.zeros(3), brightness=0.3)
  light = light._replace(ambient=np.tile([1, -0.5, 0.4, 0, 0, 0, 0, 0, 0], (3, 1)))
  mesh = attachments.Mesh(vertices, model.triangles, albedo, two_sided=False)
  metered = np.flatnonzero(where.front > 0.5)
  rgba = picture_of(light, camera, [mesh], [placed], metered, _SIZE)
  share = rgba[..., 3:] / 255
  faces = finder.find(np.round(rgba[..., :3] * share + 170 * (1 - share)).astype(np.uint8))
  if len(faces) != 1:
    return None
  seen = camera.project(placed) - (0.5, 0.5, 0)
  normals = igl.per_vertex_normals(placed, model.triangles)
  outer = model.vertex_region[:, None]
  attributes = np.column_stack([reference, normals[:, 2], outer == parts.FACE, outer >= parts.LEFT_EYEBALL])
  drawn, depth = rasterize(seen, model.triangles, attributes, _SIZE, _SIZE)
  hits = np.full((COUNT, 3), np.nan)
  depths = np.full(COUNT, np.nan)
  for kind, numbers in ((4, range(468)), (5, range(468, COUNT))):
    rows, columns = np.nonzero(np.isfinite(depth) & (drawn[..., kind] > 0.99))
    for number in numbers:
      x, y = faces[0].landmarks[number] - 0.5
      pixel = np.argmin((columns - x) ** 2 + (rows - y) ** 2)
      at = rows[pixel], columns[pixel]
      if np.hypot(at[1] - x, at[0] - y) < 0.3 * _SCALE and drawn[at][3] > _LEAST_FACING:
        hits[number], depths[number] = drawn[at][:3], depth[at]
  mesh = face_mesh(faces[0])
  good = np.isfinite(depths[:468])
  slope = np.polyfit(depths[:468][good], mesh[good, 2], 1)[0]
  shift = np.median(mesh[good, 2] - depths[:468][good])
  guess = np.column_stack([mesh[:, :2] * (1, -1) - 0.5, mesh[:, 2] - shift])
  # On the side turned away, rays hit what lies before the landmark.
  before = ~(np.abs(guess[:, 2] - depths[:468]) < _LEAST_GAP * _SCALE)
  hits[:468][before] = np.nan
  skin = model.triangles[model.region == parts.FACE]
  _, face, _ = igl.point_mesh_squared_distance(guess, seen, skin)[:3]
  nearest = np.concatenate([_carry(guess, seen, reference, skin[face]), hits[468:]])
  pitch = head_pose(faces[0]).pitch - _pitch(pose)
  return hits, nearest, (slope, pitch, *pose[2], -shift / _SCALE)


def _pitch(pose: np.ndarray) -> float:
  return float(np.degrees(np.arctan2(-pose[2, 1], pose[2, 2])))


def _carry(points: np.ndarray, source: np.ndarray, target: np.ndarray, triangles: np.ndarray) -> np.ndarray:
  """Takes points `[N, 3]` from the triangles `[N, 3]` of one mesh to those of another."""
  corners = [np.ascontiguousarray(source[triangles[:, k]]) for k in range(3)]
  weights = np.clip(igl.barycentric_coordinates(np.ascontiguousarray(points), *corners), 0, 1)
  weights /= weights.sum(axis=1, keepdims=True)
  return np.einsum("nk,nkc->nc", weights, target[triangles])


def _write(model: MorphableHead, reference: np.ndarray, places: np.ndarray) -> None:
  corners, weights = np.zeros((COUNT, 3), int), np.zeros((COUNT, 3))
  eyeballs = (model.region == parts.LEFT_EYEBALL) | (model.region == parts.RIGHT_EYEBALL)
  for numbers, kind in ((np.arange(468), model.region == parts.FACE), (np.arange(468, COUNT), eyeballs)):
    triangles = model.triangles[kind]
    _, face, nearest = igl.point_mesh_squared_distance(places[numbers], reference, triangles)[:3]
    corners[numbers] = triangles[face]
    a, b, c = (np.ascontiguousarray(reference[triangles[face][:, k]]) for k in range(3))
    weights[numbers] = igl.barycentric_coordinates(np.ascontiguousarray(nearest), a, b, c)
  weights = np.clip(weights, 0, 1)
  weights /= weights.sum(axis=1, keepdims=True)
  table = np.column_stack([model.file_vertex[corners], weights])
  header = "MediaPipe's landmarks 0 to 477 on ICT-FaceKit's head: three vertex numbers, three barycentric weights"
  np.savetxt(CORRESPONDENCE, table, delimiter=",", fmt=["%d"] * 3 + ["%.4f"] * 3, header=header)


if __name__ == "__main__":
  try:
    main(*sys.argv[1:])
  except BadInput as error:
    sys.exit(str(error))
