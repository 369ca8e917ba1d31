"""From portraits and heads to the packaged `face_finder.npz`, stage by stage, each kept in a folder once it is done."""

import dataclasses
import functools
import json
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import skimage
from absl import logging

from data_gen.face_finder import training
from data_gen.face_finder.examples import Examples, FaceExample, face_example, in_background
from data_gen.face_finder.patterns import draw_pattern
from data_gen.face_finder.teacher import LabelledPortrait, label_portraits, split_portraits
from data_gen.face_mesh import face_maps
from data_gen.heads.rendering import HeadModel, draw_head, load_head_model
from data_gen.heads.texture import portrait_texture
from data_gen.normals import fill_to_frame
from dpr_jax.base.errors import BadInput
from dpr_jax.base.native_libraries import import_native
from dpr_jax.base.output_files import atomic_output
from dpr_jax.image.photo import read_photo, to_8_bits
from dpr_jax.image.photo_formats import PHOTO_SUFFIXES
from dpr_jax.light.environment_files import read_environment
from dpr_jax.network.weights import read_archive, save_params
from dpr_jax.portrait.canonical_face import mirrored_landmarks
from dpr_jax.portrait.embedded_faces import EmbeddedFaceFinder, FaceSquare, detector_squares, face_square, shrunk
from dpr_jax.portrait.face_networks import FaceDetector, FaceLandmarker
from dpr_jax.portrait.face_scales import LANDMARK_SIZE
from dpr_jax.portrait.faces import Face, overlap
from dpr_jax.portrait.mediapipe_faces import MediaPipeFaceFinder

cv2 = import_native("cv2")

# Pictures without a face that scikit-image's wheel brings.
_SCIKIT_IMAGES = (
  *("brick", "cell", "chelsea", "coffee", "coins", "color", "grass", "gravel", "horse", "hubble_deep_field", "ihc"),
  *("logo", "moon", "motorcycle_left", "page", "retina", "rocket", "text"),
)  # fmt: skip
_HEAD_SIZE = 192
_HEADS_A_FILE = 500
_MOST_NEGATIVES = 6000
_NEARLY = -3.0  # log odds from which on a square without a face is worth learning from
_PATTERNS, _PATTERN_SIZE = 200, (480, 640)
_EMPTY_IN_ROUND_TWO = 0.35
_BESIDE = 0.25  # overlap with the face up to which a square shows no face


@dataclasses.dataclass(frozen=True)
class Recipe:
  """What the face finder is made from, and for how long.

  Attributes:
    portraits: folder of photos with one face each; those whose names fall into a held-out split are not learnt from.
    heads: folder of `ict_facekit.npz` and `makehuman_hair/`, see `data_gen.heads`; None learns from portraits alone.
    environments: folder of latitude-longitude `.hdr` maps, which light the heads and lie behind faces; or None.
    backgrounds: folder of photos without any face, beside those of scikit-image; or None.
    head_count: rendered heads.
    detector_steps: of the detector's training.
    landmark_steps: of the landmark network's training.
    batch: pictures a step.
    seed: of every draw.
  """

  portraits: Path
  heads: Path | None = None
  environments: Path | None = None
  backgrounds: Path | None = None
  head_count: int = 6000
  detector_steps: int = 3500
  landmark_steps: int = 4500
  batch: int = 64
  seed: int = 0


def make_face_finder(recipe: Recipe, workdir: Path, out: Path, *, workers: int = 1, overwrite: bool = False) -> None:
  """Makes the weights of `dpr_jax.portrait.embedded_faces`.

  A stage whose result lies in `workdir` is not done again: the command goes on after an interruption.

  Args:
    recipe: of the weights.
    workdir: holds the results of the stages, of one recipe.
    out: the archive, `.npz`.
    workers: processes that render heads; their number does not change the result.
    overwrite: replace `out`.

  Raises:
    BadInput: a folder without portraits, a file of the heads that is missing, MediaPipe that is not at hand, or a
      workdir that was begun with another recipe.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  _check_settings(recipe, workdir / "recipe.json")
  portraits = _kept(workdir / "portraits.npz", functools.partial(_portrait_stage, recipe))
  _head_stage(recipe, workdir, portraits, workers)
  backgrounds = list(_backgrounds(recipe))
  turned = [turn for each in backgrounds for turn in (each, each[::-1, ::-1], np.rot90(each))]
  drawn_from = (_portrait_examples(portraits), _head_examples(workdir), backgrounds, mirrored_landmarks())

  def examples(stage: int, **options) -> Examples:
    # A stage draws the same whether those before it were done just now or long ago.
    return Examples(np.random.default_rng([recipe.seed, 1, stage]), *drawn_from, **options)

  detector = _trained(workdir / "detector.npz", lambda save: _train_detector(recipe, examples(0), save))
  negatives = _kept(workdir / "negatives.npz", lambda: {"squares": hard_negatives(detector, turned, _pairs(portraits))})
  first = examples(1, hard_negatives=negatives["squares"])
  landmarker = _trained(workdir / "landmarker.npz", lambda save: _train_landmarker(recipe, first, save))
  variables = {"detector": detector, "landmarker": landmarker, "partner": mirrored_landmarks()}
  negatives = _kept(
    workdir / "negatives-2.npz",
    lambda: {"squares": false_faces(variables, [*turned, *_patterns(recipe)], _pairs(portraits))},
  )
  second = examples(2, hard_negatives=negatives["squares"], empty=_EMPTY_IN_ROUND_TWO)
  landmarker = _trained(workdir / "landmarker-2.npz", lambda save: _train_again(recipe, second, landmarker, save))
  partner = mirrored_landmarks().astype(np.float32)
  save_params(out, {"detector": detector, "landmarker": landmarker, "partner": partner}, overwrite=overwrite)


def _check_settings(recipe: Recipe, path: Path) -> None:
  """Writes the recipe into a new workdir, or BadInput where the workdir holds the stages of another one."""
  settings = {name: value if value is None else str(value) for name, value in dataclasses.asdict(recipe).items()}
  if not path.is_file():
    with atomic_output(path, overwrite=False) as temporary:
      temporary.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    return
  try:
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = [name for name in settings if before.get(name) != settings[name]]
  except (OSError, ValueError, AttributeError) as error:
    raise BadInput(f"{path}: cannot be read ({error})") from error
  if changed:
    name = changed[0]
    raise BadInput(
      f"{path.parent}: begun with --{name}={before.get(name)}, not {settings[name]}; take another --workdir"
    )


# ---------------------------------------------------------------------------------------------------------------------
# What is learnt from.


def _portrait_stage(recipe: Recipe) -> dict[str, np.ndarray]:
  """Portraits, MediaPipe's landmarks and the normals of its mesh, one array each: `p00000`, `l00000`, `n00000`."""
  paths, _ = split_portraits(recipe.portraits)
  with MediaPipeFaceFinder() as finder:
    labelled = label_portraits(paths, finder)
  if not labelled:
    raise BadInput(f"{recipe.portraits}: holds no portrait to learn from")
  logging.info("%d of %d portraits have one face", len(labelled), len(paths))
  arrays = {}
  for i, portrait in enumerate(labelled):
    arrays |= {f"p{i:05d}": portrait.pixels, f"l{i:05d}": portrait.points, f"n{i:05d}": _normals(portrait)}
  return arrays


def _normals(portrait: LabelledPortrait) -> np.ndarray:
  maps = face_maps(portrait.pixels, _face(portrait.points))
  return fill_to_frame(maps.normal, (maps.label > 0) & (maps.normal[..., 1] < 0)).astype(np.float16)


def _face(points: np.ndarray) -> Face:
  return Face(points[:, :2].astype(float), points[:, 2].astype(float))


def _portrait_examples(portraits: dict[str, np.ndarray]) -> list[FaceExample]:
  return [face_example(*(portraits[kind + name] for kind in "pln")) for name in _names(portraits)]


def _pairs(portraits: dict[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
  """Pixels and landmarks."""
  return [(portraits[f"p{name}"], portraits[f"l{name}"]) for name in _names(portraits)]


def _names(portraits: dict[str, np.ndarray]) -> list[str]:
  return sorted(name[1:] for name in portraits if name.startswith("p"))


def _head_stage(recipe: Recipe, workdir: Path, portraits: dict[str, np.ndarray], workers: int) -> None:
  """Renders heads into files of some hundreds, `heads-00000.npz` and so on."""
  if recipe.heads is None:
    return
  missing = []
  for start in range(0, recipe.head_count, _HEADS_A_FILE):
    path = workdir / f"heads-{start:05d}.npz"
    if not path.is_file():
      missing.append((path, range(start, min(start + _HEADS_A_FILE, recipe.head_count))))
  if missing:
    with ProcessPoolExecutor(
      workers,
      mp_context=multiprocessing.get_context("spawn"),  # JAX and MediaPipe have threads, which don't survive a fork
      initializer=_open_heads,
      initargs=(recipe, _pairs(portraits)),
    ) as pool:
      for _ in pool.map(_render_heads, *zip(*missing, strict=True)):
        pass


_opened: tuple[Recipe, HeadModel, list] | None = None  # of a process that renders heads


def _open_heads(recipe: Recipe, faces: list[tuple[np.ndarray, np.ndarray]]) -> None:
  global _opened
  cv2.setNumThreads(1)
  _opened = recipe, load_head_model(recipe.heads, recipe.environments), faces


def _render_heads(path: Path, numbers: range) -> None:
  recipe, model, faces = _opened
  pictures, landmarks = [], []
  for number in numbers:
    rng = np.random.default_rng([recipe.seed, 2, number])
    yaw = rng.uniform(-70, 70) if rng.random() < 0.6 else rng.uniform(-20, 20)
    pitch = float(np.clip(rng.normal(0, 12), -35, 35))
    texture = None
    if rng.random() < 0.6:
      pixels, points = faces[rng.integers(len(faces))]
      texture = portrait_texture(model.head, model.regions, model.landmarks, pixels, _face(points))
    head = draw_head(rng, model, size=_HEAD_SIZE, yaw=yaw, pitch=pitch, roll=0.0, portrait=texture)
    pictures.append(head.rgba)
    landmarks.append(head.landmarks.astype(np.float32))
  _write(path, {"pictures": np.stack(pictures), "landmarks": np.stack(landmarks)})


def _head_examples(workdir: Path) -> list[FaceExample]:
  examples = []
  for path in sorted(workdir.glob("heads-*.npz")):
    arrays = _read(path)
    examples += [face_example(*pair) for pair in zip(arrays["pictures"], arrays["landmarks"], strict=True)]
  return examples


def _backgrounds(recipe: Recipe) -> Iterator[np.ndarray]:
  """Pictures without faces, `[H, W, 3]` uint8."""
  folder = Path(skimage.__file__).parent / "data"
  for name in _SCIKIT_IMAGES:
    for path in sorted(folder.glob(f"{name}.*")):
      if path.suffix in (".png", ".jpg"):
        yield cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
  if recipe.environments:
    for path in sorted(Path(recipe.environments).glob("*.hdr")):
      linear = np.ascontiguousarray(read_environment(path))
      yield np.round(255 * np.clip(linear / np.percentile(linear, 90), 0, 1) ** (1 / 2.2)).astype(np.uint8)
  if recipe.backgrounds:
    for path in sorted(Path(recipe.backgrounds).rglob("*")):
      if path.suffix.lower() in PHOTO_SUFFIXES:
        yield to_8_bits(read_photo(path).pixels)


def hard_negatives(
  detector, backgrounds: Iterable[np.ndarray], portraits: Sequence[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
  """What the detector takes for a face where there is none: in backgrounds, and beside the face of a portrait.

  Args:
    detector: its variables.
    backgrounds: `[H, W, 3]` uint8, without a face.
    portraits: pixels and landmarks.

  Returns:
    `[N, 128, 128]` uint8 luminance, at most some thousands, in random order.
  """
  return _mined(functools.partial(detector_squares, detector), backgrounds, portraits)


def false_faces(
  variables, backgrounds: Iterable[np.ndarray], portraits: Sequence[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
  """`hard_negatives`, but of the landmark network: squares that both networks have passed, or nearly."""
  finder = EmbeddedFaceFinder(variables)

  def passed(picture: np.ndarray) -> list[FaceSquare]:
    squares = detector_squares(variables["detector"], picture)
    looks = finder.look(picture, squares)
    return [square for square, (_, logit) in zip(squares, looks, strict=True) if logit > _NEARLY]

  return _mined(passed, backgrounds, portraits)


def _mined(
  propose: Callable[[np.ndarray], list[FaceSquare]],
  backgrounds: Iterable[np.ndarray],
  portraits: Sequence[tuple[np.ndarray, np.ndarray]],
) -> np.ndarray:
  squares = []

  def look(pixels: np.ndarray, points: np.ndarray | None = None) -> None:
    picture = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    face = None if points is None else face_square(points[:, :2])
    for square in propose(picture):
      if face is None or overlap(square.box, face.box) < _BESIDE:
        squares.append(shrunk(picture, square.crop(LANDMARK_SIZE), LANDMARK_SIZE))

  for background in backgrounds:
    look(background)
  for pixels, points in portraits:
    look(pixels, points)
  order = np.random.default_rng(0).permutation(len(squares))[:_MOST_NEGATIVES]
  return np.array([squares[i] for i in order], np.uint8).reshape(-1, LANDMARK_SIZE, LANDMARK_SIZE)


def _patterns(recipe: Recipe) -> Iterator[np.ndarray]:
  rng = np.random.default_rng([recipe.seed, 3])
  for _ in range(_PATTERNS):
    luminance = np.round(255 * draw_pattern(rng, *_PATTERN_SIZE)).astype(np.uint8)
    yield np.repeat(luminance[..., None], 3, axis=2)


# ---------------------------------------------------------------------------------------------------------------------
# Training.


def _train_detector(recipe: Recipe, examples: Examples, save: Callable):
  network, steps = FaceDetector(train=True), recipe.detector_steps
  variables = network.init(jax.random.key(recipe.seed), jnp.asarray(examples.detector_batch(2).luminance))
  bias = variables["params"]["Conv_0"]["bias"]
  variables["params"]["Conv_0"]["bias"] = bias.at[0].set(training.RARE)
  batches = in_background(examples.detector_batch(recipe.batch) for _ in range(steps))
  loss, weights = training.detector_loss, training.DETECTOR_WEIGHTS
  return training.train(network, variables, batches, loss, weights, steps=steps, learning_rate=3e-3, save=save)


def _train_landmarker(recipe: Recipe, examples: Examples, save: Callable):
  network = FaceLandmarker(train=True)
  variables = network.init(jax.random.key(recipe.seed), jnp.asarray(examples.landmark_batch(2).luminance))
  # Begins at the mean face, not at a point.
  drawn = [examples.landmark_batch(recipe.batch) for _ in range(4)]
  mean = np.mean(np.concatenate([batch.points[batch.present == 1] for batch in drawn]), axis=0)
  last = variables["params"]["points"]
  variables["params"]["points"] = {"kernel": 0.1 * last["kernel"], "bias": jnp.asarray(mean.ravel())}
  return _improve(recipe, examples, variables, recipe.landmark_steps, 2e-3, save)


def _train_again(recipe: Recipe, examples: Examples, landmarker, save: Callable):
  """A second, shorter round, whose pictures without faces are those that took in the first one."""
  return _improve(recipe, examples, landmarker, max(1, recipe.landmark_steps // 5), 4e-4, save)


def _improve(recipe: Recipe, examples: Examples, landmarker, steps: int, learning_rate: float, save: Callable):
  network = FaceLandmarker(train=True)
  batches = in_background(examples.landmark_batch(recipe.batch) for _ in range(steps))
  loss, weights = training.landmark_loss, training.LANDMARK_WEIGHTS
  return training.train(
    network, landmarker, batches, loss, weights, steps=steps, learning_rate=learning_rate, save=save
  )


# ---------------------------------------------------------------------------------------------------------------------
# Results of stages.


def _trained(path: Path, train: Callable):
  """The variables in an archive, or those of a training, which then lie there."""
  if not path.is_file():
    part = path.with_name(f"{path.stem}-part.npz")
    save_params(path, train(lambda variables: save_params(part, variables, overwrite=True)))
    part.unlink(missing_ok=True)
  return jax.tree.map(jnp.asarray, read_archive(path))


def _kept(path: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  """The arrays in a file, or those that `make` returns, which then lie there."""
  if not path.is_file():
    _write(path, make())
  return _read(path)


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
  with atomic_output(path, overwrite=True) as temporary, temporary.open("wb") as file:
    np.savez(file, **arrays)


def _read(path: Path) -> dict[str, np.ndarray]:
  try:
    with np.load(path, allow_pickle=False) as archive:
      return {name: archive[name] for name in archive.files}
  except (OSError, ValueError) as error:
    raise BadInput(f"{path}: cannot be read ({error}); remove it, and it is made anew") from error
