"""Puts the page that relights portraits in the browser into a folder, ready for any server of files.

npm ci --prefix web_page && python web_page/build.py --out=site/relight

The runtime comes from the npm package `onnxruntime-web`, in the version that package.json names; the networks are made
of this package's own weights (extra onnx).
"""

import json
import sys
from pathlib import Path

from absl import flags

if __package__ is None:  # called as a script
  sys.path.insert(0, str(Path(__file__).parent.parent))

from dpr_jax.base.command_line import run
from dpr_jax.base.errors import BadInput
from dpr_jax.base.output_files import atomic_output, check_free
from web_page import models

HERE = Path(__file__).parent
PAGE = HERE / "page"
RUNTIME = HERE / "node_modules" / "onnxruntime-web" / "dist"
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")

_OUT = flags.DEFINE_string("out", None, "the folder to write the page into")
_RUNTIME = flags.DEFINE_string("runtime", str(RUNTIME), "the folder of the runtime's files, dist of the npm package")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace existing files")


def build(out: Path, runtime: Path = RUNTIME, overwrite: bool = False) -> dict[str, int]:
  """Writes the page.

  Args:
    out: the folder; made where it is missing.
    runtime: where the files of `onnxruntime-web` lie.
    overwrite: whether files there may be replaced.

  Returns:
    The size of each file in bytes, by its path in the folder.

  Raises:
    BadInput: no runtime, the extra `onnx` is not installed, or a file that exists.
  """
  if missing := [name for name in RUNTIME_FILES if not (runtime / name).is_file()]:
    raise BadInput(f"{runtime / missing[0]}: missing (npm ci --prefix web_page)")
  sources = {path.name: path for path in sorted(PAGE.iterdir())}
  sources |= {f"runtime/{name}": runtime / name for name in RUNTIME_FILES}
  for name in (*sources, "models/face.json"):
    check_free(out / name, overwrite)
  contents = {name: path.read_bytes() for name, path in sources.items()}
  contents["models/face.json"] = json.dumps(models.face_numbers(), separators=(",", ":")).encode()
  contents["models/example.jpg"] = _example()
  for name, part in models.parts().items():
    contents[f"models/{name}.onnx"] = models.model(part)
  for name, content in contents.items():
    with atomic_output(out / name, overwrite) as aside:
      aside.write_bytes(content)
  return {name: len(content) for name, content in contents.items()}


def _example() -> bytes:
  """A portrait in the public domain, as a JPEG."""
  import cv2
  from skimage import data

  return cv2.imencode(".jpg", data.astronaut()[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()


def main() -> None:
  """Writes the page, and says how large it is."""
  if not _OUT.value:
    raise BadInput("--out is needed; --help lists all flags")
  sizes = build(Path(_OUT.value), Path(_RUNTIME.value), _OVERWRITE.value)
  print(f"{_OUT.value}: {len(sizes)} files, {sum(sizes.values()) / 1e6:.1f} MB")


if __name__ == "__main__":
  run(main)
