"""The surface of a face's landmarks, beside that of the finer mesh that datasets are made with."""

import numpy as np
import pytest

from data_gen.face_maps import Label
from data_gen.face_mesh import face_maps
from dpr_jax.network.networks import Traits
from dpr_jax.portrait import framed_face
from dpr_jax.portrait.canonical_face import canonical_face, mirrored_landmarks
from dpr_jax.portrait.faces import Face, Framing, frame_face
from dpr_jax.portrait.landmark_mesh import mesh_surface
from dpr_jax.portrait.portrait import Portrait
from tests.data_gen.test_face_mesh import angles, as_seen, rotation
from tests.portrait.test_portrait import stub_encode

CELLS = 64


def head(yaw=0.0, pitch=0.0, roll=0.0, **where):
  return as_seen(canonical_face().vertices @ rotation(yaw, pitch, roll).T, **where)


def square_as_photo(size=256):
  return Framing(np.array([[1.0, 0, 0], [0, 1, 0]]), 0.0, size)


@pytest.mark.parametrize("yaw", [0, 40])
def test_normals_and_depth_are_those_of_the_finer_mesh(yaw):
  face = head(yaw, pitch=-5, scale=10.0, centre=(128.0, 128.0))
  surface = mesh_surface(face, square_as_photo(), CELLS)
  maps = face_maps(np.zeros((256, 256, 3), np.uint8), face)
  middles = slice(2, None, 4)  # of the cells, half a pixel aside
  fine, label = maps.normal[middles, middles], maps.label[middles, middles]
  known = (surface.weight[0, ..., 0] > 0.5) & (label != Label.BACKGROUND)
  assert known.sum() > 400
  error = angles(surface.normal[0][known], fine[known])
  assert np.median(error) < 3
  assert np.mean(error) < 5
  apart = surface.depth[0, ..., 0][known] - maps.depth[middles, middles][known] / 256
  # At the nose of a turned head either may see the cheek behind it.
  assert np.quantile(np.abs(apart - np.median(apart)), 0.95) < 0.01


def test_it_knows_nothing_beyond_the_outline():
  surface = mesh_surface(head(scale=10.0, centre=(128.0, 128.0)), square_as_photo(), CELLS)
  weight = surface.weight[0, ..., 0]
  assert weight.max() == 1
  assert (weight[:4] == 0).all()
  assert (weight[:, :8] == 0).all()
  assert np.abs(np.diff(weight, axis=0)).max() < 0.5
  assert all(np.isfinite(part).all() for part in surface)


def test_a_leaning_head_has_the_surface_of_the_upright_one():
  """The square stands upright in the head: neither lean, nor size, nor place are to be seen in it."""
  upright, leaning = head(20), head(20, roll=30, scale=33.0, centre=(700.0, 400.0))
  one, other = (mesh_surface(face, frame_face(face, 256), CELLS) for face in (upright, leaning))
  np.testing.assert_allclose(one.weight, other.weight, atol=0.35)
  both = (one.weight[0, ..., 0] > 0.5) & (other.weight[0, ..., 0] > 0.5)
  assert np.quantile(angles(one.normal[0][both], other.normal[0][both]), 0.95) < 3
  assert np.abs((one.depth - other.depth)[0, ..., 0][both]).max() < 0.01


def test_a_mirrored_face_has_the_mirrored_surface():
  face = head(25, 10)
  partner = mirrored_landmarks()
  mirror_image = Face((face.landmarks * (-1, 1) + (512, 0))[partner], face.depth[partner])
  one, other = (mesh_surface(each, frame_face(each, 256), CELLS) for each in (face, mirror_image))
  both = (one.weight[0, ..., 0] > 0.5) & (other.weight[0, :, ::-1, 0] > 0.5)
  flipped = other.normal[0, :, ::-1] * (-1, 1, 1)
  assert np.median(angles(one.normal[0][both], flipped[both])) < 1


def test_a_face_in_a_corner_of_the_square_is_cut():
  surface = mesh_surface(head(scale=10.0, centre=(0.0, 128.0)), square_as_photo(), CELLS)
  weight = surface.weight[0, ..., 0]
  assert weight.max() == 1
  assert (weight[:, 0] == 0).all()
  away = mesh_surface(head(scale=10.0, centre=(-500.0, 128.0)), square_as_photo(), CELLS)
  assert (away.weight == 0).all()
  assert np.isfinite(away.normal).all()
  assert np.isfinite(away.depth).all()


def test_a_face_without_depth_has_no_mesh():
  face = head()
  with pytest.raises(ValueError, match="without depth"):
    mesh_surface(face._replace(depth=None), frame_face(face, 256), CELLS)


def test_a_portrait_tells_the_network_of_the_mesh_where_a_face_has_depth(monkeypatch):
  told = []

  def encode(params, luminance, surface=None, *, dtype=None):
    told.append(surface)
    return stub_encode(params, luminance)

  monkeypatch.setattr(framed_face, "traits_of", lambda params: Traits("RatioHourglassNet", 256, 64, 9, 4, shape_cell=4))
  monkeypatch.setattr(framed_face, "encode_luminance", encode)
  face, pixels = head(15, scale=8.0), np.full((512, 512, 3), 128, np.uint8)
  Portrait(None, pixels, [face, face._replace(depth=None)], 128)
  expected = mesh_surface(face, frame_face(face, 128), 32)
  for found, part in zip(told[0], expected, strict=True):
    np.testing.assert_array_equal(found, part)
  assert told[1] is None
