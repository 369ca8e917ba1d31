"""The one object behind every door: weights and a face finder, held for any number of photos and lights.

`Relighter("default").relight("photo.jpg", "left")` is what the command line, the page and films do.
"""

import os
import threading
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from dpr_jax.base.errors import BadInput
from dpr_jax.image.photo import read_photo
from dpr_jax.light.light import Light, as_light
from dpr_jax.network import traced
from dpr_jax.network.networks import traits_of
from dpr_jax.network.registry import DEFAULT
from dpr_jax.network.weights import load_params
from dpr_jax.portable.onnx_engine import OnnxEngine
from dpr_jax.portrait.face_finders import choose_face_finder, open_face_finder
from dpr_jax.portrait.faces import Face, FaceFinder
from dpr_jax.portrait.lights import parse_light
from dpr_jax.portrait.person import Segmenter, open_segmenter
from dpr_jax.portrait.portrait import Portrait

ENGINES = ("jax", "onnx")
# A photo's file, its pixels `[H, W, 3]` RGB (uint8, uint16 or linear float32), or what `Relighter.encode` made of it.
Source = str | os.PathLike | np.ndarray | Portrait
# What a user writes for `parse_light`, a light, or nine numbers `[9]`.
Target = str | Light | np.ndarray


class Relighter:
  """Relights portraits; open it in a `with` statement, or let the interpreter's end close it.

  Attributes:
    weights: as they were asked for.
    params: of the network, for the functions of `dpr_jax.portrait.relighting`.
    network: what is to be known of the network that `params` are of, `networks.Traits`.
    size: side of the square around a face that the network sees, in pixels.
  """

  def __init__(
    self,
    weights: str | os.PathLike = DEFAULT,
    *,
    size: int | None = None,
    face_finder: str | None = None,
    dtype: jnp.dtype | None = None,
    engine: str = "jax",
  ):
    """Loads the weights.

    Args:
      weights: as for `load_params`.
      size: another side of the square than the network was trained at.
      face_finder: one of `face_finders.FACE_FINDERS`, or None: chosen by `face_finders.open_face_finder`. It is opened
        with the first photo.
      dtype: compute type of the convolutions.
      engine: what runs the network, one of `ENGINES`; `onnx` is ONNX Runtime on the CPU, in float32.

    Raises:
      BadInput: as `load_params`, and for weights that take lights of 27 numbers.
    """
    self.weights = os.fspath(weights)
    self.params = load_params(weights)
    self.network = traits_of(self.params)
    if not self.network.gray:
      raise BadInput(
        f"weights {self.weights!r}: take lights of {self.network.light_size} numbers; here a light is gray, 9 numbers"
      )
    self.size = self.network.native_size if size is None else size
    if engine not in ENGINES:
      raise BadInput(f"engine {engine!r}: must be one of {', '.join(ENGINES)}")
    if engine == "onnx" and dtype is not None:
      raise BadInput("engine 'onnx': computes in float32, and takes no dtype")
    self._dtype, self._face_finder = dtype, face_finder
    self._call = traced.call if engine == "jax" else OnnxEngine(self.params).call
    self._finder: FaceFinder | None = None
    self._segmenter: Segmenter | None = None
    self._segmenter_opened = False
    self._opening = threading.Lock()  # a server encodes in several threads

  def __enter__(self) -> "Relighter":
    return self

  def __exit__(self, *exception) -> None:
    self.close()

  def close(self) -> None:
    """Frees the face finder and the segmenter; the next photo opens them again."""
    if self._finder is not None:
      self._finder.close()
      self._finder = None
    if self._segmenter is not None:
      self._segmenter.close()
    self._segmenter, self._segmenter_opened = None, False

  @property
  def finder(self) -> FaceFinder:
    """The face finder, open.

    Raises:
      BadInput: as `face_finders.open_face_finder`.
    """
    with self._opening:
      if self._finder is None:
        self._finder = open_face_finder(self._face_finder)
      return self._finder

  @property
  def segmenter(self) -> Segmenter | None:
    """What finds whole persons, open; None with the embedded face finder, and where its model is not at hand."""
    with self._opening:
      if not self._segmenter_opened:
        chosen = choose_face_finder(self._face_finder) if self._finder is None else self._finder.name
        self._segmenter = open_segmenter() if chosen == "mediapipe" else None
        self._segmenter_opened = True
      return self._segmenter

  def light(self, text: str, *, env_rotate: float = 0.0) -> Light:
    """`parse_light`, by this network and face finder."""
    return parse_light(text, self.params, self._face_finder, env_rotate=env_rotate)

  def encode(
    self, photo: str | os.PathLike | np.ndarray, *, face: int | None = None, faces: Sequence[Face] | None = None
  ) -> Portrait:
    """A photo made ready for any light.

    Args:
      photo: a file, or pixels `[H, W, 3]` RGB, uint8 or uint16; or float32, linear light.
      face: this one alone, counted from 1, left to right; None: all.
      faces: where they are, if that is known.

    Raises:
      BadInput: a file that cannot be read, no face, or not as many as `face` asks for.
      ValueError: pixels of another shape or type.
    """
    name, pixels = ("photo", photo) if isinstance(photo, np.ndarray) else (os.fspath(photo), read_photo(photo).pixels)
    faces = list(self.finder.find(pixels) if faces is None else faces)
    if not faces:
      raise BadInput(f"{name}: no face found")
    if face is not None and not 1 <= face <= len(faces):
      raise BadInput(f"{name}: has {len(faces)} face{'s'[: len(faces) > 1]}, there is no face {face}")
    chosen = faces if face is None else [faces[face - 1]]
    others = [other for k, other in enumerate(faces) if face not in (None, k + 1)]
    return Portrait(
      self.params,
      pixels,
      chosen,
      self.size,
      segmenter=self.segmenter,
      others=others,
      dtype=self._dtype,
      call=self._call,
    )

  def relight(
    self,
    photo: Source,
    light: Target,
    *,
    face: int | None = None,
    strength: float = 1.0,
    exposure: float = 0.0,
    background: float = 0.0,
    backdrop: np.ndarray | None = None,
  ) -> np.ndarray:
    """A photo under another light, in its own resolution.

    Args:
      photo: a file, pixels `[H, W, 3]` RGB (as for `encode`), or what `encode` made of either: that spares the encoder.
      light: as for `parse_light`, or a light, or nine numbers `[9]`.
      face: relight this one alone, counted from 1, left to right; None: all.
      strength: exponent of the ratio: 0 leaves the photo as it is, 1 is the light as asked for.
      exposure: by how many stops the lit side of the faces gets brighter than it is in the photo.
      background: how much of the light's change, 0 to 1, the room around the persons takes.
      backdrop: what to put the persons before, `[H, W, 3]`, of the photo's shape and type; see `backdrops`.

    Returns:
      Pixels of the photo's shape and type, RGB.

    Raises:
      BadInput: as `encode` and `parse_light`.
      ValueError: pixels or a light of another shape, or values that are not finite.
    """
    portrait = photo if isinstance(photo, Portrait) else self.encode(photo, face=face)
    lit = self.light(light) if isinstance(light, str) else as_light(light)
    return portrait.relight(lit, strength, exposure=exposure, background=background, backdrop=backdrop)

  def source_light(self, photo: Source, *, face: int | None = None) -> Light:
    """The light that a photo was taken in, gray, in the photo's coordinates: on one face, or on the largest.

    Args:
      photo: as for `relight`.
      face: as for `relight`; None: the largest face.

    Raises:
      BadInput: as `encode`.
    """
    portrait = photo if isinstance(photo, Portrait) else self.encode(photo, face=face)
    return portrait.largest_face.source_light
