"""A person to be portrayed: shape, expression, hair, clothes and what is painted on the skin, drawn at random.

All in the axes and cm of `data_gen.heads.morphable_head`.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_gen.heads import attachments, materials
from data_gen.heads import morphable_head as parts
from data_gen.heads.buffers import OPAQUE
from data_gen.heads.hair import HAIR_FILE, HairMesh, load_hair
from data_gen.heads.landmarks import SurfacePoints, load_correspondence
from data_gen.heads.morphable_head import HEAD_FILE, MorphableHead, draw_expression, draw_identity, load_morphable_head
from data_gen.heads.noise import lattice, smooth_noise
from data_gen.heads.pigments import melanin_of_luminance
from data_gen.heads.rendering import shown_triangles
from data_gen.rasterize import vertex_normals
from dpr_jax.base.arrays import ramp
from dpr_jax.image.color import linearise
from dpr_jax.portrait.faces import OVAL

# Hair styles of which training and tests each have their own, and how often each is worn.
STYLES = {
  "training": {"short01": 3, "short04": 3, "short03": 1, "long01": 2, "braid01": 1, "bob02": 1, "afro01": 1},
  "held out": {"short02": 3, "ponytail01": 2, "bob01": 1},
}
# Numbers of materials; those below 10 are regions of the head.
GLASSES, HAIR = 10, 11
# Channels at the head's vertices. Of melanin and blood they are logarithms of what differs from the whole face's; bend
# is smooth noise.
CHANNELS = (
  *("x", "y", "z", "brows", "lips", "cheeks", "beard", "moustache", "lids", "oval", "ear", "hairline"),
  *("mouth", "collar", "melanin", "blood", "bend"),
)


class PeopleModel(NamedTuple):
  """All that people are drawn from.

  Attributes:
    head: the morphable head.
    landmarks: where MediaPipe's 478 landmarks lie on it.
    channels: `[V, C]` float32, see `CHANNELS`, of the neutral head.
    eye_centres: `[2, 3]`, of the left and the right eyeball of the neutral head.
    hair: hair styles by name.
  """

  head: MorphableHead
  landmarks: SurfacePoints
  channels: np.ndarray
  eye_centres: np.ndarray
  hair: dict[str, HairMesh]


class Look(NamedTuple):
  """The colours of one person; strengths are in [0, 1], colours linear RGB `[3]`.

  Attributes:
    melanin: share of the epidermis.
    blood: share of the dermis.
    mottling: how uneven the skin is.
    flush: how much redder cheeks, nose and ears are.
    freckles: how dark the freckles are; 0 is none.
    moles: `[N, 4]`, places in cm and radii.
    hair: colour.
    gray: share of white hairs.
    brows: how dense.
    lashes: how dark the rims of the lids are.
    beard: how dense a beard is.
    moustache: how dense.
    stubble: a shaved beard's shadow.
    lipstick: colour, or None.
    iris: colour.
    cloth: `[2, 3]`, the colours of the collar.
    under_eye: how dark the skin below the eyes is.
  """

  melanin: float
  blood: float
  mottling: float
  flush: float
  freckles: float
  moles: np.ndarray
  hair: np.ndarray
  gray: float
  brows: float
  lashes: float
  beard: float
  moustache: float
  stubble: float
  lipstick: np.ndarray | None
  iris: np.ndarray
  cloth: np.ndarray
  under_eye: float


class Part(NamedTuple):
  """A mesh of a person.

  Attributes:
    vertices: `[N, 3]` in cm.
    normals: `[N, 3]` unit.
    triangles: `[M, 3]`.
    material: `[M]` int8.
    one_sided: whether only triangles are seen that go round counterclockwise.
    strands: `[N, 3]`, as for `buffers.rasterize_fragments`.
    albedo: `[N, 3]` linear, where it isn't painted by pixels; else zero.
  """

  vertices: np.ndarray
  normals: np.ndarray
  triangles: np.ndarray
  material: np.ndarray
  one_sided: bool
  strands: np.ndarray
  albedo: np.ndarray


class Person(NamedTuple):
  """A person, looking straight ahead.

  Attributes:
    parts: the meshes, the head first.
    channels: `[V, C]`, the head's channels with this person's hairline, beard and so on.
    landmarks: `[478, 3]` in cm.
    look: colours.
    noise: the lattice of this person's skin.
    wears_hair: whether hair covers the scalp, as a style or cropped.
  """

  parts: list[Part]
  channels: np.ndarray
  landmarks: np.ndarray
  look: Look
  noise: np.ndarray
  wears_hair: bool


def load_people_model(folder: str | Path, styles: str = "training") -> PeopleModel:
  """Reads `ict_facekit.npz` and `makehuman_hair/hair_on_ict.npz` of a folder.

  Args:
    folder: of the head and the hair.
    styles: a key of `STYLES`.

  Raises:
    BadInput: a file is missing or damaged.
  """
  folder = Path(folder)
  head = load_morphable_head(folder / HEAD_FILE)
  landmarks = load_correspondence(head)
  eyes = [
    parts.sphere_centre(head.neutral[head.vertex_region == eye].astype(np.float64))
    for eye in (parts.LEFT_EYEBALL, parts.RIGHT_EYEBALL)
  ]
  hair = load_hair(folder / HAIR_FILE, head, STYLES[styles])
  return PeopleModel(head, landmarks, _channels(head, landmarks), np.stack(eyes), hair)


def draw_person(rng: np.random.Generator, model: PeopleModel, styles: str = "training") -> Person:
  """A random person, from `rng` alone; `styles` as for `load_people_model`."""
  head = model.head
  identity, expression = draw_identity(rng, head, spread=0.85), draw_expression(rng, head)
  expression = _without_oddities(head, expression)
  gaze = rng.normal(0, (9, 4)) if rng.random() < 0.5 else np.zeros(2)
  vertices = head.vertices(identity, expression, (gaze[0], gaze[1])).astype(np.float64)
  landmarks = model.landmarks.positions(vertices)
  noise, look = lattice(rng), draw_look(rng)
  channels = model.channels.copy()
  column = {name: channels[:, number] for number, name in enumerate(CHANNELS)}

  _vary_pigments(look, noise, column)
  kind = rng.choice(["style", "cropped", "bald"], p=[0.5, 0.42, 0.08])
  name = rng.choice(list(STYLES[styles]), p=np.array(list(STYLES[styles].values())) / sum(STYLES[styles].values()))
  normals = vertex_normals(vertices, head.triangles)
  _shift_hairline(rng, column, receding=kind != "style")
  skin = vertices.copy()
  if kind == "cropped":
    skin += (_cropped_length(rng, noise, column) * ramp(column["hairline"], -0.1, 0.9))[:, None] * normals
  elif kind == "style":
    skin -= 0.5 * ramp(column["hairline"], 0.2, 1.6)[:, None] * normals
  else:
    column["hairline"][:] = -9
  grown = look.beard * column["beard"] + 0.7 * look.moustache * column["moustache"]
  bushy = rng.uniform(0.05, 0.9) * (1 + 0.5 * smooth_noise(noise, head.neutral, 0.7))
  skin += (np.maximum(grown, 0) * np.maximum(bushy, 0))[:, None] * normals
  _put_on_collar(rng, column, skin, normals)

  triangles = head.triangles[shown_triangles(head, expression)]
  region = head.region[shown_triangles(head, expression)]
  found = [
    Part(skin, vertex_normals(skin, triangles), triangles, region, True, _opaque(len(skin)), np.zeros((len(skin), 3)))
  ]
  if kind == "style":
    found.append(_hair_part(model.hair[name], model, vertices, normals))
  if rng.random() < 0.2:
    eyes = landmarks[[362, 263]].mean(axis=0), landmarks[[33, 133]].mean(axis=0)
    found += [_part(mesh, GLASSES) for mesh in attachments.glasses(rng, *eyes, landmarks[168]) if not _is_lens(mesh)]
  return Person(found, channels, landmarks, look, noise, kind != "bald")


def draw_look(rng: np.random.Generator) -> Look:
  """A random person's colours: skin of every lightness that people have, evenly drawn."""
  lightness = rng.uniform(29, 76)  # L of Lab
  melanin = melanin_of_luminance(((lightness + 16) / 116) ** 3)
  dark = lightness < 50
  tones = materials.HAIR_TONES[: 3 if dark and rng.random() < 0.85 else len(materials.HAIR_TONES)]
  hair = linearise(np.clip(tones[rng.integers(len(tones))] * rng.uniform(0.75, 1.2), 0, 255) / 255)
  irises = materials.IRIS_TONES[: 2 if dark else len(materials.IRIS_TONES)]
  iris = irises[rng.integers(len(irises))]
  beard, man = rng.random() < 0.3, rng.random() < 0.5
  cloth = np.exp(rng.uniform(np.log(0.01), np.log(0.8), (2, 1))) * np.exp(rng.normal(0, 0.3, (2, 3)))
  places = np.column_stack([rng.uniform(-6, 6, 12), rng.uniform(-8, 10, 12), np.zeros(12), rng.uniform(0.05, 0.12, 12)])
  return Look(
    melanin=melanin,
    blood=float(np.exp(rng.uniform(np.log(0.008), np.log(0.035)))),
    mottling=rng.uniform(0.3, 1),
    flush=rng.uniform(0.1, 1),
    freckles=rng.uniform(0, 1) ** 4 if not dark else 0.0,
    moles=places[: int(5 * rng.uniform(0, 1) ** 2)],
    hair=hair,
    gray=rng.uniform(0, 0.8) if rng.random() < 0.25 else 0.0,
    brows=rng.uniform(0.35, 1),
    lashes=rng.uniform(0.35, 1),
    beard=rng.uniform(0.4, 1) if beard and man else 0.0,
    moustache=rng.uniform(0.4, 1) if man and (beard or rng.random() < 0.08) else 0.0,
    stubble=rng.uniform(0.1, 0.8) if man else 0.0,
    lipstick=linearise(rng.uniform((95, 18, 25), (165, 75, 80)) / 255) if not man and rng.random() < 0.35 else None,
    iris=linearise((0.7 * iris + 0.3 * iris.mean()) * rng.uniform(0.6, 1.0) / 255),
    cloth=np.clip(cloth, 0.005, 0.85),
    under_eye=rng.uniform(0, 0.6),
  )


def _without_oddities(head: MorphableHead, expression: np.ndarray) -> np.ndarray:
  """Expressions as photos of people have them: sneering, funnelled and sideways mouths are rare and weak."""
  weak = ("noseSneer", "mouthFunnel", "jawLeft", "jawRight", "mouthLeft", "mouthRight", "cheekPuff", "mouthPucker")
  weaker = np.array([0.4 if name.startswith(weak) else 1.0 for name in head.expression_names])
  return expression * weaker


def _channels(head: MorphableHead, landmarks: SurfacePoints) -> np.ndarray:
  where = materials.regions(head)
  points = head.neutral.astype(np.float64)
  x, y, z = points.T
  outer = where.skin > 0

  # The outline of the face on the head unrolled like a cylinder.
  def unrolled(points):
    return np.column_stack([9 * np.arctan2(points[:, 0], points[:, 2] + 2), points[:, 1]])

  outline = unrolled(landmarks.positions(points)[OVAL])
  oval = materials.soft_inside(unrolled(points), outline, 0.25) * outer * (z > 0)
  ear = (np.abs(x) > 7.25) & (y < 6.2) & (y > -3) & (z > -3.2) & (z < 4.6) & outer
  hairline = np.where(outer & ~ear, y - materials.hairline(z), -9)
  eye = points[head.landmarks68]
  under = np.zeros(len(points))
  for lower in (eye[[39, 40, 41, 36]], eye[[42, 47, 46, 45]]):
    centre = lower.mean(axis=0) - (0, 0.9, 0)
    under = np.maximum(under, np.exp(-((points - centre) ** 2 / (1.4, 0.6, 2.0)).sum(axis=1)))
  return np.column_stack(
    [
      *(points, where.brows, where.lips, where.cheeks, where.beard, where.moustache, where.lids, oval, ear, hairline),
      *(where.depth_in_mouth, np.zeros(len(points)), under * outer, np.zeros(len(points)), np.zeros(len(points))),
    ]
  ).astype(np.float32)


def _vary_pigments(look: Look, noise: np.ndarray, column: dict[str, np.ndarray]) -> None:
  """Fills the channels of melanin, blood and bend, in place; that of melanin shows the skin below the eyes before."""
  points = np.column_stack([column[axis] for axis in "xyz"])
  under = column["melanin"].copy()
  column["melanin"][:] = look.mottling * (
    0.1 * smooth_noise(noise, points, 3.2) + 0.08 * smooth_noise(noise, points, 0.9)
  )
  column["melanin"] += 0.35 * look.under_eye * under + 0.25 * column["lips"]
  blood = 0.25 * smooth_noise(noise, points + 5, 2.1) + 0.16 * smooth_noise(noise, points + 71, 0.6)
  column["blood"][:] = look.mottling * blood + look.flush * column["cheeks"]
  column["blood"] += 0.3 * look.under_eye * under + 0.15 * column["ear"]
  column["bend"][:] = smooth_noise(noise, points, 1.1)


def _shift_hairline(rng: np.random.Generator, column: dict[str, np.ndarray], *, receding: bool) -> None:
  """Moves the hairline in place: up or down, and back at the temples or on top."""
  x, z = column["x"], column["z"]
  front = ramp(z, 2.0, 6.0)
  hairline = column["hairline"]
  hairline -= rng.normal(0, 0.35) * front
  if receding:
    hairline -= rng.uniform(0, 1) ** 2 * 4 * front * np.exp(-(((np.abs(x) - 4.2) / 1.7) ** 2))
    if rng.random() < 0.2:
      hairline -= rng.uniform(0.5, 5) * ramp(column["y"], 7, 11) * np.exp(-((x / 5.5) ** 2))


def _cropped_length(rng: np.random.Generator, noise: np.ndarray, column: dict[str, np.ndarray]) -> np.ndarray:
  """`[V]` in cm: short at the sides and longer on top, in locks."""
  points = np.column_stack([column[axis] for axis in "xyz"])
  sides, top = np.sort(rng.uniform(0.05, 0.9, 2)) * (1, rng.uniform(1, 1.8))
  length = sides + (top - sides) * ramp(column["y"], 7.5, 12.5)
  locks = smooth_noise(noise, points, (1.1, 2.6, 1.6)) + 0.6 * smooth_noise(noise, points + 50, 0.55)
  return length * np.clip(1 + 0.35 * locks, 0.3, 2)


def _put_on_collar(
  rng: np.random.Generator, column: dict[str, np.ndarray], skin: np.ndarray, normals: np.ndarray
) -> None:
  """Covers what lies below a slanted plane with cloth, a little outside the skin, in place."""
  height = -rng.uniform(10.0, 14.5) if rng.random() < 0.9 else -9.2
  below = height - 0.3 * (column["z"] - 3) - column["y"]
  below[column["hairline"] <= -9] = np.where(column["y"] < -8.5, below, -9)[column["hairline"] <= -9]
  column["collar"][:] = below
  skin += (0.45 * ramp(below, -0.15, 0.25))[:, None] * normals


def _hair_part(hair: HairMesh, model: PeopleModel, vertices: np.ndarray, normals: np.ndarray) -> Part:
  moved = hair.vertices + vertices[hair.bind] - model.head.neutral[hair.bind]
  # No hair lies inside the head.
  outwards = normals[hair.bind]
  height = ((moved - vertices[hair.bind]) * outwards).sum(axis=1)
  moved = moved + (np.maximum(0.25 - height, 0) * (height > -2.5))[:, None] * outwards
  sheets = vertex_normals(moved, hair.triangles)
  # A head of hair is a volume: its sheets are shaded as if they lay on it.
  volume = moved - (0, 3.0, -0.5)
  volume /= np.linalg.norm(volume, axis=1, keepdims=True)
  sheets = np.where((sheets * volume).sum(axis=1, keepdims=True) < 0, -sheets, sheets) + 0.6 * volume
  sheets /= np.linalg.norm(sheets, axis=1, keepdims=True)
  corner = hair.corner
  material = np.full(len(hair.corner_triangles), HAIR, np.int8)
  return Part(
    moved[corner], sheets[corner], hair.corner_triangles, material, False, hair.strands, np.zeros((len(corner), 3))
  )


def _part(mesh: attachments.Mesh, material: int) -> Part:
  count = len(mesh.vertices)
  normals = vertex_normals(np.asarray(mesh.vertices, np.float64), mesh.triangles)
  numbers = np.full(len(mesh.triangles), material, np.int8)
  return Part(mesh.vertices, normals, mesh.triangles, numbers, False, _opaque(count), mesh.albedo)


def _is_lens(mesh: attachments.Mesh) -> bool:
  return len(mesh.vertices) == len(mesh.triangles) + 1


def _opaque(count: int) -> np.ndarray:
  return np.tile(np.float32([0, 0, OPAQUE]), (count, 1))
