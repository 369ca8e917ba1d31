"""Where portraits come from: the photos of a folder, or procedural faces without end.

A source is a list of ids and a function from id to framed portraits; what an id gives never depends on the others.
"""

import functools
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from data_gen import srgb
from data_gen.face_maps import FaceMaps, Label
from data_gen.face_mesh import head_pose
from data_gen.normals import fill_to_frame
from data_gen.procedural_faces import Scene, draw_face, geometry
from data_gen.target_lights import BuiltInLights
from dpr_jax.base.errors import BadInput
from dpr_jax.base.native_libraries import import_native
from dpr_jax.image import color
from dpr_jax.image.photo import read_photo, to_8_bits
from dpr_jax.image.photo_formats import KNOWN, PHOTO_SUFFIXES, why_no_photo
from dpr_jax.light import sh
from dpr_jax.light.light import LUMINANCE_WEIGHTS
from dpr_jax.portrait.face_finders import open_face_finder
from dpr_jax.portrait.faces import OVAL, Face, frame_face
from dpr_jax.portrait.square import cut_square

cv2 = import_native("cv2")

# Below this many pixels of the photo, the square around a face has no shading worth learning from.
SMALLEST_SQUARE = 96
# A worker shall do with 1 GiB.
MOST_PIXELS = 64_000_000
# Degrees to the side; beyond, half of the face is not seen.
MOST_YAW = 60
# L of Lab; beyond, the colour of skin leaves sRGB.
_BRIGHTEST_SKIN = 82
# A portrait whose channels differ by less than this (of 255, on average) has no colour.
_LEAST_CHROMA = 0.5


class FramedPortrait(NamedTuple):
  """A square portrait.

  Attributes:
    id: of the face; the photo's own id where only one of its faces is used.
    pixels: `[S, S, 3]` uint8 RGB.
    face: where it is in `pixels`; None where nobody has looked.
    truth: of a rendered face, else None.
  """

  id: str
  pixels: np.ndarray
  face: Face | None = None
  truth: "Truth | None" = None


class Truth(NamedTuple):
  """What is known of a rendered portrait.

  Attributes:
    maps: its exact normals and labels.
    normal: `[S, S, 3]`, what it was rendered with: normals of head, hair and clothes, carried on to the frame.
    light: `[9]`, the light that it was rendered under.
    depth: `[S, S]` float32, pixels towards the viewer of all that is seen, hair, ears and shoulders too; -inf where
      nothing is. None: only the depth of `maps` is known.
  """

  maps: FaceMaps
  normal: np.ndarray
  light: np.ndarray
  depth: np.ndarray | None = None


class Rejection(NamedTuple):
  """A photo or a face that cannot be used.

  Attributes:
    id: of the photo or face.
    reason: one line.
  """

  id: str
  reason: str


class Source(Protocol):
  """See the module's text.

  Attributes:
    ids: in order.
    rejected: what is known to be no portrait before anything is opened.
    made_from: sha256 of files that no setting names and that portraits are made from, by what they are called.
  """

  ids: Sequence[str]
  rejected: Sequence[Rejection]
  made_from: Mapping[str, str]

  def open(self) -> None:
    """Makes ready what `load` needs; raises BadInput if that is not at hand."""

  def close(self) -> None:
    """Frees it."""

  def load(self, id: str) -> Iterator[FramedPortrait | Rejection]:
    """The portraits of one id; raises BadInput where the whole of it cannot be used."""


class PhotoFolder:
  """The photos below a folder, each face cut out upright in CelebA-HQ's framing, or the photos as they are.

  An id is the photo's path below the folder, suffix and all: it stays the same whatever else lies there. Faces of one
  photo add `#1`, `#2` and so on, from left to right.
  """

  made_from: Mapping[str, str] = {}

  def __init__(
    self,
    folder: Path,
    size: int,
    *,
    aligned: bool = False,
    all_faces: bool = False,
    keep_gray: bool = False,
    face_finder: str | None = None,
  ):
    """Nothing is opened yet.

    Args:
      folder: searched with its sub-folders; hidden files and folders are left out, links to folders are not followed.
      size: side of the square portraits.
      aligned: take the photos as they are, resized: they must be square, as CelebA-HQ's are.
      all_faces: every face of a photo, not only the largest.
      keep_gray: take photos without colours too; the networks see only luminance.
      face_finder: as for `dpr_jax.portrait.face_finders.open_face_finder`.

    Raises:
      BadInput: there is no such folder, or it cannot be read.
    """
    try:
      os.listdir(folder)
    except OSError as error:
      raise BadInput(f"{folder}: not a readable folder ({error.strerror})") from error
    self._folder, self._size = Path(folder), size
    self._aligned, self._all_faces, self._keep_gray = aligned, all_faces, keep_gray
    self._face_finder = face_finder

  @property
  def ids(self) -> Sequence[str]:
    """The photos, sorted; raises BadInput if there is none."""
    return self._listing[0]

  @property
  def rejected(self) -> Sequence[Rejection]:
    """What looks like a photo or a folder of photos but cannot be one."""
    return self._listing[1]

  @functools.cached_property
  def _listing(self) -> tuple[list[str], list[Rejection]]:
    ids, rejected = [], []

    def reject(path: str, reason: str) -> None:
      name = os.path.relpath(path, self._folder)
      rejected.append(Rejection(name.encode(errors="backslashreplace").decode(), reason))

    walk = os.walk(self._folder, onerror=lambda error: reject(error.filename, f"unreadable folder: {error.strerror}"))
    for parent, folders, files in walk:
      folders[:] = [name for name in folders if not name.startswith(".")]
      for name in folders:
        if os.path.islink(os.path.join(parent, name)):
          reject(os.path.join(parent, name), "link to a folder: not followed")
      for name in files:
        path = os.path.join(parent, name)
        if name.startswith("."):
          continue
        id = Path(path).relative_to(self._folder).as_posix()
        reason = why_no_photo(path)
        called_photo = os.path.splitext(name)[1].lower() in PHOTO_SUFFIXES
        if not os.path.isfile(path):
          reject(path, "not a file, or a link to nowhere")
        elif reason is not None and not called_photo:
          reject(path, reason)
        elif id.encode(errors="replace").decode() != id:
          reject(path, "file name: not UTF-8")
        else:
          ids.append(id)
    if not ids:
      raise BadInput(f"{self._folder}: holds no photo (known are {KNOWN})")
    return sorted(ids), sorted(rejected)

  def open(self) -> None:
    """Opens the face finder."""
    self._finder = open_face_finder(self._face_finder)

  def close(self) -> None:
    """Closes it."""
    self._finder.close()

  def load(self, id: str) -> Iterator[FramedPortrait | Rejection]:
    """The framed faces of one photo.

    Args:
      id: one of `ids`.

    Raises:
      BadInput: not a readable picture, gray, without a face, or (aligned) not square.
    """
    path = self._folder / id
    try:
      pixels = to_8_bits(read_photo(path, max_pixels=MOST_PIXELS).pixels)
    except BadInput as error:
      raise BadInput(f"not a usable picture: {str(error).removeprefix(f'{path}: ')}") from error
    if not self._keep_gray and _is_gray(pixels):
      raise BadInput("gray photo: has no colours (--keep_gray takes it)")
    if self._aligned and pixels.shape[0] != pixels.shape[1]:
      raise BadInput(f"{pixels.shape[1]} x {pixels.shape[0]} pixels: --aligned takes square portraits")
    faces = self._finder.find(pixels)
    if not faces:
      raise BadInput("no face found")
    if not self._all_faces:
      faces = [max(faces, key=_area)]
    for number, face in enumerate(faces, start=1):
      face_id = id if len(faces) == 1 else f"{id}#{number}"
      try:
        yield self._frame(face_id, pixels, face)
      except BadInput as error:
        yield Rejection(face_id, str(error))

  def _frame(self, id: str, pixels: np.ndarray, face: Face) -> FramedPortrait:
    check_usable(pixels, face)
    if self._aligned:
      return FramedPortrait(id, resize(pixels, self._size), scale_face(face, self._size / len(pixels)))
    framing = frame_face(face, self._size)
    linear, shift = framing.matrix[:, :2], framing.matrix[:, 2]
    scale = np.sqrt(np.linalg.det(linear))
    landmarks = face.landmarks @ linear.T + shift
    return FramedPortrait(id, cut_square(pixels, framing), Face(landmarks, face.depth * scale))


class ProceduralFaces:
  """Faces out of a seed, each under a light of the built-in prior, without shadows or gloss.

  They are rendered as the kind of ratio that will relight them has it (`dpr_jax.image.ratio.KINDS`), so that the ratio
  image of the exact normals and light is the truth itself. For `linear`, linear RGB is albedo times shading, as a
  camera sees a dull surface. For `published`, L of Lab is the albedo's L times the shading, and the chroma is the
  albedo's.

  Attributes:
    ids: `face-00000000` and so on.
    rejected: none.
    made_from: nothing.
  """

  rejected = ()
  made_from: Mapping[str, str] = {}

  def __init__(
    self,
    count: int,
    size: int,
    seed: int,
    *,
    find: bool,
    face_finder: str | None = None,
    ratio: str = "linear",
  ):
    """Nothing is drawn yet.

    Args:
      count: how many.
      size: side of the portraits.
      seed: the same seed gives the same faces.
      find: whether to look for the face in the finished picture, as in a photo.
      face_finder: who looks, as for `dpr_jax.portrait.face_finders.open_face_finder`.
      ratio: one of `dpr_jax.image.ratio.KINDS`.
    """
    self._size, self._seed, self._find, self._face_finder = size, seed, find, face_finder
    self._render = _RENDER[ratio]
    self.ids = tuple(f"face-{number:08d}" for number in range(count))

  def open(self) -> None:
    """Opens the face finder, if it is to be used."""
    self._finder = open_face_finder(self._face_finder) if self._find else None

  def close(self) -> None:
    """Closes it."""
    if self._finder:
      self._finder.close()

  def load(self, id: str) -> Iterator[FramedPortrait]:
    """One face.

    Args:
      id: one of `ids`.

    Raises:
      BadInput: a face was to be found, and was not.
    """
    scene = geometry(draw_face(generator(self._seed, "face", id)), self._size)
    (light,) = BuiltInLights(color=False).draw(generator(self._seed, "light", id), 1)
    normal = fill_to_frame(scene.normal, scene.foreground & (scene.normal[..., 1] < 0))
    pixels, exposure = self._render(scene, sh.shading(normal, light.sh))
    maps = FaceMaps(scene.normal, scene.label, scene.landmarks, scene.landmarks, scene.depth)
    truth = Truth(maps, normal, light.sh * exposure)
    found = self._finder.find(pixels) if self._finder else [None]
    if not found:
      raise BadInput("no face found")
    yield FramedPortrait(id, pixels, found[0], truth)


def generator(seed: int, purpose: str, id: str) -> np.random.Generator:
  """The random numbers of one portrait for one purpose, whatever else is drawn."""
  digest = hashlib.blake2b(f"{seed}/{purpose}/{id}".encode(), digest_size=16).digest()
  return np.random.default_rng(int.from_bytes(digest, "little"))


def _render_linear(scene: Scene, shading: np.ndarray) -> tuple[np.ndarray, np.float32]:
  """The scene, backdrop and all, with its linear RGB times a shading `[S, S]`, encoded as sRGB.

  Returns:
    `[S, S, 3]` uint8, and the factor by which the light was dimmed so that the face is not overexposed: what leaves
    sRGB's range cannot be relit.
  """
  linear = _colours(scene) * np.maximum(shading, 0)[..., None]
  exposure = _exposure(
    scene, linear @ LUMINANCE_WEIGHTS, color.luminance_of_lightness(np.float32(_BRIGHTEST_SKIN / 100))
  )
  return srgb.from_linear(linear * exposure), exposure


def _render_published(scene: Scene, shading: np.ndarray) -> tuple[np.ndarray, np.float32]:
  """As `_render_linear`, with L of Lab times the shading."""
  lab = color.linear_to_lab(_colours(scene))
  lit = lab[..., 0] * shading
  exposure = _exposure(scene, lit, _BRIGHTEST_SKIN)
  lab[..., 0] = np.clip(lit * exposure, 0, 100)
  return np.rint(255 * color.lab_to_srgb(lab)).astype(np.uint8), exposure


_RENDER = {"linear": _render_linear, "published": _render_published}


def _colours(scene: Scene) -> np.ndarray:
  """Linear RGB under even light of shading 1, `[S, S, 3]`."""
  return np.where(scene.foreground[..., None], scene.albedo, scene.backdrop)


def _exposure(scene: Scene, brightness: np.ndarray, most: float) -> np.float32:
  """The factor, 1 at most, that brings the brightest hundredth of head and neck down to `most`."""
  brightest = np.percentile(brightness[scene.label != Label.BACKGROUND], 99)
  return np.float32(min(1, most / max(brightest, most / 100)))


def check_usable(pixels: np.ndarray, face: Face) -> None:
  """Raises BadInput for a face that is cut by the photo's border, tiny, or seen too far from the side."""
  side = 1 / np.sqrt(np.linalg.det(frame_face(face, 1).matrix[:, :2]))
  if side < SMALLEST_SQUARE:
    raise BadInput(f"tiny face: its square has {side:.0f} pixels a side, at least {SMALLEST_SQUARE} are needed")
  outline, extent = face.landmarks[OVAL], np.array(pixels.shape[1::-1])
  if (outline < 0).any() or (outline > extent).any():
    raise BadInput("face cut by the photo's border")
  if abs(yaw := head_pose(face).yaw) > MOST_YAW:
    raise BadInput(f"profile: the head is turned by {abs(yaw):.0f} degrees, more than {MOST_YAW}")


def scale_face(face: Face, factor: float) -> Face:
  """The face in a photo enlarged by `factor`."""
  return Face(face.landmarks * factor, None if face.depth is None else face.depth * factor)


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
  """A square picture at another size: averaged where it shrinks, bicubic where it grows."""
  smaller = size < len(pixels)
  return cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def _is_gray(pixels: np.ndarray) -> bool:
  channels = pixels[:: max(1, len(pixels) // 256)].astype(np.int16)
  return float(np.ptp(channels, axis=-1).mean()) < _LEAST_CHROMA


def _area(face: Face) -> float:
  return float(np.prod(face.box[2:] - face.box[:2]))
