"""The files of the page that relights portraits in the browser: its sources, the runtime and the networks."""

import json
from pathlib import Path

from dpr_jax.base.errors import BadInput
from dpr_jax.base.output_files import atomic_output, check_free
from web_page import models

HERE = Path(__file__).parent
PAGE = HERE / "page"
RUNTIME = HERE / "node_modules" / "onnxruntime-web" / "dist"
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


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
  for name in sources:
    check_free(out / name, overwrite)
  contents = {name: path.read_bytes() for name, path in sources.items()}
  contents["models/face.json"] = json.dumps(models.face_numbers(), separators=(",", ":")).encode()
  contents["models/example.jpg"] = _example()
  for name, part in models.parts().items():
    contents[f"models/{name}.onnx"] = models.model(part)
  for name in contents:
    check_free(out / name, overwrite)
  for name, content in contents.items():
    with atomic_output(out / name, overwrite) as aside:
      aside.write_bytes(content)
  return {name: len(content) for name, content in contents.items()}


def _example() -> bytes:
  """A portrait in the public domain, as a JPEG."""
  import cv2
  from skimage import data

  return cv2.imencode(".jpg", data.astronaut()[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
