"""A network as files for other runtimes: what depends on the photo alone and what a target light adds, each by itself.

`encode` runs once a photo, `decode` once a light. Both take any number of photos of one size at a time. Of a published
network, `decode` gives the relit L / 100; of ours, by how much linear light changes, too.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

import dpr_jax
from dpr_jax.base.errors import BadInput
from dpr_jax.base.output_files import atomic_output, check_free
from dpr_jax.image import color
from dpr_jax.image.pictures import astronaut
from dpr_jax.light.light import MAX_LAMPS, Light
from dpr_jax.network.encoding import NUM_LEVELS, Encoding
from dpr_jax.network.hourglass import HourglassNet, HourglassNet1024
from dpr_jax.network.networks import network_for
from dpr_jax.network.ratio_network import RatioHourglassNet
from dpr_jax.network.registry import WEIGHTS
from dpr_jax.network.shape import RatioEncoding, Shape
from dpr_jax.network.weights import digest, load_params

FORMATS = ("onnx", "stablehlo")
TOLERANCE = 1e-4  # what a file may differ from JAX, in shares of the largest number, or of 1
_HARMONICS = (
  "orthonormal real, order 1, y, z, x, xy, yz, 3z^2-1, xz, x^2-y^2; x right, y into the scene, z up, as one sees "
  "the photo; a direction points to where the light comes from"
)
_LUMINANCE = "[batch, side, side, 1] float32, L / 100 of CIE Lab (D65) in [0, 1]"

Arrays = dict[str, Any]


class Part(NamedTuple):
  """One of the two halves of a network, as a function of named arrays.

  Attributes:
    function: from a dict of its inputs to a dict of its outputs.
    inputs: their shapes, float32.
  """

  function: Callable[[Arrays], Arrays]
  inputs: Mapping[str, jax.ShapeDtypeStruct]


def network_parts(params: Any, size: int, batch: Any, lamps: int = 1) -> dict[str, Part]:
  """`encode` and `decode` of a network.

  Args:
    params: from `load_params`.
    size: side of the photos in pixels, a multiple of the network's `size_multiple`.
    batch: the number of photos, or JAX's symbol for it.
    lamps: how many lamps a target light of our network has; one that is off has irradiance 0.
  """
  network = network_for(params)
  photo = {"luminance": jax.ShapeDtypeStruct((batch, size, size, 1), jnp.float32)}
  halves = _halves_of_ours if isinstance(network, RatioHourglassNet) else _halves_of_published
  encode, decode, light = halves(network, params, lamps)
  encoded = jax.eval_shape(encode, photo) if isinstance(batch, int) else jax.jit(encode).trace(photo).out_info
  light = {name: jax.ShapeDtypeStruct((batch, *shape), jnp.float32) for name, shape in light.items()}
  shapes = {**encoded, **photo, **light}
  return {
    "encode": Part(encode, photo),
    "decode": Part(decode, {name: shapes[name] for name in _read_by(decode, shapes)}),
  }


def _read_by(function: Callable, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> list[str]:
  """The names that a function of a dict asks for."""

  class Watched(dict):
    """Notes the names that are asked for."""

    def __getitem__(self, name):
      asked.add(name)
      return super().__getitem__(name)

  asked: set[str] = set()
  jax.jit(lambda values: function(Watched(values))).trace(dict(shapes))
  return [name for name in shapes if name in asked]


def _halves_of_published(
  network: HourglassNet | HourglassNet1024, params: Any, lamps: int
) -> tuple[Callable, Callable, dict]:
  del lamps

  def encode(values: Arrays) -> Arrays:
    encoding = network.apply(params, values["luminance"], method="encode")
    skips = {f"skip_{level}": skip for level, skip in enumerate(encoding.skips)}
    return {"face": encoding.face, "source_light": encoding.light, **skips}

  def decode(values: Arrays) -> Arrays:
    skips = tuple(values[f"skip_{level}"] for level in range(NUM_LEVELS))
    encoding = Encoding(values["face"], values["target_light"], skips)  # the source light is not read
    return {"relit": network.apply(params, encoding, values["target_light"], method="decode")}

  return encode, decode, {"target_light": (network.light_size,)}


def _halves_of_ours(network: RatioHourglassNet, params: Any, lamps: int) -> tuple[Callable, Callable, dict]:
  def encode(values: Arrays) -> Arrays:
    encoding = network.apply(params, values["luminance"], method="encode")
    light = {f"source_{name}": part for name, part in encoding.light._asdict().items()}
    shape = {name: part for name, part in encoding.shape._asdict().items() if name != "luminance"}
    return {"face": encoding.face, "shading": encoding.shading, **light, **shape}

  def decode(values: Arrays) -> Arrays:
    target = Light(*(values[f"target_{name}"] for name in Light._fields))
    seen = (values[name] for name in ("normal", "depth", "skin", "doubt"))
    shape = Shape(values["luminance"], target.size, *seen)
    # Neither framing, features nor the source light are read.
    encoding = RatioEncoding(values["shading"], target, shape, values["shading"])
    ratio = network.apply(params, encoding, target, method="log_ratio")
    return {"log_ratio": ratio, "relit": network.apply(params, encoding, target, method="decode")}

  light = {"target_soft": (1, 9), "target_towards": (lamps, 3), "target_irradiance": (lamps, 1)}
  return encode, decode, {**light, "target_size": (lamps,)}


def export_model(
  weights: str | os.PathLike,
  out: str | os.PathLike,
  *,
  file_format: str = "onnx",
  size: int | None = None,
  lamps: int = 1,
  overwrite: bool = False,
) -> dict[Path, float | None]:
  """Writes `encode` and `decode` of a network into a folder.

  ONNX files carry what is known of the weights; beside StableHLO modules that lies in `model.json`.

  Args:
    weights: as for `load_params`.
    out: the folder; made where it is missing.
    file_format: one of `FORMATS`.
    size: side of the photos in pixels; None: what the network was trained at.
    lamps: how many lamps a target light of our network has.
    overwrite: whether files there may be replaced.

  Returns:
    The models' files, each with its largest difference from JAX as for `TOLERANCE`; None where that was not looked at,
    as ONNX Runtime is not installed or cannot run the format.

  Raises:
    BadInput: as `load_params`, a size or a number of lamps that cannot be, a file that exists, or a file that would
      differ from JAX by more than `TOLERANCE`.
  """
  if file_format not in FORMATS:
    raise BadInput(f"--format {file_format}: must be one of {', '.join(FORMATS)}")
  if not 0 <= lamps <= MAX_LAMPS:
    raise BadInput(f"--lamps {lamps}: must lie in 0 to {MAX_LAMPS}")
  folder = Path(out)
  files = {part: folder / f"{part}.{file_format}" for part in ("encode", "decode")}
  notes = folder / "model.json"
  for file in (*files.values(), *([notes] if file_format == "stablehlo" else [])):
    check_free(file, overwrite)
  params = load_params(weights)
  network = network_for(params)
  size = network.native_size if size is None else size
  if not 64 <= size <= 2048 or size % network.size_multiple:
    raise BadInput(f"--size {size}: must be a multiple of {network.size_multiple} from 64 to 2048")
  about = _about(weights, params, size)
  [batch] = export.symbolic_shape("batch")
  parts = network_parts(params, size, batch, lamps)
  if file_format == "stablehlo":
    for name, part in parts.items():
      with atomic_output(files[name], overwrite) as aside:
        aside.write_bytes(export.export(jax.jit(part.function))(dict(part.inputs)).mlir_module_serialized)
    with atomic_output(notes, overwrite) as aside:
      aside.write_text(json.dumps({**about, **_signatures(parts)}, indent=2) + "\n", encoding="utf-8")
    return dict.fromkeys(files.values())
  from dpr_jax.portable import jaxpr_to_onnx  # onnx, which only this needs

  differences: dict[Path, float | None] = {}
  for name, part in parts.items():
    metadata = {**about, "part": name}
    model = jaxpr_to_onnx.convert(part.function, part.inputs, batch=batch, metadata=metadata).SerializeToString()
    difference = _difference(model, part)
    if difference is not None and not difference <= TOLERANCE:
      raise BadInput(f"{files[name]}: not written, as it would differ from JAX by {difference:.1e}")
    with atomic_output(files[name], overwrite) as aside:
      aside.write_bytes(model)
    differences[files[name]] = difference
  return differences


def _difference(model: bytes, part: Part) -> float | None:
  """The largest difference between a model in ONNX Runtime and in JAX; None where that is not installed."""
  try:
    import onnxruntime
  except ModuleNotFoundError:
    return None
  session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
  inputs = example_inputs(part.inputs, batch=2)
  expected = jax.jit(part.function)(inputs)
  names = sorted(expected)
  found = session.run(names, {each.name: inputs[each.name] for each in session.get_inputs()})
  return max(_apart(np.asarray(expected[name]), array) for name, array in zip(names, found, strict=True))


def _apart(expected: np.ndarray, found: np.ndarray) -> float:
  return float(np.abs(expected - found).max() / max(1.0, np.abs(expected).max()))


def example_inputs(shapes: Mapping[str, jax.ShapeDtypeStruct], batch: int) -> dict[str, np.ndarray]:
  """Portraits (scikit-image's astronaut and her mirror image), unit normals and directions, positive shading; the
  same every time.
  """
  generator, values = np.random.default_rng(0), {}
  for name, struct in shapes.items():
    shape = (batch, *map(int, struct.shape[1:]))
    if name in ("normal", "target_towards"):
      array = generator.normal(size=shape) + np.array([0, -2, 0])
      array /= np.linalg.norm(array, axis=-1, keepdims=True)
    elif name == "luminance":
      face = color.srgb_to_lab(astronaut() / np.float32(255))[..., :1] / 100
      face = np.asarray(jax.image.resize(face, shape[1:], "linear"))
      array = np.stack([face[:, :: (-1) ** k] for k in range(batch)])
    else:
      array = generator.uniform(0.1, 0.9, shape)
    values[name] = array.astype(np.float32)
  return values


def _about(weights: str | os.PathLike, params: Any, size: int) -> dict[str, str]:
  """What is known of the weights, as texts."""
  network, known = network_for(params), WEIGHTS.get(os.fspath(weights))
  return {
    "network": type(network).__name__,
    "weights": known.name if known else Path(weights).name,
    "weights_sha256": known.sha256 if known else _sha256(weights, params),
    "licence": known.licence if known else "as the weights",
    "trained_on": known.trained_on if known else "unknown",
    "native_size": str(network.native_size),
    "size": str(size),
    "luminance": _LUMINANCE,
    "spherical_harmonics": _HARMONICS,
    "dpr_jax": dpr_jax.__version__,
  }


def _sha256(weights: str | os.PathLike, params: Any) -> str:
  """Of a file; of a folder's weights, of all their numbers."""
  if os.path.isfile(weights):
    with open(weights, "rb") as file:
      return hashlib.file_digest(file, "sha256").hexdigest()
  return digest(params)


def _signatures(parts: Mapping[str, Part]) -> dict[str, dict[str, dict[str, list]]]:
  """The inputs and outputs of the parts in the order of the module's arguments, each with its dimensions."""

  def described(shapes: Mapping[str, Any]) -> dict[str, list]:
    return {name: [s if isinstance(s, int) else str(s) for s in shapes[name].shape] for name in sorted(shapes)}

  return {
    name: {
      "inputs": described(part.inputs),
      "outputs": described(jax.jit(part.function).trace(dict(part.inputs)).out_info),
    }
    for name, part in parts.items()
  }
