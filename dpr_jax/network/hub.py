"""Weights on the Hugging Face hub (extra `hub`): `hf:OWNER/NAME`, or `hf:OWNER/NAME@REVISION`.

A revision is a branch, a tag or a commit. A repository holds its weights as `model.safetensors`; nothing else of it is
ever read. `HF_ENDPOINT` names another server, `HF_TOKEN` who asks, as for all programs that use the hub.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import dpr_jax
from dpr_jax.base.errors import BadInput, reason_of

PREFIX = "hf:"
FILE = "model.safetensors"

_ADDRESS = re.compile(rf"{PREFIX}([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_LARGEST_DOWNLOAD = 2**28  # bytes, as weights in a file may have


def fetch(address: str) -> Path:
  """The weights of a repository, fetched into the hub's own cache unless that has them.

  Args:
    address: `hf:OWNER/NAME` or `hf:OWNER/NAME@REVISION`.

  Raises:
    BadInput: no such repository or file, a file that is larger than any weights, or no answer and nothing in the cache.
    ModuleNotFoundError: the extra `hub` is not installed.
  """
  repository, revision = _parsed(address)
  hub = _hub()
  with _refusal_named(address):
    size = hub.hf_hub_download(repository, FILE, revision=revision, dry_run=True).file_size
    if size > _LARGEST_DOWNLOAD:
      raise BadInput(f"{address}: {FILE} has {size} bytes, more than any weights have")
    # By its name, not by the commit that was looked at: the cache would not learn which commit the name stands for, and
    # nothing would be found without a network. Where the branch moves meanwhile, `load_params` looks at the size again.
    return Path(hub.hf_hub_download(repository, FILE, revision=revision))


def push(address: str, weights: Path, card: Path | None = None) -> str:
  """Puts weights into a repository, which is made first if there is none: a private one.

  Args:
    address: `hf:OWNER/NAME`, or with the branch to commit to.
    weights: a safetensors file.
    card: what becomes the repository's `README.md`; None leaves the one that it has.

  Returns:
    The address of the commit, for a browser.

  Raises:
    BadInput: no such card, no leave to write there, or no answer.
    ModuleNotFoundError: the extra `hub` is not installed.
  """
  repository, revision = _parsed(address)
  hub = _hub()
  from huggingface_hub import CommitOperationAdd

  if card is not None and not card.is_file():
    raise BadInput(f"{card}: no such file")
  files = {FILE: weights} | ({"README.md": card} if card is not None else {})
  with _refusal_named(address):
    hub.create_repo(repository, private=True, exist_ok=True)
    additions = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
    return hub.create_commit(
      repository, additions, commit_message=f"Weights of dpr_jax {dpr_jax.__version__}", revision=revision
    ).commit_url


def check(address: str) -> None:
  """Raises BadInput unless that is how a repository is named, and ModuleNotFoundError without the extra `hub`."""
  _parsed(address)
  _hub()


def _parsed(address: str) -> tuple[str, str | None]:
  """Repository and revision."""
  match = _ADDRESS.fullmatch(address)
  if not match:
    raise BadInput(f"weights {address!r}: a repository of the Hugging Face hub is named {PREFIX}OWNER/NAME[@REVISION]")
  return match[1], match[2]


def _hub():
  from huggingface_hub import HfApi

  # The library reads the variable too, but as late as this only here.
  endpoint = os.environ.get("HF_ENDPOINT") or None
  return HfApi(endpoint=endpoint, library_name="dpr_jax", library_version=dpr_jax.__version__)


@contextlib.contextmanager
def _refusal_named(address: str) -> Iterator[None]:
  try:
    yield
  except BadInput:
    raise
  except Exception as error:  # the hub's own, its HTTP client's, the system's
    reason = reason_of(error)
    raise BadInput(
      f"{address}: the Hugging Face hub refuses or is out of reach ({type(error).__name__}: {reason})"
    ) from error
