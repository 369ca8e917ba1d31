"""What `mkdocs build` (mkdocs.yml) does beside its plugins.

The pages that lie above docs/ become pages of the site, and the page that relights in the browser becomes part of it.
"""

import logging
import re
import sys
from pathlib import Path

from mkdocs.structure.files import File

ABOVE = ("README.md", "BUILD_NOTES.md", "MODEL_CARD.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
FOLDER = "project"
RELIGHT = "relight"  # of the page of web_page/


def on_files(files, config):
  """Adds them, in a folder of their own: docs/ has a README.md too."""
  root = Path(config.config_file_path).parent
  for name in ABOVE:
    files.append(File.generated(config, f"{FOLDER}/{name}", content=(root / name).read_text(encoding="utf-8")))
  return files


def on_page_markdown(markdown, page, config, files):
  """Points links at where the pages lie in the site; those to files that are no pages become plain text."""
  above = page.file.src_uri.startswith(f"{FOLDER}/")

  def place(match):
    text, target, anchor = match.groups(default="")
    if above and target.startswith("docs/"):
      target = f"../{target.removeprefix('docs/')}"
    elif not above and target.removeprefix("../") in ABOVE:
      target = f"{FOLDER}/{target.removeprefix('../')}"
    elif above and target not in ABOVE:
      return text
    return f"[{text}]({target}{anchor})"

  return re.sub(r"\[([^]]*)\]\((?!https?:|#)([^)#\s]+)(#[^)]*)?\)", place, markdown)


def on_post_build(config):
  """Puts the page that relights in the browser into the site, where its runtime was installed."""
  root = Path(config.config_file_path).parent
  if not (root / "web_page" / "node_modules").is_dir():
    logging.getLogger("mkdocs").info("%s/ is left out of the site (npm ci --prefix web_page)", RELIGHT)
    return
  sys.path.insert(0, str(root))
  from dpr_jax.base.errors import BadInput
  from web_page.files import build

  try:
    build(Path(config.site_dir) / RELIGHT, overwrite=True)
  except BadInput as error:
    logging.getLogger("mkdocs").warning("%s/ is left out of the site (%s)", RELIGHT, error)
