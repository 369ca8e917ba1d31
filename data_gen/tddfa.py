"""3DDFA: a small network reads the numbers of a morphable model off a face, and the model gives a dense mesh.

Network, statistics and triangles are those of 3DDFA_V2 (Guo et al., ECCV 2020). The model is the Basel Face Model
without neck (Paysan et al. 2009, after Blanz & Vetter 1999), which users must get for themselves.
"""

import os
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util

from data_gen.face_maps import FaceMaps, Label
from data_gen.numpy_pickle import read_array, read_arrays
from data_gen.rasterize import normal_map, rasterize
from dpr_jax.base.assets import asset_path
from dpr_jax.base.errors import BadInput
from dpr_jax.base.native_libraries import import_native
from dpr_jax.network.pytorch_layers import Layers
from dpr_jax.network.pytorch_weights import read_state_dict
from dpr_jax.portrait.faces import Face

cv2 = import_native("cv2")

CROP = 120  # pixels; the side of what the network sees
_SHAPES, _EXPRESSIONS = 40, 10
PARAMETERS = 12 + _SHAPES + _EXPRESSIONS

# The model's 68 landmarks are those of iBUG (Sagonas et al. 2013). Those inside the face, from the eyebrows (17) on,
# and the chin (8) have a place among MediaPipe's 478; the jaw has none: MediaPipe's outline runs well inside of it.
_PAIRS = {
  **dict(zip(range(17, 27), (70, 63, 105, 66, 107, 336, 296, 334, 293, 300), strict=True)),  # eyebrows
  **dict(zip(range(27, 36), (168, 197, 195, 4, 75, 97, 2, 326, 305), strict=True)),  # nose
  **dict(zip(range(36, 48), (33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380), strict=True)),  # eyes
  **dict(zip(range(48, 60), (61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91), strict=True)),  # lips, outside
  **dict(zip(range(60, 68), (78, 82, 13, 312, 308, 317, 14, 87), strict=True)),  # lips, inside
  8: 152,
}
IBUG, MEDIAPIPE = np.array(list(_PAIRS)), np.array(list(_PAIRS.values()))

_EAR_LANDMARKS, _NOSE_TIP, _EYE_CORNERS = [0, 16], 30, [36, 45]
_FEATURES = [range(17, 22), range(22, 27), range(36, 42), range(42, 48), range(48, 60)]


# ---------------------------------------------------------------------------------------------------------------------
# The network.

# Channels in multiples of the first layer's, and stride.
_BLOCKS = {
  "dw2_1": (2, 1),
  "dw2_2": (4, 2),
  "dw3_1": (4, 1),
  "dw3_2": (8, 2),
  "dw4_1": (8, 1),
  "dw4_2": (16, 2),
  "dw5_1": (16, 1),
  "dw5_2": (16, 1),
  "dw5_3": (16, 1),
  "dw5_4": (16, 1),
  "dw5_5": (16, 1),
  "dw5_6": (32, 2),
  "dw6": (32, 1),
}


class _ConvNorm(nn.Module):
  """Convolution, batch norm, ReLU."""

  features: int
  size: int
  stride: int = 1
  groups: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    padding = [(self.size // 2, self.size // 2)] * 2
    size, stride = (self.size, self.size), (self.stride, self.stride)
    x = nn.Conv(self.features, size, stride, padding, feature_group_count=self.groups, use_bias=False, name="conv")(x)
    return nn.relu(nn.BatchNorm(use_running_average=True, name="norm")(x))


class Regressor(nn.Module):
  """MobileNet-V1 (Howard et al. 2017) with 62 outputs.

  Attributes:
    width: channels of the first layer: 32 in MobileNet x1, 16 in x0.5.
  """

  width: int

  @nn.compact
  def __call__(self, crops: jax.Array) -> jax.Array:
    """Crops `[B, 120, 120, 3]`, BGR from 0 to 255 -> normalised parameters `[B, 62]`."""
    x = _ConvNorm(self.width, 3, 2, name="stem")((crops - 127.5) / 128)
    for name, (multiple, stride) in _BLOCKS.items():
      x = _ConvNorm(x.shape[-1], 3, stride, x.shape[-1], name=f"{name}_depthwise")(x)
      x = _ConvNorm(multiple * self.width, 1, name=f"{name}_pointwise")(x)
    return nn.Dense(PARAMETERS, name="head")(x.mean(axis=(1, 2)))


def regressor_variables(state_dict: Mapping[str, np.ndarray], source: str) -> dict[str, dict]:
  """Maps a state dict of 3DDFA_V2's MobileNet, of any width, onto `Regressor`.

  Every tensor must be there and fit. Not mapped: `num_batches_tracked`, and `fc_lm`, a second head for training only.

  Args:
    state_dict: what `read_state_dict` returns; names may begin with `module.`.
    source: what to call the file in errors.

  Returns:
    `{"params": ..., "batch_stats": ...}`, nested dicts of float32 arrays.

  Raises:
    BadInput: a tensor is missing, unexpected or misshapen.
  """
  layers = Layers({name.removeprefix("module."): tensor for name, tensor in state_dict.items()}, source)

  def conv_norm(conv, norm, path, *sizes):
    layers.conv(conv, f"{path}/conv", *sizes)
    layers.norm(norm, f"{path}/norm", sizes[-1])

  conv_norm("conv1", "bn1", "stem", 3, 3, "width")
  width = channels = layers.channels["width"]
  for name, (multiple, _) in _BLOCKS.items():
    conv_norm(f"{name}.conv_dw", f"{name}.bn_dw", f"{name}_depthwise", 3, 1, channels)
    conv_norm(f"{name}.conv_sep", f"{name}.bn_sep", f"{name}_pointwise", 1, channels, multiple * width)
    channels = multiple * width
  layers.variables["params/head/kernel"] = np.ascontiguousarray(layers.take("fc_param.weight", PARAMETERS, channels).T)
  layers.variables["params/head/bias"] = layers.take("fc_param.bias", PARAMETERS)
  for name in ("fc_lm.weight", "fc_lm.bias"):
    layers.remaining.pop(name, None)
  if layers.remaining:
    raise layers.refuse(f"{next(iter(layers.remaining))!r} is not part of it")
  return traverse_util.unflatten_dict(layers.variables, sep="/")


# ---------------------------------------------------------------------------------------------------------------------
# The morphable model.


class MorphableModel(NamedTuple):
  """A linear model of faces with N vertices, in its own axes: x to the image's right, y up, z towards the viewer.

  Attributes:
    mean: `[N, 3]` float32.
    basis: `[N, 3, 50]` float32: 40 of shape, then 10 of expression.
    landmarks: `[68]`, the vertices of the iBUG landmarks.
    triangles: `[T, 3]` vertex numbers, clockwise in the picture for a triangle that faces the viewer.
    ears: `[N]` bool.
  """

  mean: np.ndarray
  basis: np.ndarray
  landmarks: np.ndarray
  triangles: np.ndarray
  ears: np.ndarray


def read_morphable_model(path: str | os.PathLike, triangles: str | os.PathLike) -> MorphableModel:
  """Reads 3DDFA_V2's `bfm_noneck_v3.pkl` and `tri.pkl`.

  Args:
    path: a pickled dict of `u` [3N, 1], `w_shp` [3N, at least 40], `w_exp` [3N, at least 10] and `keypoints` [204], the
      places in `u` of x, y and z of the 68 landmarks.
    triangles: a pickled array [3, T] of vertex numbers.

  Raises:
    BadInput: a file cannot be read, or its arrays don't fit together.
  """
  source = str(path)
  names = ("u", "w_shp", "w_exp", "keypoints")
  mean, shape, expression, places = read_arrays(path, *names)
  expected = {"u": ("3N", 1), "w_shp": (len(mean), "K"), "w_exp": (len(mean), "K"), "keypoints": (3 * 68,)}
  for name, array in zip(names, (mean, shape, expression, places), strict=True):
    wanted = expected[name]
    if array.ndim != len(wanted) or any(
      isinstance(n, int) and n != m for n, m in zip(wanted, array.shape, strict=True)
    ):
      raise BadInput(f"{source}: {name!r} has shape {array.shape}, expected ({', '.join(map(str, wanted))})")
    if not np.isfinite(array).all():
      raise BadInput(f"{source}: {name!r} has numbers that are not finite")
  for name, basis, count in (("w_shp", shape, _SHAPES), ("w_exp", expression, _EXPRESSIONS)):
    if basis.shape[1] < count:
      raise BadInput(f"{source}: {name!r} has {basis.shape[1]} components, expected at least {count}")
  if len(mean) % 3:
    raise BadInput(f"{source}: 'u' has {len(mean)} numbers, expected three a vertex")
  mean = mean.reshape(-1, 3).astype(np.float32)
  basis = np.concatenate([shape[:, :_SHAPES], expression[:, :_EXPRESSIONS]], axis=1, dtype=np.float32)
  places = places.reshape(68, 3).astype(np.int64)
  landmarks = places[:, 0] // 3
  if not ((landmarks >= 0) & (landmarks < len(mean))).all() or (places != 3 * landmarks[:, None] + np.arange(3)).any():
    raise BadInput(f"{source}: 'keypoints' are not 68 vertices")
  corners = read_array(triangles)
  if corners.ndim != 2 or len(corners) != 3 or corners.dtype.kind not in "iu" or not corners.size:
    raise BadInput(f"{triangles}: not an array of triangles, 3 x T")
  if not 0 <= corners.min() <= corners.max() < len(mean):
    raise BadInput(f"{triangles}: names vertices up to {corners.max()}, but {source} has {len(mean)}")
  # The outermost landmarks sit where the ears begin; nearly all of an ear lies behind them, or a little before.
  z = mean[landmarks, 2]
  front = z[_EAR_LANDMARKS].mean()
  ears = mean[:, 2] < front + 0.1 * (z[_NOSE_TIP] - front)
  basis = basis.reshape(len(mean), 3, -1)
  return MorphableModel(mean, basis, landmarks, np.ascontiguousarray(corners.T, np.int32), ears)


def crop_vertices(model: MorphableModel, parameters: np.ndarray) -> np.ndarray:
  """The mesh that 62 parameters describe, in the crop of the network.

  Args:
    model: of faces.
    parameters: `[62]`: a 3 x 4 affine matrix row by row, 40 weights of shape, 10 of expression.

  Returns:
    `[N, 3]`: x right, y down in pixels of the crop, with integers at pixel centres, z towards the viewer.
  """
  affine = parameters[:12].reshape(3, 4)
  x, y, z = affine[:, :3] @ (model.mean + model.basis @ parameters[12:]).T + affine[:, 3:]
  # The matrix counts pixels from 1, and y from the bottom.
  return np.stack([x - 1, CROP - y, z], axis=-1)


# ---------------------------------------------------------------------------------------------------------------------
# The region of interest (ROI).


def roi_of_box(box: np.ndarray) -> np.ndarray:
  """The square that 3DDFA_V2 looks at for a face box: 1.58 times as large, moved down a bit.

  Args:
    box: `[4]`: left, top, right, bottom in pixels.

  Returns:
    `[4]`, the same of the square.
  """
  left, top, right, bottom = box
  size = (right - left + bottom - top) / 2
  centre = np.array([(left + right) / 2, (top + bottom) / 2 + 0.14 * size])
  half_side = int(1.58 * size) / 2
  return np.concatenate([centre - half_side, centre + half_side])


def roi_of_landmarks(landmarks: np.ndarray) -> np.ndarray:
  """The square that 3DDFA_V2 looks at once it knows the 68 landmarks `[68, 2]`, as large as those it was trained on."""
  low, high = landmarks.min(axis=0), landmarks.max(axis=0)
  half_side = (high - low).max() / np.sqrt(2)
  return np.concatenate([(low + high) / 2 - half_side, (low + high) / 2 + half_side])


def crop_roi(pixels: np.ndarray, roi: np.ndarray) -> np.ndarray:
  """Cuts the ROI at whole pixels, black beyond the photo, and resizes it to `[120, 120, 3]` uint8.

  A large one is averaged, where 3DDFA_V2 picks pixels: at 1024 that halves how much the mesh moves with the ROI.
  """
  left, top, right, bottom = np.rint(roi).astype(int)
  crop = np.zeros((bottom - top, right - left, 3), np.uint8)
  inside = pixels[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
  y, x = max(-top, 0), max(-left, 0)
  crop[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
  return cv2.resize(crop, (CROP, CROP), interpolation=cv2.INTER_AREA if len(crop) > CROP else cv2.INTER_LINEAR)


def from_crop(vertices: np.ndarray, roi: np.ndarray) -> np.ndarray:
  """Carries `[N, 3]` from the crop to the photo: the inverse of `crop_roi`, with depth in the photo's pixels too."""
  left, top, right, bottom = np.rint(roi)
  scale = np.array([right - left, bottom - top, (right - left + bottom - top) / 2]) / CROP
  half_a_pixel = np.array([0.5, 0.5, 0])  # from the corner of crop or photo to the centre of its first pixel
  return (vertices + half_a_pixel) * scale + np.array([left, top, 0]) - half_a_pixel


# ---------------------------------------------------------------------------------------------------------------------
# Together.


class TDDFA:
  """Normals of a photo's face by 3DDFA.

  Args:
    weights: `mb1_120x120.pth`, `mb05_120x120.pth`, or another width.
    model: `bfm_noneck_v3.pkl`.
    statistics: `param_mean_std_62d_120x120.pkl`, mean and standard deviation of the parameters.
    triangles: `tri.pkl`.

  Each file is the asset of its name where not given (see `dpr_jax.base.assets`).

  Raises:
    BadInput: a file is not at hand or cannot be used.
  """

  def __init__(
    self,
    weights: str | os.PathLike | None = None,
    model: str | os.PathLike | None = None,
    statistics: str | os.PathLike | None = None,
    triangles: str | os.PathLike | None = None,
  ):
    weights = weights or asset_path("tddfa-weights")
    statistics = statistics or asset_path("tddfa-stats")
    variables = regressor_variables(read_state_dict(weights), str(weights))
    network = Regressor(variables["params"]["stem"]["conv"]["kernel"].shape[-1])
    self._regress = jax.jit(lambda crops: network.apply(variables, crops))
    self._mean, self._deviation = read_arrays(statistics, "mean", "std")
    if not self._mean.shape == self._deviation.shape == (PARAMETERS,):
      raise BadInput(f"{statistics}: 'mean' and 'std' are not of {PARAMETERS} parameters")
    model = read_morphable_model(model or asset_path("bfm"), triangles or asset_path("tddfa-triangles"))
    self._model = model
    self._landmark_model = model._replace(mean=model.mean[model.landmarks], basis=model.basis[model.landmarks])

  def parameters(self, crop: np.ndarray) -> np.ndarray:
    """RGB crop `[120, 120, 3]` uint8 -> `[62]` float32, see `crop_vertices`."""
    normalised = self._regress(np.float32(crop[None, ..., ::-1]))[0]
    return np.asarray(normalised) * self._deviation + self._mean

  def _fit(self, model: MorphableModel, pixels: np.ndarray, roi: np.ndarray) -> np.ndarray:
    return from_crop(crop_vertices(model, self.parameters(crop_roi(pixels, roi))), roi)

  def face_maps(self, pixels: np.ndarray, face: Face) -> FaceMaps:
    """Renders the face into its photo.

    Labels are SKIN, EAR (by depth, from the ear landmarks on) and FEATURE: the landmarks' eyes, eyebrows and lips.

    Args:
      pixels: the photo, `[H, W, 3]` uint8 RGB.
      face: one that a face finder found there.

    Raises:
      BadInput: 3DDFA sees no face there.
    """
    height, width = pixels.shape[:2]
    roi = roi_of_box(face.box)
    # MediaPipe's box is a quarter larger than those of the training set: look again, at what the first look found.
    closer = roi_of_landmarks(self._fit(self._landmark_model, pixels, roi)[:, :2])
    if not 0.4 < (closer[2] - closer[0]) / (roi[2] - roi[0]) < 1.6:
      raise BadInput("3DDFA finds no face in the photo")
    vertices = self._fit(self._model, pixels, closer)
    normal = normal_map(vertices, self._model.triangles, height, width)
    landmarks = vertices[self._model.landmarks, :2]
    ears, depth = rasterize(vertices, self._model.triangles, self._model.ears[:, None], height, width)
    label = _labels(ears[..., 0], normal, landmarks)
    if not (label == Label.SKIN).any():
      raise BadInput("3DDFA finds no face in the photo")
    depth[label == Label.BACKGROUND] = -np.inf
    return FaceMaps(normal, label, landmarks[IBUG], face.landmarks[MEDIAPIPE] - 0.5, depth)


def _labels(ears: np.ndarray, normal: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
  features = np.zeros(ears.shape, np.uint8)
  # Lashes, brow hair and the rim of the lips reach beyond the lines through the landmarks.
  margin = 0.05 * np.linalg.norm(np.subtract(*landmarks[_EYE_CORNERS]))
  for feature in _FEATURES:
    polygon = [np.rint(landmarks[feature]).astype(np.int32)]
    cv2.fillPoly(features, polygon, 1)
    cv2.polylines(features, polygon, True, 1, max(1, round(2 * margin)))
  label = np.full(ears.shape, Label.SKIN, np.uint8)
  label[features > 0] = Label.FEATURE
  label[ears > 0.5] = Label.EAR
  label[normal[..., 1] == 0] = Label.BACKGROUND  # what one sees faces the camera, if only a little
  return label
