"""Files of others, fetched once on first use or put there by the user: public address, SHA-256 and terms of each."""

import contextlib
import dataclasses
import functools
import logging
import os
import pathlib
import queue
import sys
import threading
import time

import pooch

from dpr_jax.base.errors import BadInput


@dataclasses.dataclass(frozen=True)
class Asset:
  """A file that belongs to somebody else and is not part of this package.

  Attributes:
    name: how our code and flags call it.
    filename: its file name, in the cache and in the folders of `DPR_ASSETS`.
    url: its public address; where there is no `sha256`, the page to get it from.
    sha256: of its content, in hex; None for a file that cannot be pinned here, which only the user can supply.
    terms: one line to show the user before first use; None where the licence restricts no use.
  """

  name: str
  filename: str
  url: str
  sha256: str | None
  terms: str | None


_OFFICIAL_WEIGHTS = (
  "https://raw.githubusercontent.com/zhhoper/DPR/737efadaf09a2f0f2f8b1e7f8372c6734dfaa5bc/trained_model"
)
_OFFICIAL_TERMS = "official DPR weights, for research use only (Zhou et al., ICCV 2019)"
_RETRY_SECONDS = 24 * 3600  # between two tries to fetch a file that commands can do without
_CHUNK_BYTES = 2**16
_TDDFA = "https://raw.githubusercontent.com/cleardusk/3DDFA_V2/master"  # MIT

ASSETS = {
  asset.name: asset
  for asset in (
    Asset(
      name="official-512",
      filename="trained_model_03.t7",
      url=f"{_OFFICIAL_WEIGHTS}/trained_model_03.t7",
      sha256="950157bf950b899eba7bb1a6439d602e89fef9d180e235d034774d6d8583bc51",
      terms=_OFFICIAL_TERMS,
    ),
    Asset(
      name="official-1024",
      filename="trained_model_1024_03.t7",
      url=f"{_OFFICIAL_WEIGHTS}/trained_model_1024_03.t7",
      sha256="e2a1d88fa0f6bf8a2a284df658eaaf17eba4b818965742f885a9cce93ae1f288",
      terms=_OFFICIAL_TERMS,
    ),
    Asset(
      name="face-landmarker",
      filename="face_landmarker.task",
      url="https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task",
      sha256="64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
      terms=None,  # Apache-2.0
    ),
    Asset(
      name="person-segmenter",
      filename="selfie_segmentation.tflite",
      url="https://storage.googleapis.com/mediapipe-assets/selfie_segmentation.tflite?generation=1683332563830600",
      sha256="9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c",
      terms=None,  # Apache-2.0
    ),
    Asset(
      name="person-segmenter-multiclass",
      filename="selfie_multiclass_256x256.tflite",
      url=(
        "https://storage.googleapis.com/mediapipe-models/image_segmenter/selfie_multiclass_256x256/float32/1/"
        "selfie_multiclass_256x256.tflite"
      ),
      sha256="c6748b1253a99067ef71f7e26ca71096cd449baefa8f101900ea23016507e0e0",
      terms=None,  # Apache-2.0
    ),
    Asset(
      name="tddfa-weights",
      filename="mb1_120x120.pth",
      url=f"{_TDDFA}/weights/mb1_120x120.pth",
      sha256=None,
      terms=None,
    ),
    Asset(
      name="tddfa-weights-small",
      filename="mb05_120x120.pth",
      url=f"{_TDDFA}/weights/mb05_120x120.pth",
      sha256="f93ed7f1c4c0382b16d7c18480a5f67473c1917a47475a9823924f38aeb27280",
      terms=None,
    ),
    Asset(
      name="tddfa-stats",
      filename="param_mean_std_62d_120x120.pkl",
      url=f"{_TDDFA}/configs/param_mean_std_62d_120x120.pkl",
      sha256="090d7150f77cb66c29ddae21e4508fbde59123dcd1dea7facc24a7ed06d1c795",
      terms=None,
    ),
    Asset(
      name="tddfa-triangles",
      filename="tri.pkl",
      url=f"{_TDDFA}/configs/tri.pkl",
      sha256="0562a594d8369f7d1c86306522ff76fd3a2c81cf90ba9443893c1191ad0abbb8",
      terms=None,
    ),
    Asset(
      name="bfm",
      filename="bfm_noneck_v3.pkl",
      url=f"{_TDDFA}/configs/bfm_noneck_v3.pkl",
      sha256=None,
      terms="Basel Face Model, for research use only (Paysan et al. 2009; ask the University of Basel)",
    ),
    Asset(
      name="sfsnet",
      filename="SfSNet.pth",
      url="https://github.com/Mannix1994/SfSNet-Pytorch",
      sha256=None,
      terms="SfSNet weights, for research use only (Sengupta et al., CVPR 2018)",
    ),
  )
}


def cache_folder() -> pathlib.Path:
  """Returns where downloads and compiled code are kept: `DPR_CACHE`, or else the platform's cache folder."""
  return pathlib.Path(os.environ.get("DPR_CACHE") or pooch.os_cache("dpr_jax")).expanduser()


def asset_path(name: str) -> pathlib.Path:
  """Returns where an asset lies, fetching it first if it lies nowhere yet.

  Looked for in the folders of the environment variable `DPR_ASSETS` (separated as in `PATH`), then in
  `cache_folder()`. Its SHA-256, where known, is checked wherever it is found; a file without one is never fetched.
  Terms that restrict its use are printed to stderr, once per machine.

  Args:
    name: a key of `ASSETS`.

  Raises:
    BadInput: unknown name, a file in `DPR_ASSETS` with other content, the download fails, or only the user can supply
      it and has not.
  """
  if name not in ASSETS:
    raise BadInput(f"unknown asset {name!r}, expected one of {', '.join(ASSETS)}")
  asset = ASSETS[name]
  cache = cache_folder()
  path = _given(asset) or _fetched(asset, cache)
  _show_terms(asset, cache)
  return path


def asset_path_within(name: str, seconds: float) -> pathlib.Path:
  """As `asset_path`, for what commands can do without: fetched in a few seconds or not at all.

  A try that failed, for whatever reason, is remembered in `cache_folder()`, in `<filename>.not-fetched`, and not
  repeated for a day: a network that drops packets instead of refusing them costs its seconds once, not at every start.

  Args:
    name: a key of `ASSETS` whose SHA-256 is known.
    seconds: how long fetching may take, from looking up the host's name to the last byte.

  Raises:
    BadInput: as `asset_path`; or the file lies nowhere and a try less than a day ago failed.
  """
  asset, cache = ASSETS[name], cache_folder()
  if path := _given(asset) or _cached(asset, cache):
    return path
  note = cache / f"{asset.filename}.not-fetched"
  with contextlib.suppress(OSError):
    if 0 <= time.time() - note.stat().st_mtime < _RETRY_SECONDS:
      raise BadInput(f"{note.read_text(encoding='utf-8')}; the next try is a day after that one")
  try:
    with _unannounced():
      path = pooch.retrieve(asset.url, f"sha256:{asset.sha256}", asset.filename, cache, downloader=_Downloader(seconds))
  except (OSError, ValueError) as error:
    problem = f"{asset.filename} cannot be fetched ({type(error).__name__})"
    with contextlib.suppress(OSError):
      cache.mkdir(parents=True, exist_ok=True)
      note.write_text(problem, encoding="utf-8")
    raise BadInput(problem) from None
  note.unlink(missing_ok=True)
  print(f"fetched {asset.filename} from {asset.url}", file=sys.stderr)
  return pathlib.Path(path)


def asset_at_hand(name: str) -> pathlib.Path | None:
  """Where an asset whose SHA-256 is known lies already; None if it would have to be fetched.

  Raises:
    BadInput: a file in `DPR_ASSETS` with other content.
  """
  return _given(ASSETS[name]) or _cached(ASSETS[name], cache_folder())


def _cached(asset: Asset, cache: pathlib.Path) -> pathlib.Path | None:
  path = cache / asset.filename
  return path if os.path.isfile(path) and _sha256(path) == asset.sha256 else None


class _Downloader:
  """Fetches a file for `pooch.retrieve` in so many seconds or raises TimeoutError.

  The timeouts of sockets alone would not do: looking up a name has none, and every address of a host is tried in turn.
  """

  def __init__(self, seconds: float):
    self._seconds = seconds

  def __call__(self, url: str, output_file: str, pooch: object) -> None:
    answer: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()
    # As a daemon, it holds nobody up who has stopped waiting for it.
    threading.Thread(target=self._answer, args=(url, answer), daemon=True).start()
    try:
      content = answer.get(timeout=self._seconds)
    except queue.Empty:
      raise TimeoutError(f"not there after {self._seconds:g} seconds") from None
    if isinstance(content, Exception):
      raise content
    pathlib.Path(output_file).write_bytes(content)

  def _answer(self, url: str, answer: queue.SimpleQueue) -> None:
    import requests  # which pooch, too, imports only where it fetches

    try:
      until = time.monotonic() + self._seconds
      with requests.get(url, timeout=self._seconds, stream=True) as response:
        response.raise_for_status()
        chunks = []
        for chunk in response.iter_content(_CHUNK_BYTES):
          chunks.append(chunk)
          if time.monotonic() > until:
            return
      answer.put(b"".join(chunks))
    except Exception as error:
      answer.put(error)


@contextlib.contextmanager
def _unannounced():
  """Without pooch's own notice: whether anything has come of it is told afterwards."""
  logger = pooch.get_logger()
  level = logger.level
  logger.setLevel(logging.WARNING)
  try:
    yield
  finally:
    logger.setLevel(level)


def _given(asset: Asset) -> pathlib.Path | None:
  for folder in filter(None, os.environ.get("DPR_ASSETS", "").split(os.pathsep)):
    path = pathlib.Path(folder).expanduser() / asset.filename
    if os.path.isfile(path):
      if asset.sha256 and (sha256 := _sha256(path)) != asset.sha256:
        raise BadInput(f"{path}: not the expected file, its SHA-256 is {sha256}, expected {asset.sha256}")
      return path
  return None


def _fetched(asset: Asset, cache: pathlib.Path) -> pathlib.Path:
  if asset.sha256 is None:
    path = cache / asset.filename
    if not os.path.isfile(path):
      raise BadInput(
        f"{asset.filename}: not here; get it from {asset.url} and put it into {cache}, or into a folder that "
        "DPR_ASSETS names"
      )
    return path
  try:
    # Does nothing where the cache has the file already. Else writes to a temporary name, checks the hash, renames.
    path = pooch.retrieve(asset.url, f"sha256:{asset.sha256}", asset.filename, cache, progressbar=sys.stderr.isatty())
  except (OSError, ValueError) as error:  # requests' errors are OSErrors, a wrong hash is a ValueError
    reason = type(error).__name__ if isinstance(error, OSError) else "another file came"
    raise BadInput(
      f"{asset.filename}: cannot be fetched from {asset.url} ({reason}); put it into {cache}, or into a folder that "
      "DPR_ASSETS names"
    ) from None
  return pathlib.Path(path)


def _sha256(path: pathlib.Path) -> str:
  try:
    status = path.stat()
    return _hash_once(path, status.st_mtime_ns, status.st_size)
  except OSError as error:
    raise BadInput(f"{path}: cannot be read ({error.strerror})") from None


@functools.cache
def _hash_once(path: pathlib.Path, mtime_ns: int, size: int) -> str:
  """Hashes a file once per process, and again only if it has changed."""
  return pooch.file_hash(str(path))


def _show_terms(asset: Asset, cache: pathlib.Path) -> None:
  shown = cache / f"{asset.filename}.terms-shown"
  if asset.terms is None or os.path.exists(shown):
    return
  with contextlib.suppress(OSError):  # where the cache cannot be written: once per process
    cache.mkdir(parents=True, exist_ok=True)
    shown.touch()
  _print_once(f"{asset.name}: {asset.terms}")


@functools.cache
def _print_once(line: str) -> None:
  print(line, file=sys.stderr)
