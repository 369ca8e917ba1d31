"""Portrait relighting after Zhou et al., "Deep Single-Image Portrait Relighting" (ICCV 2019), in JAX/Flax."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what `__getattr__` imports is so known to a type checker or an editor
  from dpr_jax.base.errors import BadInput as BadInput
  from dpr_jax.light.light import Light as Light
  from dpr_jax.network.weights import load_params as load_params
  from dpr_jax.portrait.lights import parse_light as parse_light
  from dpr_jax.portrait.relighter import Relighter as Relighter
  from dpr_jax.portrait.relighting import estimate_light as estimate_light
  from dpr_jax.portrait.relighting import relight_fn as relight_fn
  from dpr_jax.portrait.relighting import relight_lights as relight_lights
  from dpr_jax.portrait.relighting import relight_luminance as relight_luminance

__version__ = "0.1.0"

_PUBLIC = {
  "BadInput": "base.errors",
  "Light": "light.light",
  "Relighter": "portrait.relighter",
  "estimate_light": "portrait.relighting",
  "load_params": "network.weights",
  "parse_light": "portrait.lights",
  "relight_fn": "portrait.relighting",
  "relight_lights": "portrait.relighting",
  "relight_luminance": "portrait.relighting",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str):
  """Imports what is asked for when it is asked for: an entry script can then report a missing system library itself."""
  if name not in _PUBLIC:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
  return sorted(__all__)
