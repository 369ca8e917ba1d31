"""The nodes: weights, a light, the relit picture, and its passes.

ComfyUI's pictures are float tensors `[B, H, W, 3]`, sRGB in [0, 1], its masks `[B, H, W]`. They are relit at 16 bits.
PyTorch is ComfyUI's, not this package's: without it the nodes give NumPy arrays.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from dpr_jax import Light, Relighter
from dpr_jax.base.errors import BadInput
from dpr_jax.image.color import COLOUR_TEMPERATURES, lamp_colour
from dpr_jax.light.light import tint_lamps
from dpr_jax.network.registry import DEFAULT, WEIGHTS
from dpr_jax.portrait.face_finders import FACE_FINDERS
from dpr_jax.portrait.lights import parse_light
from dpr_jax.portrait.portrait import PASSES, Portrait

_CATEGORY = "relighting"
_AUTOMATIC = "automatic"
_WHITE = 65535


class LoadRelighter:
  """Weights and a face finder, held for all pictures."""

  CATEGORY, FUNCTION = _CATEGORY, "load"
  RETURN_TYPES = ("DPR_RELIGHTER",)

  @classmethod
  def INPUT_TYPES(cls) -> dict:  # noqa: N802, ComfyUI's name
    """What ComfyUI asks the user for."""
    return {"required": {"weights": ([*WEIGHTS], {"default": DEFAULT}), "face_finder": ([_AUTOMATIC, *FACE_FINDERS],)}}

  def load(self, weights: str, face_finder: str) -> tuple[Relighter]:
    """A `Relighter`; `automatic` is MediaPipe's finder where it is at hand, else the embedded one."""
    return (Relighter(weights, face_finder=None if face_finder == _AUTOMATIC else face_finder),)


class PortraitLight:
  """A light by its name, its direction or its file, or that of another portrait."""

  CATEGORY, FUNCTION = _CATEGORY, "light"
  RETURN_TYPES = ("DPR_LIGHT",)

  @classmethod
  def INPUT_TYPES(cls) -> dict:  # noqa: N802
    """What ComfyUI asks the user for."""
    return {
      "required": {"light": ("STRING", {"default": "left"})},
      "optional": {
        "temperature": ("FLOAT", {"default": 0.0, "min": 0.0, "max": float(COLOUR_TEMPERATURES[1]), "step": 100.0}),
        "env_rotate": ("FLOAT", {"default": 0.0, "min": -360.0, "max": 360.0}),
        "portrait": ("IMAGE",),
        "relighter": ("DPR_RELIGHTER",),
      },
    }

  def light(
    self,
    light: str,
    temperature: float = 0.0,
    env_rotate: float = 0.0,
    portrait: Any = None,
    relighter: Relighter | None = None,
  ) -> tuple[Light]:
    """`parse_light`, its lamps tinted; or the light that a portrait was taken in.

    Args:
      light: a preset, `azimuth,elevation[,fill[,size]]`, a file of numbers, an environment map, or, with a relighter, a
        photo's file. Of no effect beside a portrait.
      temperature: of the lamps in kelvin; 0: as the light has them.
      env_rotate: degrees by which an environment map is turned.
      portrait: a batch of one picture, whose largest face tells the light.
      relighter: estimates the light of a portrait.

    Raises:
      BadInput: as `parse_light`, a temperature out of range, a portrait without a relighter or without a face, or
        several of them.
    """
    if portrait is not None:
      made = _light_of(portrait, relighter)
    elif relighter is not None:
      made = relighter.light(light, env_rotate=env_rotate)
    else:
      made = parse_light(light, env_rotate=env_rotate)
    if not temperature:
      return (made,)
    low, high = COLOUR_TEMPERATURES
    if not low <= temperature <= high:
      raise BadInput(f"temperature {temperature:g}: must be 0 or lie in {low} to {high} kelvin")
    return (tint_lamps(made, lamp_colour(temperature)),)


class RelightPortrait:
  """Pictures of people under another light."""

  CATEGORY, FUNCTION = _CATEGORY, "relight"
  RETURN_TYPES = ("IMAGE",)

  @classmethod
  def INPUT_TYPES(cls) -> dict:  # noqa: N802
    """What ComfyUI asks the user for."""
    return {
      "required": {"image": ("IMAGE",), "relighter": ("DPR_RELIGHTER",), "light": ("DPR_LIGHT",)},
      "optional": {
        "strength": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 3.0, "step": 0.05}),
        "exposure": ("FLOAT", {"default": 0.0, "min": -5.0, "max": 5.0, "step": 0.1}),
        "background": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 1.0, "step": 0.05}),
      },
    }

  def relight(
    self,
    image: Any,
    relighter: Relighter,
    light: Light,
    strength: float = 1.0,
    exposure: float = 0.0,
    background: float = 0.0,
  ) -> tuple[Any]:
    """`Portrait.relight` of every picture of a batch; arguments as there.

    Raises:
      BadInput: a picture without a face, named by its number.
    """
    options = {"exposure": exposure, "background": background}
    relit = [portrait.relight(light, strength, **options) for portrait in _portraits(relighter, image)]
    return (_tensor(np.float32(relit) / _WHITE),)


class RelightingPasses:
  """What compositors ask for: `Portrait.passes` of every picture."""

  CATEGORY, FUNCTION = _CATEGORY, "passes"
  RETURN_TYPES = ("MASK", *["IMAGE"] * (len(PASSES) - 1))
  RETURN_NAMES = PASSES

  @classmethod
  def INPUT_TYPES(cls) -> dict:  # noqa: N802
    """What ComfyUI asks the user for."""
    return {"required": {"image": ("IMAGE",), "relighter": ("DPR_RELIGHTER",), "light": ("DPR_LIGHT",)}}

  def passes(self, image: Any, relighter: Relighter, light: Light) -> tuple:
    """Matte, normals, depth, shading and shadow, each in [0, 1].

    Raises:
      BadInput: a picture without a face, or whose person's shape is not known.
    """
    found = []
    for number, portrait in enumerate(_portraits(relighter, image), 1):
      if not portrait.has_shapes:
        raise BadInput(
          f"picture {number}: passes need weights that know shape, as default does, and MediaPipe's segmenter"
        )
      found.append(portrait.passes(light))
    matte, *others = (np.stack([each[name] for each in found]) for name in PASSES)
    return (_tensor(matte), *(_tensor(_as_picture(values)) for values in others))


def _light_of(portrait: Any, relighter: Relighter | None) -> Light:
  if relighter is None:
    raise BadInput("the light of a portrait is estimated by the network: connect a relighter")
  if len(portrait) != 1:
    raise BadInput(f"a light is that of one portrait, not of {len(portrait)}")
  return relighter.source_light(next(_portraits(relighter, portrait)))


def _portraits(relighter: Relighter, image: Any) -> Iterator[Portrait]:
  """The pictures of a batch, encoded one at a time."""
  for number, picture in enumerate(np.asarray(image, np.float32), 1):
    pixels = np.rint(_WHITE * np.clip(picture[..., :3], 0, 1)).astype(np.uint16)
    faces = relighter.finder.find(pixels)
    if not faces:
      raise BadInput(f"picture {number}: no face found")
    yield relighter.encode(pixels, faces=faces)


def _as_picture(values: np.ndarray) -> np.ndarray:
  """`[B, H, W]` or `[B, H, W, 3]` -> `[B, H, W, 3]`."""
  return values if values.ndim == 4 else np.repeat(values[..., None], 3, axis=-1)


def _tensor(values: np.ndarray) -> Any:
  """A PyTorch tensor where there is PyTorch, as in ComfyUI."""
  try:
    import torch
  except ImportError:
    return values
  return torch.from_numpy(np.ascontiguousarray(values))


NODE_CLASS_MAPPINGS = {
  "DPRLoadRelighter": LoadRelighter,
  "DPRPortraitLight": PortraitLight,
  "DPRRelightPortrait": RelightPortrait,
  "DPRRelightingPasses": RelightingPasses,
}
NODE_DISPLAY_NAME_MAPPINGS = {
  "DPRLoadRelighter": "Load relighting weights",
  "DPRPortraitLight": "Portrait light",
  "DPRRelightPortrait": "Relight portrait",
  "DPRRelightingPasses": "Relighting passes",
}
