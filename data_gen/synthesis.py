"""One portrait in, one record or a named rejection out (Zhou et al. 2019, section 3.1).

Portraits are relit by ratio images in linear light, or as published (`dpr_jax.image.ratio.KINDS`). In linear light a
portrait is exposed as a photographer would: whatever the light, the lit side of the face keeps the photo's own key
(`dpr_jax.light.exposure`). Its light is then scaled alike: what a record calls the light of a picture is what lit it.

What becomes of a portrait depends on its pixels, its id and the settings, never on other portraits or on who asks.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_gen import light_estimation, normals, relief, srgb
from data_gen.face_maps import FaceMaps, Label
from data_gen.portraits import FramedPortrait, PhotoFolder, ProceduralFaces, Rejection, Source, generator
from data_gen.target_lights import LightSource, TargetLight, open_light_source
from dpr_jax.base.assets import asset_path
from dpr_jax.base.errors import BadInput
from dpr_jax.base.native_libraries import import_native
from dpr_jax.image import color, ratio
from dpr_jax.light import exposure, sh
from dpr_jax.light.light import LUMINANCE_WEIGHTS
from dpr_jax.portrait.face_finders import FACE_FINDERS, choose_face_finder
from dpr_jax.records import Record, encode_record

cv2 = import_native("cv2")

SYNTHETIC, HEADS = "synthetic", "heads"
# Sources that render faces, and know all about them.
RENDERED = (SYNTHETIC, HEADS)
NORMALS = ("face_mesh", "tddfa", "synthetic")
ESTIMATORS = (*light_estimation.ESTIMATORS, "truth")
DENOISERS = ("none", "fast", "nlm")

# How far from its edge skin is mixed with what is beside it, in pixels at 1024; as the published pipeline has it.
_SKIN_EDGE = 5
# How far the colour of a light may push a channel against the others: a shading near 0 says nothing about its colour.
_LARGEST_TINT = 4.0
# How many pixels of a face its key is taken from, and the most by which a light is made brighter for it: three stops.
# A light that leaves all of the face darker than that comes from behind it, and the face stays dark.
_KEY_PIXELS = 20_000
_LARGEST_EXPOSURE = 8.0


@dataclasses.dataclass(frozen=True)
class Settings:
  """How records are made; every field shows in their bytes. See the flags of `export_dataset.py`.

  Attributes:
    source: a folder of photos, or one of `RENDERED`.
    count: how many rendered faces.
    size: side of the square portraits, in pixels.
    aligned: photos are square portraits already; don't frame them.
    all_faces: every face of a photo, not only the largest.
    keep_gray: take photos without colours too.
    face_finder: one of `dpr_jax.portrait.face_finders.FACE_FINDERS`; None: chosen when an export begins (see
      `with_face_finder`), or no face is looked for.
    normals: one of `NORMALS`.
    arap: whether to warp the rendered maps onto the detected landmarks.
    ratio: one of `dpr_jax.image.ratio.KINDS`: what the ratio of two shadings multiplies.
    light_estimator: one of `ESTIMATORS`; `truth` knows the light of rendered faces.
    weights: the network of the `network` estimator, as for `load_params`.
    light_prior: a folder of lights, or None: the built-in prior.
    light_names: a file of names that selects lights of that folder, or None: all.
    light_convention: of that folder's text files, `bip` or `dpr`.
    color: whether target lights have colours.
    lights_per_image: how many target lights each face gets.
    denoise: one of `DENOISERS`.
    image_format: `png` or `jpeg`.
    quality: the JPEG quality, 1 to 100, where `image_format` is `jpeg`.
    normal_bits: the bits of each component of the stored normals, 8 or 16.
    shard_megabytes: about how large a file of the dataset is.
    seed: of every random draw, with the portrait's id.
  """

  source: str = SYNTHETIC
  count: int = 1000
  size: int = 1024
  aligned: bool = False
  all_faces: bool = False
  keep_gray: bool = False
  face_finder: str | None = None
  normals: str = "synthetic"
  arap: bool = False
  ratio: str = "linear"
  light_estimator: str = "truth"
  weights: str = "official-512"
  light_prior: str | None = None
  light_names: str | None = None
  light_convention: str = "bip"
  color: bool = False
  lights_per_image: int = 5
  denoise: str = "fast"
  image_format: str = "png"
  quality: int = 95
  normal_bits: int = 8
  shard_megabytes: float = 128
  seed: int = 0

  def __post_init__(self):
    for flag, value, known in (
      ("face_finder", self.face_finder or FACE_FINDERS[0], FACE_FINDERS),
      ("normals", self.normals, NORMALS),
      ("ratio", self.ratio, ratio.KINDS),
      ("light_estimator", self.light_estimator, ESTIMATORS),
      ("denoise", self.denoise, DENOISERS),
      ("image_format", self.image_format, ("png", "jpeg")),
      ("normal_bits", self.normal_bits, (8, 16)),
      ("light_convention", self.light_convention, ("bip", "dpr")),
    ):
      if value not in known:
        raise BadInput(f"--{flag} {value}: must be one of {', '.join(map(str, known))}")
    for flag, value, least, most in (
      ("size", self.size, 64, 2048),
      ("count", self.count, 1, 10**9),
      ("lights_per_image", self.lights_per_image, 1, 100),
      ("quality", self.quality, 1, 100),
      ("shard_megabytes", self.shard_megabytes, 0.1, 10_000),
    ):
      if not least <= value <= most:
        raise BadInput(f"--{flag} {value}: must lie in {least} to {most}")
    if not self.source:
      raise BadInput("--source is empty: give a folder of photos, synthetic or heads")
    if self.aligned and self.all_faces:
      raise BadInput("--all_faces: not with --aligned, whose photos show one face each")
    if self.source == HEADS:
      if self.normals != "synthetic":
        raise BadInput(f"--normals {self.normals}: those of heads are exact; leave it out")
      if self.ratio != "linear":
        raise BadInput(f"--ratio {self.ratio}: heads are lit in linear light; use linear")
    if self.source not in RENDERED:
      if self.normals == "synthetic":
        raise BadInput("--normals synthetic: photos have none; use face_mesh or tddfa")
      if self.light_estimator == "truth":
        raise BadInput("--light_estimator truth: nobody knows the light of a photo; use fit, sfsnet or network")
    if not self.looks_for_faces and self.face_finder:
      raise BadInput("--face_finder: exact normals need no face to be found; use it with photos, face_mesh or tddfa")
    if self.arap and self.normals == "synthetic":
      raise BadInput("--arap: exact normals have nothing to be aligned to; use it with face_mesh or tddfa")

  @property
  def looks_for_faces(self) -> bool:
    """Whether faces have to be found; those of rendered faces with exact normals are known."""
    return self.source not in RENDERED or self.normals != "synthetic"


class Relit(NamedTuple):
  """A portrait after all stages; what the record holds, and what a page of pictures shows.

  Attributes:
    portrait: the framed photo.
    maps: the rendered face, aligned.
    record: the record.
  """

  portrait: FramedPortrait
  maps: FaceMaps
  record: Record


class Synthesis:
  """The stages, made ready once for any number of portraits; use it in a `with` statement.

  Attributes:
    source: where portraits come from.
    seconds: time spent so far, by stage.
  """

  def __init__(self, settings: Settings, lights: LightSource | None = None):
    """Opens the source, the lights and whatever models the settings ask for.

    Args:
      settings: how to make records.
      lights: what `open_lights` gave, where it has been opened already.

    Raises:
      BadInput: a folder, light or model file that is missing or cannot be used.
    """
    self.settings = settings
    self.seconds: dict[str, float] = {}
    self.source: Source = open_source(settings)
    self._lights: LightSource = lights or open_lights(settings)
    self._face_maps = _face_maps_function(settings)
    self._align = _aligner(settings)
    self._estimate_light = _estimator(settings)
    self.source.open()

  def __enter__(self) -> "Synthesis":
    return self

  def __exit__(self, *exception) -> None:
    self.close()

  def close(self) -> None:
    """Frees the models."""
    self.source.close()

  def relit(self, id: str) -> Iterator[Relit | Rejection]:
    """The portraits of one id of the source, relit; never raises for what is wrong with a photo."""
    try:
      with self._stage("load"):
        portraits = list(self.source.load(id))
    except BadInput as error:
      yield Rejection(id, str(error))
      return
    for portrait in portraits:
      if isinstance(portrait, Rejection):
        yield portrait
        continue
      try:
        yield self._relight(portrait)
      except BadInput as error:
        yield Rejection(portrait.id, str(error))

  def encode(self, record: Record) -> bytes:
    """The record's bytes, as the settings ask."""
    settings = self.settings
    with self._stage("encode"):
      return encode_record(
        record, image_format=settings.image_format, quality=settings.quality, normal_bits=settings.normal_bits
      )

  def _relight(self, portrait: FramedPortrait) -> Relit:
    with self._stage("normals"):
      maps = self._face_maps(portrait)
    if self._align:
      with self._stage("arap"):
        maps = self._align(maps)
    with self._stage("to the frame"):
      if self.settings.normals == "synthetic":
        normal, mask = portrait.truth.normal, normals.face_mask(maps)
      else:
        normal, mask = normals.extend_to_frame(maps)
      depth = relief.extend_to_frame(maps, portrait.truth and portrait.truth.depth)
    with self._stage("denoise"):
      smooth = denoise(portrait.pixels, self.settings.denoise)
    with self._stage("source light"):
      luminance = luminance_of(smooth, self.settings.ratio)
      source_light = self._estimate_light(portrait, luminance, normal, skin_mask(maps, mask))
    with self._stage("target lights"):
      targets = self._lights.draw(
        generator(self.settings.seed, "target lights", portrait.id), self.settings.lights_per_image
      )
    with self._stage("relight"):
      relit, targets = RELIGHT[self.settings.ratio](smooth, normal, mask, source_light, targets)
    record = Record(
      id=portrait.id,
      original=portrait.pixels,
      relit=relit,
      target_lights=np.stack([target.sh for target in targets]),
      source_light=source_light,
      normal=normal,
      depth=depth,
      mask=mask,
      light_names=tuple(target.name for target in targets),
      target_color_lights=np.stack([target.color for target in targets]) if self.settings.color else None,
      ratio=self.settings.ratio,
    )
    return Relit(portrait, maps, record)

  @contextlib.contextmanager
  def _stage(self, name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    self.seconds[name] = self.seconds.get(name, 0) + time.perf_counter() - start


def denoise(pixels: np.ndarray, method: str) -> np.ndarray:
  """A photo `[S, S, 3]` uint8 with less noise: what a ratio above 1 would amplify.

  Args:
    pixels: RGB.
    method: `nlm`, non-local means with the published pipeline's numbers; `fast`, the same looking for similar patches
      within 7 pixels instead of 21; `none`.
  """
  if method == "none":
    return pixels
  # OpenCV weighs the channels, as blue, green, red.
  window = 21 if method == "nlm" else 7
  return cv2.fastNlMeansDenoisingColored(pixels[..., ::-1].copy(), None, 5, 3, 3, window)[..., ::-1].copy()


def skin_mask(maps: FaceMaps, mask: np.ndarray) -> np.ndarray:
  """`[H, W]` bool: where the source light shows, skin inside `mask`, a little away from eyes, brows and lips."""
  side = 2 * round(_SKIN_EDGE * np.sqrt(mask.size) / 1024) + 1
  return cv2.erode((mask & (maps.label == Label.SKIN)).astype(np.uint8), np.ones((side, side), np.uint8)).astype(bool)


def luminance_of(pixels: np.ndarray, kind: str) -> np.ndarray:
  """What the ratio of a kind multiplies, of a photo `[S, S, 3]` uint8: `[S, S]` float32 in [0, 1].

  Linear luminance Y for `linear`; for `published` OpenCV's 8-bit L, over 255.
  """
  if kind == "linear":
    return srgb.to_linear(pixels) @ LUMINANCE_WEIGHTS
  return cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)[..., 0].astype(np.float32) / 255


class RelitPictures(NamedTuple):
  """A portrait under K lights.

  Attributes:
    pixels: `[K, S, S, 3]` uint8 RGB.
    lights: the K lights, as bright as they lit it.
  """

  pixels: np.ndarray
  lights: list[TargetLight]


def relight(
  pixels: np.ndarray, normal: np.ndarray, mask: np.ndarray, source: np.ndarray, targets: list[TargetLight]
) -> RelitPictures:
  """A portrait under other lights: its linear RGB times the ratio of the shadings, in 8 bits, rounded.

  Each light is made brighter or darker until the lit side of the face keeps its key, the 90th percentile of the face's
  linear luminance (`dpr_jax.light.exposure.key`); brighter by three stops at most. A colour that leaves sRGB is drawn
  towards its luminance, which is kept; what would be brighter than white is white.

  Args:
    pixels: `[S, S, 3]` uint8 RGB.
    normal: `[S, S, 3]`.
    mask: `[S, S]` bool, the face.
    source: `[9]`, the light of the photo, as a factor on linear luminance.
    targets: K lights. Where they have colours, red, green and blue follow them, but the luminance is that of their
      gray light all the same, so that it is the same with and without colours.
  """
  linear = srgb.to_linear(pixels)
  shadings = np.moveaxis(sh.shading(normal, np.stack([source, *(target.sh for target in targets)])), -1, 0)
  ratios = ratio.of_shadings(ratio.fill_dark(shadings[0]), shadings[1:])
  factors = _exposures(linear, ratios, mask)
  relit = np.empty((len(targets), *pixels.shape), np.uint8)
  for k, target in enumerate(targets):
    lit = linear * (factors[k] * ratios[k])[..., None]
    if target.color is not None:
      luminance = lit @ LUMINANCE_WEIGHTS
      lit *= _tint(normal, target)
      lit *= (luminance / np.maximum(lit @ LUMINANCE_WEIGHTS, 1e-9))[..., None]
    _draw_into_gamut(lit)
    relit[k] = srgb.from_linear(lit)
  return RelitPictures(relit, [_scaled(target, factor) for target, factor in zip(targets, factors, strict=True)])


def _exposures(linear: np.ndarray, ratios: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """Factors `[K]` float32 on ratios `[K, S, S]` that keep the key of a face, which lies where `mask` is."""
  places = np.flatnonzero(mask)
  places = places[np.linspace(0, len(places) - 1, min(len(places), _KEY_PIXELS)).astype(np.intp)]
  photo = linear.reshape(-1, 3)[places] @ LUMINANCE_WEIGHTS
  pictures = np.concatenate([photo[None], photo * ratios.reshape(len(ratios), -1)[:, places]])
  before, *after = exposure.key(pictures[:, None], np.ones_like(pictures)[:, None])
  return np.float32(before) / np.maximum(np.float32(after), max(before / _LARGEST_EXPOSURE, 1e-6))


def _scaled(target: TargetLight, factor: np.float32) -> TargetLight:
  return target._replace(sh=target.sh * factor, color=None if target.color is None else target.color * factor)


def _draw_into_gamut(linear: np.ndarray) -> None:
  """Draws, in place, linear RGB `[S, S, 3]` that has a channel above 1 towards its luminance, until none is."""
  red, green, blue = np.moveaxis(linear, -1, 0)
  brightest = np.maximum(np.maximum(red, green), blue)  # six times as fast as a maximum over the axis
  rows, columns = np.nonzero(brightest > 1)
  bright = linear[rows, columns]
  luminance = np.minimum(bright @ LUMINANCE_WEIGHTS, 1)[:, None]
  chroma = bright - luminance
  share = np.minimum((1 - luminance) / np.maximum(chroma.max(axis=-1, keepdims=True), 1e-9), 1)
  linear[rows, columns] = luminance + share * chroma


def relight_as_published(
  pixels: np.ndarray, normal: np.ndarray, mask: np.ndarray, source: np.ndarray, targets: list[TargetLight]
) -> RelitPictures:
  """A portrait under other lights as the published pipeline has it: 8-bit L of Lab times the ratio, truncated.

  The lights are used as bright as they are.

  Args:
    pixels: `[S, S, 3]` uint8 RGB.
    normal: `[S, S, 3]`.
    mask: not needed; all ways to relight take the same arguments.
    source: `[9]`, the light of the photo, as a factor on L.
    targets: K lights. Where they have colours, the chroma follows them; L is that of their gray light all the same.
  """
  lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)
  luminance = ratio.relight_luminance(
    lab[..., 0].astype(np.float32) / 255, normal, source, np.stack([target.sh for target in targets]), kind="published"
  )
  relit = np.empty((len(targets), *lab.shape), np.uint8)
  for k, target in enumerate(targets):
    new = lab.copy()
    new[..., 0] = (luminance[k] * 255).astype(np.uint8)
    if target.color is not None:
      new[..., 1:] = _tinted(new, normal, target)[..., 1:]
    relit[k] = cv2.cvtColor(new, cv2.COLOR_LAB2RGB)
  return RelitPictures(relit, targets)


RELIGHT = {"linear": relight, "published": relight_as_published}


def _tint(normal: np.ndarray, target: TargetLight) -> np.ndarray:
  """The colour of a light on each pixel, `[S, S, 3]`: each channel's shading over the gray one."""
  shadings = sh.shading(normal, np.concatenate([target.color, target.sh[None]]))
  least = 1e-3 * float(shadings[..., 3].max())
  tint = np.maximum(shadings[..., :3], least) / np.maximum(shadings[..., 3:], least)
  return np.clip(tint, 1 / _LARGEST_TINT, _LARGEST_TINT)


def _tinted(lab: np.ndarray, normal: np.ndarray, target: TargetLight) -> np.ndarray:
  """A relit portrait with the chroma of a coloured light, 8-bit Lab."""
  linear = color.linearise(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB).astype(np.float32) / 255) * _tint(normal, target)
  linear /= np.maximum(linear.max(axis=-1, keepdims=True), 1)  # as far as the colour goes; L is put back
  tinted = np.rint(255 * color.lab_to_srgb(color.linear_to_lab(linear))).astype(np.uint8)
  return cv2.cvtColor(tinted, cv2.COLOR_RGB2LAB)


def open_source(settings: Settings) -> Source:
  """The portraits that the settings name.

  Raises:
    BadInput: the folder is missing, unreadable or without photos; or the files of the head are missing.
  """
  if settings.source == HEADS:
    from data_gen.heads.portraits import RenderedHeads  # compiles for seconds what other sources do without

    return RenderedHeads(settings.count, settings.size, settings.seed)
  if settings.source == SYNTHETIC:
    return ProceduralFaces(
      settings.count,
      settings.size,
      settings.seed,
      ratio=settings.ratio,
      find=settings.looks_for_faces,
      face_finder=settings.face_finder,
    )
  return PhotoFolder(
    Path(settings.source),
    settings.size,
    aligned=settings.aligned,
    all_faces=settings.all_faces,
    keep_gray=settings.keep_gray,
    face_finder=settings.face_finder,
  )


def open_lights(settings: Settings) -> LightSource:
  """The target lights that the settings name.

  Raises:
    BadInput: a folder or list that is missing, or that holds no usable light.
  """
  return open_light_source(
    settings.light_prior, names=settings.light_names, convention=settings.light_convention, color=settings.color
  )


def with_face_finder(settings: Settings, earlier: str | None = None) -> Settings:
  """The settings with a face finder named, so that every process takes the same one.

  Args:
    settings: those that name one, or need none, stay as they are.
    earlier: the one that an export began with that is to go on now.

  Raises:
    BadInput: as `dpr_jax.portrait.face_finders.choose_face_finder`.
  """
  if settings.face_finder or not settings.looks_for_faces:
    return settings
  return dataclasses.replace(settings, face_finder=earlier or choose_face_finder())


def check_models(settings: Settings) -> None:
  """Looks whether the model files that the settings ask for are at hand, fetching those that can be.

  Raises:
    BadInput: one is missing, or is not what it should be.
  """
  if settings.looks_for_faces:
    choose_face_finder(settings.face_finder)
  if settings.normals == "tddfa":
    for name in ("tddfa-weights", "tddfa-stats", "tddfa-triangles", "bfm"):
      asset_path(name)
  if settings.light_estimator == "sfsnet":
    asset_path("sfsnet")
  if settings.light_estimator == "network":
    from dpr_jax.network.weights import load_params  # imports Flax

    load_params(settings.weights)


def _face_maps_function(settings: Settings) -> Callable[[FramedPortrait], FaceMaps]:
  if settings.normals == "synthetic":
    return lambda portrait: portrait.truth.maps
  if settings.normals == "tddfa":
    from data_gen.tddfa import TDDFA

    model = TDDFA()
  else:
    from data_gen import face_mesh as model
  return lambda portrait: model.face_maps(portrait.pixels, portrait.face)


def _aligner(settings: Settings) -> Callable[[FaceMaps], FaceMaps] | None:
  if not settings.arap:
    return None
  from data_gen import arap  # imports libigl

  return arap.align


def _estimator(settings: Settings) -> Callable:
  if settings.light_estimator == "truth":
    return lambda portrait, luminance, normal, skin: portrait.truth.light
  estimate = light_estimation.make_estimator(settings.light_estimator, ratio=settings.ratio, weights=settings.weights)
  return lambda portrait, luminance, normal, skin: estimate(portrait.pixels, luminance, normal, skin)
