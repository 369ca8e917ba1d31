"""Lights and what they do to a surface: spherical harmonics, lamps, environment maps, shading, shadows."""
