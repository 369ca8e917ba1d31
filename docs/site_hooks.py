"""What `mkdocs build` (mkdocs.yml) does beside its plugins: the pages that lie above docs/ become pages of the site."""

import re
from pathlib import Path

from mkdocs.structure.files import File

ABOVE = ("README.md", "BUILD_NOTES.md", "MODEL_CARD.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
FOLDER = "project"


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
