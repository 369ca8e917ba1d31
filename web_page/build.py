"""Puts the page that relights portraits in the browser into a folder, ready for any server of files.

npm ci --prefix web_page && python web_page/build.py --out=site/relight

The runtime comes from the npm package `onnxruntime-web`, in the version that package.json names; the networks are made
of this package's own weights (extra onnx).
"""

import sys
from pathlib import Path

from absl import flags

if __package__ is None:  # called as a script
  sys.path.insert(0, str(Path(__file__).parent.parent))

from dpr_jax.base.command_line import run
from dpr_jax.base.errors import BadInput
from web_page.files import RUNTIME, build

_OUT = flags.DEFINE_string("out", None, "the folder to write the page into")
_RUNTIME = flags.DEFINE_string("runtime", str(RUNTIME), "the folder of the runtime's files, dist of the npm package")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace existing files")


def main() -> None:
  """Writes the page, and says how large it is."""
  if not _OUT.value:
    raise BadInput("--out is needed; --help lists all flags")
  sizes = build(Path(_OUT.value), Path(_RUNTIME.value), _OVERWRITE.value)
  print(f"{_OUT.value}: {len(sizes)} files, {sum(sizes.values()) / 1e6:.1f} MB")


if __name__ == "__main__":
  run(main)
