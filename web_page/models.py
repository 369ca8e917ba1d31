"""The networks of the page as ONNX models of fixed sizes: who finds faces, and what is seen in the square of one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpr_jax.base.errors import BadInput
from dpr_jax.network.networks import network_for
from dpr_jax.network.registry import DEFAULT
from dpr_jax.network.shape import Surface
from dpr_jax.network.weights import load_params
from dpr_jax.portrait.canonical_face import canonical_face
from dpr_jax.portrait.embedded_faces import WEIGHTS, read_weights
from dpr_jax.portrait.face_scales import LANDMARK_SIZE

CANVAS = (640, 1024)  # height and width of what the detector sees; as in page/face_finder.js
SQUARES = 4  # that the landmark network sees at a time; likewise

Arrays = dict[str, Any]


class Part(NamedTuple):
  """A network as a function of named arrays.

  Attributes:
    function: from a dict of its inputs to a dict of its outputs.
    inputs: their shapes; all are float32.
  """

  function: Callable[[Arrays], Arrays]
  inputs: dict[str, tuple[int, ...]]


def parts() -> dict[str, Part]:
  """The networks by the names of their files."""
  from dpr_jax.portrait.face_networks import FaceDetector, FaceLandmarker  # with Flax

  finder, params = read_weights(WEIGHTS), load_params(DEFAULT)
  network = network_for(params)
  size, cells = network.native_size, network.native_size // network.shape_cell

  def detector(values: Arrays) -> Arrays:
    seen = FaceDetector().apply(finder["detector"], values["canvas"][None, ..., None])
    answer = jnp.concatenate([seen.logit[..., None], seen.offset, seen.log_side[..., None], seen.direction], axis=-1)
    return {"answer": answer[0]}

  def landmarker(values: Arrays) -> Arrays:
    return FaceLandmarker().apply(finder["landmarker"], values["squares"])._asdict()

  def encode(values: Arrays) -> Arrays:
    surface = Surface(*(values[f"surface_{name}"] for name in Surface._fields))
    seen = network.apply(params, values["luminance"], method="encode", surface=surface)
    shape = seen.shape
    parts = {name: getattr(shape, name) for name in ("normal", "depth", "skin", "doubt")}
    return {**parts, "shading": seen.shading}

  surface = {f"surface_{name}": (1, cells, cells, 3 if name == "normal" else 1) for name in Surface._fields}
  return {
    "detector": Part(detector, {"canvas": CANVAS}),
    "landmarker": Part(landmarker, {"squares": (SQUARES, LANDMARK_SIZE, LANDMARK_SIZE, 1)}),
    "encode": Part(encode, {"luminance": (1, size, size, 1), **surface}),
  }


def model(part: Part) -> bytes:
  """A network, from `parts`, as an ONNX model.

  Raises:
    BadInput: the extra `onnx` is not installed.
  """
  try:
    from dpr_jax.portable.jaxpr_to_onnx import convert
  except ModuleNotFoundError as error:
    raise BadInput(f"{error.name} is missing (pip install 'dpr_jax[onnx]')") from None
  shapes = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in part.inputs.items()}
  return convert(part.function, shapes).SerializeToString()


def face_numbers() -> dict[str, list]:
  """MediaPipe's canonical face, and the number of each landmark in the mirror image of a face."""
  face, partner = canonical_face(), read_weights(WEIGHTS)["partner"]
  return {
    "vertices": np.round(face.vertices, 6).tolist(),
    "triangles": face.triangles.tolist(),
    "partner": partner.tolist(),
  }
