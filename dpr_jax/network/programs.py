"""Compiled programs in files, so that a second process need neither trace, lower nor compile them.

JAX's own cache of what is compiled is asked with the lowered program: to lower a trace that was kept takes longer than
to run it, and imports SciPy's linear algebra for a network that needs none. A file here holds what XLA makes of a
program for processors of one kind, and the structure of what the program returns. Like JAX's cache it is code that
gets executed: it lies in a folder of the user's own.
"""

import atexit
import concurrent.futures
import contextlib
import functools
import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jaxlib
import numpy as np

from dpr_jax.base.errors import BadInput
from dpr_jax.base.output_files import atomic_output

_HEADER = b"dpr_jax program 2"
_RECENT = "recent.json"  # names of the programs that the last process used, in order
_MOST_RECENT = 24


class Programs:
  """The programs of one process."""

  def __init__(self, containers: Sequence[type]):
    """Knows what programs may return.

    Args:
      containers: classes of named tuples; arrays and plain tuples need not be named.
    """
    self._containers = {container.__name__: container for container in containers}
    self._ahead: dict[Path, concurrent.futures.Future] = {}
    self._used: list[str] = []

  def are_kept(self) -> bool:
    """Whether programs are kept for this process's device: the processor, as long as it is taken for one device."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1

  def file_of(self, trace: Path, options: tuple) -> Path:
    """Where the program of a trace lies that was compiled with these options."""
    told = (options, jax.__version__, jaxlib.__version__, _processor())
    return trace.with_name(f"{trace.name}.{hashlib.sha256(repr(told).encode()).hexdigest()[:16]}.program")

  def read(self, file: Path) -> Callable | None:
    """The program of a file; None where there is none that can be read."""
    self._used.append(file.name)
    if file in self._ahead:
      return self._ahead[file].result()
    return self._load(file)

  def write(self, file: Path, compiled: jax.stages.Compiled, shapes) -> None:
    """Writes a program for the next process, where that is possible.

    Args:
      file: where to.
      compiled: the program; it must have been compiled by this process.
      shapes: of its arguments.
    """
    structure = self._describe(jax.tree.unflatten(compiled.out_tree, range(compiled.out_tree.num_leaves)))
    try:
      program = json.dumps(structure).encode() + b"\n" + compiled.runtime_executable().serialize()
    except Exception:  # JAX promises none of this: another one may not do it, or by another name
      return
    with contextlib.suppress(BadInput), atomic_output(file, overwrite=True) as aside:
      aside.write_bytes(b"\n".join([_HEADER, _digest(program), program]))
      # Tried before anybody relies on it.
      loaded = self._load(aside)
      if loaded is None or not _runs(loaded, shapes):
        raise BadInput(f"{file}: cannot be read again")

  def load_ahead(self, folder: Path) -> None:
    """Begins to load what the last process used, in another thread: most of that needs no Python."""
    try:
      recent = json.loads((folder / _RECENT).read_bytes())
      files = [folder / Path(str(name)).name for name in recent]
    except (OSError, ValueError, TypeError):
      recent, files = [], []
    thread = concurrent.futures.ThreadPoolExecutor(1)
    self._ahead = {file: thread.submit(self._load, file) for file in files}
    atexit.register(self._note, folder, recent)

  def _note(self, folder: Path, recent: list) -> None:
    """Writes down for the next process what this one used."""
    if self._used and self._used[:_MOST_RECENT] != recent:
      with contextlib.suppress(BadInput), atomic_output(folder / _RECENT, overwrite=True) as aside:
        aside.write_text(json.dumps(self._used[:_MOST_RECENT]), encoding="utf-8")

  def _load(self, file: Path) -> Callable | None:
    try:
      header, digest, program = file.read_bytes().split(b"\n", 2)
      if header != _HEADER or digest != _digest(program):
        return None
      structure, executable = program.split(b"\n", 1)
      device = jax.devices()[0]
      loaded = device.client.deserialize_executable(executable, executable_devices=_one(device), compile_options=None)
      return functools.partial(self._run, loaded, json.loads(structure), device)
    except Exception:  # no such file, one that is damaged, or another JAX than this was written for
      return None

  def _run(self, loaded, structure, device: jax.Device, *arguments):
    arrays = loaded.execute(jax.device_put(jax.tree.leaves(arguments), device))
    return self._assemble(structure, arrays)

  def _describe(self, part) -> int | list:
    """Numbered leaves in containers as JSON: a number, or a container's name and its parts."""
    if isinstance(part, int):
      return part
    name = type(part).__name__
    assert type(part) is tuple or name in self._containers, name
    return [name, *map(self._describe, part)]

  def _assemble(self, structure: int | list, arrays: Sequence[jax.Array]):
    if isinstance(structure, int):
      return arrays[structure]
    name, *described = structure
    parts = [self._assemble(each, arrays) for each in described]
    return self._containers[name](*parts) if name in self._containers else tuple(parts)


def _runs(program: Callable, shapes) -> bool:
  try:
    jax.block_until_ready(program(*jax.tree.map(lambda shape: np.zeros(shape.shape, shape.dtype), shapes)))
  except jax.errors.JaxRuntimeError:
    return False
  return True


def _digest(program: bytes) -> bytes:
  """What tells a damaged file, which XLA may crash on, from a whole one."""
  return hashlib.sha256(program).hexdigest().encode()


def _one(device: jax.Device):
  """A single device, as XLA takes a list of them."""
  from jaxlib import xla_client

  return xla_client.DeviceList((device,))


@functools.cache
def _processor() -> str:
  """The kind of processor, and what it can do: XLA compiles for that."""
  with contextlib.suppress(OSError):
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith(("model", "flags", "Features", "CPU ", "isa")))
  return f"{platform.machine()} {platform.processor()}"
