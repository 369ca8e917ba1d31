"""Portraits out of nothing but a seed, whose normals, albedo, light and shadows are known exactly."""

from data_gen.procedural_faces.identity import HAIR_STYLES, RANGES, ProceduralFace, draw_face
from data_gen.procedural_faces.rendering import Lamp, radiance, render, shadow
from data_gen.procedural_faces.scene import Scene, geometry

__all__ = [
  "HAIR_STYLES",
  "RANGES",
  "Lamp",
  "ProceduralFace",
  "Scene",
  "draw_face",
  "geometry",
  "radiance",
  "render",
  "shadow",
]
