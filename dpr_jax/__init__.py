"""Portrait relighting after Zhou et al., "Deep Single-Image Portrait Relighting" (ICCV 2019), in JAX/Flax."""

import importlib

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
