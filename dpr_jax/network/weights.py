"""Where weights come from: a name, a file, a training run, or a repository of the Hugging Face hub."""

import contextlib
import functools
import hashlib
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from absl import logging

from dpr_jax.base.errors import BadInput, reason_of
from dpr_jax.base.input_files import numpy_silenced, read_bytes, read_json
from dpr_jax.base.output_files import atomic_output
from dpr_jax.network import hub
from dpr_jax.network.encoding import NUM_LEVELS
from dpr_jax.network.networks import network_for
from dpr_jax.network.pytorch_weights import read_state_dict
from dpr_jax.network.registry import DEFAULT, WEIGHTS

OFFICIAL = tuple(name for name, weights in WEIGHTS.items() if not weights.file)

_ARCHIVE = ".npz"
_SAFETENSORS = ".safetensors"
_LARGEST_ARCHIVE = 2**28  # bytes, unpacked
_LONGEST_HEADER = 2**20  # bytes of names and shapes in a safetensors file: ours have 13,000
_MOST_UNPACKED = 4  # times the size of the file: numbers that networks have learnt hardly shrink at all
_SMALL_ARCHIVE = 2**20  # bytes that any may unpack to

# In the workdir of a training run: the folder of its checkpoints, and what each keeps for whoever uses the weights,
# `{"params", "batch_stats"}` without optimizer or iterator.
CHECKPOINTS = "checkpoints"
EMA = "ema"


def load_params(source: str | os.PathLike) -> dict[str, Any]:
  """Weights of a relighting network.

  Args:
    source: "default", this project's own weights (in the package; Apache-2.0, see MODEL_CARD.md); or "official-512" or
      "official-1024", the networks of Zhou et al. 2019 (research use only; fetched once from the authors' repository,
      or read from a folder of `DPR_ASSETS`); or the path of a file that `save_params` wrote (`.npz`, `.safetensors`),
      or of a PyTorch file (`.t7`, `.pth`) with the keys of the official modules; or the workdir of a training run,
      whose newest complete checkpoint is taken, or one of its checkpoints (`workdir/checkpoints/5000`): the running
      mean of the weights, on whatever devices they were trained; or `hf:OWNER/NAME`, a repository of the Hugging Face
      hub (extra `hub`), see `dpr_jax.network.hub`.

  Returns:
    `{"params": ..., "batch_stats": ...}`, float32, for the functions of `dpr_jax.portrait.relighting`.

  Raises:
    BadInput: no such name, file, checkpoint or repository, one that cannot be read, or weights of another network.
  """
  name = os.fspath(source)
  path = _file(name)
  if name and os.path.isdir(path):
    return _restore(_find_checkpoint(path))
  if not os.path.isfile(path):  # Path.is_file raises on a name that is too long
    raise BadInput(f"weights {name!r}: no such file or training run; known names are {', '.join(WEIGHTS)}")
  if path.suffix == _ARCHIVE:
    variables = read_archive(path)
  elif path.suffix == _SAFETENSORS:
    variables = read_safetensors(path)
  else:
    from dpr_jax.network import official_weights  # with Flax, as below

    variables = official_weights.dpr_variables(read_state_dict(path), str(path))
  if name != DEFAULT:  # those of the package are what they are, and tracing a network takes a second
    _check_shapes(variables, path)
  check_finite(variables, path)
  return jax.device_put(variables)


def _file(name: str) -> Path:
  """Where weights lie, fetched first if they are not on this machine yet."""
  if name in WEIGHTS:
    return WEIGHTS[name].path()
  if name.startswith(hub.PREFIX):
    return hub.fetch(name)
  return Path(name)


def save_params(path: str | os.PathLike, params: dict[str, Any], *, overwrite: bool = False) -> None:
  """Writes weights as one file that `load_params` reads: names and numbers in half precision, no pickle.

  Args:
    path: ends in `.npz` (a NumPy archive) or in `.safetensors`; the arrays are the same.
    params: as `load_params` returns them.
    overwrite: replace a file of that name.

  Raises:
    BadInput: another ending, a file that is there already, a place that cannot be written to, or a number beyond what
      half precision holds.
  """
  path = Path(path)
  check_ending(path)
  arrays = {}
  from flax import traverse_util  # half a second that reading the package's weights does without

  for keys, leaf in traverse_util.flatten_dict(jax.device_get(params)).items():
    with np.errstate(over="ignore"):
      arrays["/".join(keys)] = np.asarray(leaf, np.float16, order="C")  # a safetensors file copies the memory
    if not np.isfinite(arrays["/".join(keys)]).all():
      raise BadInput(f"{'/'.join(keys)} has values that half precision does not hold")
  with atomic_output(path, overwrite=overwrite) as temporary, temporary.open("wb") as file:
    if path.suffix == _SAFETENSORS:
      file.write(safetensors.numpy.save(arrays))
    else:
      np.savez_compressed(file, allow_pickle=False, **arrays)


def check_ending(path: Path) -> None:
  """Raises BadInput unless `save_params` writes files of that ending."""
  if path.suffix not in (_ARCHIVE, _SAFETENSORS):
    raise BadInput(f"{path}: weights are written as {_ARCHIVE} or {_SAFETENSORS}")


def digest(params: Any) -> str:
  """The sha256 of all numbers of a network's weights, in hex: the same wherever they were loaded from."""
  numbers = hashlib.sha256()
  for leaf in jax.tree.leaves(params):
    numbers.update(np.asarray(leaf).tobytes())
  return numbers.hexdigest()


def read_archive(path: Path):
  """The variables in an archive that `save_params` wrote, float32 NumPy arrays; names and shapes are not checked yet.

  Raises:
    BadInput: not an archive of floating-point arrays, a damaged one, or one that unpacks to more than any weights have.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      size = sum(member.file_size for member in archive.infolist())
      if not all(member.filename.endswith(".npy") for member in archive.infolist()):
        raise BadInput(f"{path}: not an archive of weights: it holds other files than arrays")
    if size > min(_LARGEST_ARCHIVE, max(_MOST_UNPACKED * path.stat().st_size, _SMALL_ARCHIVE)):
      raise BadInput(f"{path}: {size} bytes unpacked, more than any weights have in a file of {path.stat().st_size}")
    with numpy_silenced(), np.load(path, allow_pickle=False) as archive:
      arrays = {tuple(name.split("/")): archive[name] for name in archive.files}
  except BadInput:
    raise
  except (
    Exception
  ) as error:  # zipfile, zlib and NumPy's parser of headers answer damaged files with nearly any exception
    reason = f"{type(error).__name__}: {reason_of(error)}"
    raise BadInput(f"{path}: not an archive of weights, or a damaged one ({reason})") from error
  return _nested(path, arrays)


def read_safetensors(path: Path):
  """As `read_archive`, of a safetensors file.

  Raises:
    BadInput: not such a file of floating-point arrays, a damaged one, or one that is larger than any weights are.
  """
  try:
    content = read_bytes(path, _LARGEST_ARCHIVE)
  except OSError as error:
    raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
  if int.from_bytes(content[:8], "little") > _LONGEST_HEADER:
    raise BadInput(f"{path}: not a safetensors file of weights, or a damaged one (its header has no such length)")
  try:
    arrays = safetensors.numpy.load(content)
  except Exception as error:  # the library's own, and KeyError for types of numbers that NumPy doesn't have
    reason = f"{type(error).__name__}: {reason_of(error)}"
    raise BadInput(f"{path}: not a safetensors file of weights, or a damaged one ({reason})") from error
  return _nested(path, {tuple(name.split("/")): array for name, array in arrays.items()})


def _nested(path: Path, arrays: dict[tuple[str, ...], Any]):
  """The arrays of a file as nested dictionaries, float32."""
  # What does not begin as an array NumPy gives back as bytes.
  if not all(isinstance(array, np.ndarray) and array.dtype.kind == "f" for array in arrays.values()):
    raise BadInput(f"{path}: holds what are no floating-point numbers")
  variables: dict[str, Any] = {}
  # In order, so that a name comes before those that it is the beginning of; safetensors has none.
  for keys in sorted(arrays):
    branch = variables
    for key in keys[:-1]:
      branch = branch.setdefault(key, {})
      if not isinstance(branch, dict):
        raise BadInput(f"{path}: the names of its arrays contradict each other")
    with numpy_silenced():
      branch[keys[-1]] = arrays[keys].astype(np.float32)
  return variables


def _find_checkpoint(folder: Path) -> Path:
  """The checkpoint that a folder is, or the newest complete one that it holds."""
  from orbax.checkpoint import utils  # a quarter of a second, which other weights don't cost

  if not utils.is_checkpoint_finalized(folder):
    raise BadInput(f"{folder}: a checkpoint that was not written to its end")
  if (folder / EMA).is_dir():
    return folder
  inner = folder / CHECKPOINTS
  try:
    steps = [step for step in (inner if inner.is_dir() else folder).iterdir() if re.fullmatch(r"\d+", step.name)]
  except OSError as error:
    raise BadInput(f"{folder}: not a readable folder ({error.strerror})") from error
  steps = [step for step in steps if step.is_dir() and utils.is_checkpoint_finalized(step)]
  if not steps:
    raise BadInput(f"{folder}: holds no complete checkpoint of train.py")
  return max(steps, key=lambda step: int(step.name))


def _restore(checkpoint: Path):
  """The running mean of a checkpoint, into plain arrays: nothing is asked of the devices it was saved from."""
  import orbax.checkpoint as ocp
  from etils import epath

  path = checkpoint / EMA
  if not path.is_dir():
    raise BadInput(f"{checkpoint}: a checkpoint without weights (it has no {EMA!r})")
  handler, place = ocp.PyTreeCheckpointHandler(), epath.Path(path.resolve())
  with _damage_named(path):
    read_every_piece(path)
    described = handler.metadata(place).tree
    # Compared before they are read: a file decides neither what is loaded nor how much of it.
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), described)
  _check_shapes(shapes, path)
  as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray, dtype=np.float32), shapes)
  with _damage_named(path):
    variables = handler.restore(place, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
  _check_shapes(variables, path)
  check_finite(variables, path)
  _warn_of_missing_skips(checkpoint)
  return jax.device_put(variables)


def _warn_of_missing_skips(checkpoint: Path) -> None:
  """Says so where skip training had not come to its end: users of the weights have all connections on."""
  try:
    skip_steps = read_json(checkpoint / "config" / "metadata")["skip_steps"]
    on = sum(max(0, int(checkpoint.name) - 1) >= first for first in skip_steps)  # see `skip_training.skips_on`
  except (OSError, ValueError, KeyError, TypeError):  # not told: weights alone are enough
    return
  if on < NUM_LEVELS:
    logging.warning("%s: %d of %d skip connections are trained so far; all will be used", checkpoint, on, NUM_LEVELS)


def read_every_piece(path: Path) -> None:
  """Raises where a piece of a checkpoint is damaged.

  Orbax reads all arrays at once; after the first error the others would fill stderr with their complaints.
  """
  import tensorstore

  store = tensorstore.KvStore.open(
    {"driver": "ocdbt", "base": {"driver": "file", "path": f"{path.resolve()}/"}}
  ).result()
  pieces = store.list().result()
  if not pieces:
    raise ValueError("holds no arrays")
  for piece in pieces:
    store.read(piece).result()


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
  try:
    yield
  except Exception as error:  # Orbax and TensorStore answer damaged files with nearly any exception
    reason = reason_of(error)
    raise BadInput(f"{path}: damaged, or no checkpoint of train.py ({type(error).__name__}: {reason})") from error


def _check_shapes(variables, path: Path) -> None:
  """BadInput unless `variables` have exactly the names and shapes of their network."""
  for key, leaf in jax.tree_util.tree_leaves_with_path(variables):
    if 0 in leaf.shape:
      raise BadInput(f"{path}: weights of no network: {jax.tree_util.keystr(key)} has no numbers")
  try:
    network = network_for(variables)
  except ValueError as error:
    raise BadInput(f"{path}: {error}") from None
  side = network.size_multiple
  # While training ours sees a photo once, and fits no light: that is traced sooner.
  init = functools.partial(network.init, train=True)
  image, light = jnp.zeros((1, side, side, 1)), jnp.zeros((1, network.light_size))
  try:
    expected = jax.eval_shape(init, jax.random.key(0), image, light)
  except Exception as error:  # of sizes, taken from the file, that no network has: none of them, say
    raise BadInput(f"{path}: weights of no network that can be ({type(error).__name__})") from error
  check_structure(variables, expected, path)


def check_structure(variables, expected, path: Path) -> None:
  """BadInput, naming the first array that differs, unless `variables` have the names and shapes of `expected`."""
  given = {jax.tree_util.keystr(key): leaf.shape for key, leaf in jax.tree_util.tree_leaves_with_path(variables)}
  needed = {jax.tree_util.keystr(key): leaf.shape for key, leaf in jax.tree_util.tree_leaves_with_path(expected)}
  for key in sorted(given.keys() | needed.keys()):
    if given.get(key) != needed.get(key):
      raise BadInput(
        f"{path}: weights of another network: {key} is {given.get(key, 'missing')}, not {needed.get(key, 'known')}"
      )


def check_finite(variables, path: Path) -> None:
  """BadInput, naming the array, if any of `variables` holds a number that is not finite."""
  for key, leaf in jax.tree_util.tree_leaves_with_path(variables):
    if not np.isfinite(leaf).all():
      raise BadInput(f"{path}: {jax.tree_util.keystr(key)} has values that are not finite")
