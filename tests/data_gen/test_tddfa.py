"""3DDFA: the regressor against PyTorch's numbers, and the dense path on a made-up model in the real file's layout."""

import pickle
from typing import NamedTuple

import cv2
import jax
import numpy as np
import pytest
from scipy import spatial

from data_gen import tddfa as tddfa_lib
from data_gen.face_maps import Label
from data_gen.numpy_pickle import read_array, read_arrays
from data_gen.synthesis import Settings, Synthesis
from data_gen.tddfa import (
  CROP,
  IBUG,
  MEDIAPIPE,
  TDDFA,
  Regressor,
  crop_roi,
  crop_vertices,
  from_crop,
  read_morphable_model,
  regressor_variables,
  roi_of_box,
  roi_of_landmarks,
)
from dpr_jax.base.errors import BadInput
from dpr_jax.network.pytorch_weights import read_state_dict
from dpr_jax.portrait.faces import Face

WEIGHTS = "reference/tddfa/mb05_120x120.pth"
STATISTICS = "reference/tddfa/param_mean_std_62d_120x120.pkl"
TRIANGLES = "reference/tddfa/tri.pkl"


def write_pickle(path, value, protocol=4):
  path.write_bytes(pickle.dumps(value, protocol))
  return path


@pytest.fixture(scope="module")
def expected(shared):
  """What 3DDFA_V2 computes with PyTorch for two crops; the first is of the authors' demo photo of DPR."""
  return np.load(shared("reference/tddfa/expected.npz"))


@pytest.fixture(scope="module")
def state_dict(shared):
  return read_state_dict(shared(WEIGHTS))


# ---------------------------------------------------------------------------------------------------------------------
# The regressor.


def test_the_regressor(expected, state_dict, shared):
  variables = regressor_variables(state_dict, "weights")
  raw = jax.jit(Regressor(16).apply)(variables, expected["crops"].astype(np.float32))
  assert np.abs(raw - expected["raw"]).max() <= 1e-6 * np.ptp(expected["raw"])
  mean, deviation = read_arrays(shared(STATISTICS), "mean", "std")
  np.testing.assert_array_equal(mean, expected["mean"])
  np.testing.assert_array_equal(deviation, expected["std"])
  parameters = np.asarray(raw) * deviation + mean
  assert (np.abs(parameters - expected["param"]) <= 1e-5 * deviation).all()


def test_every_tensor_of_the_weights_counts(state_dict):
  variables = regressor_variables(state_dict, "weights")
  mapped = sum(leaf.size for leaf in jax.tree.leaves(variables))
  unused = [name for name in state_dict if "num_batches_tracked" in name or "fc_lm" in name]
  assert mapped == sum(tensor.size for tensor in state_dict.values()) - sum(state_dict[name].size for name in unused)
  shapes = jax.eval_shape(Regressor(16).init, jax.random.key(0), np.zeros((1, CROP, CROP, 3), np.float32))
  assert jax.tree.map(np.shape, variables) == jax.tree.map(lambda leaf: leaf.shape, dict(shapes))


def of_width(state_dict, factor: int) -> dict[str, np.ndarray]:
  """The names of `state_dict` with tensors as many times as wide."""
  wide = {}
  for name, tensor in state_dict.items():
    fixed = {"module.conv1.weight": (1,), "module.fc_param.weight": (0,), "module.fc_param.bias": (0,)}.get(name, ())
    copies = [1 if i in fixed or i >= 2 or (i == 1 and tensor.shape[1] == 1) else factor for i in range(tensor.ndim)]
    wide[name] = np.tile(tensor, copies)
  return wide


def test_mobilenet_x1_fits_too(state_dict):
  variables = regressor_variables(of_width(state_dict, 2), "weights")
  assert jax.eval_shape(Regressor(32).apply, variables, np.zeros((1, CROP, CROP, 3), np.float32)).shape == (1, 62)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda d: d.pop("module.dw4_1.bn_sep.running_var"), "'dw4_1.bn_sep.running_var' is missing"),
    (lambda d: d.pop("module.fc_param.bias"), "'fc_param.bias' is missing"),
    (lambda d: d.update(extra=np.zeros(3, np.float32)), "'extra' is not part of it"),
    (lambda d: d.update({"module.dw6.bn_dw.weight": np.zeros(3, np.float32)}), r"bn_dw.weight' has shape \(3,\)"),
    (
      lambda d: d.update({"module.fc_param.weight": np.zeros((61, 512), np.float32)}),
      r"\(61, 512\), expected \(62, 512",
    ),
    (lambda d: d.update({"module.conv1.weight": np.zeros((16, 1, 3, 3), np.float32)}), r"expected \(16, 3, 3, 3\)"),
  ],
)
def test_weights_that_do_not_fit(state_dict, change, message):
  changed = dict(state_dict)
  change(changed)
  with pytest.raises(BadInput, match=f"^weights: .*{message}"):
    regressor_variables(changed, "weights")


# ---------------------------------------------------------------------------------------------------------------------
# The region of interest.


def test_the_roi_of_a_box_and_its_crop(expected, state_dict, obama):
  roi = roi_of_box(expected["bbox"])
  np.testing.assert_allclose(roi, expected["roi"], atol=1e-9)
  crop = crop_roi(obama, roi)[..., ::-1].astype(np.float32)
  # 3DDFA_V2's crop is of the same pixels, but picked, not averaged.
  assert np.abs(crop - expected["crops"][0]).mean() < 4
  shifted = [np.abs(np.roll(crop, step, axis) - expected["crops"][0]).mean() for step in (-1, 1) for axis in (0, 1)]
  assert np.abs(crop - expected["crops"][0]).mean() < 0.5 * min(shifted)


def test_the_roi_of_landmarks_is_a_square_around_them():
  landmarks = np.array([[10.0, 20.0], [110.0, 40.0], [60.0, 80.0]])
  left, top, right, bottom = roi_of_landmarks(landmarks)
  np.testing.assert_allclose([(left + right) / 2, (top + bottom) / 2], [60, 50])
  np.testing.assert_allclose([right - left, bottom - top], 100 * np.sqrt(2))


@pytest.mark.parametrize("roi", [[-300, -300, -60, -60], [90, 10, 330, 250], [0, 0, 600, 600], [10, 20, 70, 80]])
def test_a_crop_beyond_the_photo_is_black(roi):
  photo = np.full((100, 200, 3), 255, np.uint8)
  crop = crop_roi(photo, np.array(roi, float))
  inside = np.zeros((1200, 1200), np.uint8)
  inside[300:400, 300:500] = 255  # a canvas that holds all of these squares
  left, top, right, bottom = np.array(roi) + 300
  interpolation = cv2.INTER_AREA if right - left > CROP else cv2.INTER_LINEAR
  np.testing.assert_array_equal(
    crop[..., 0], cv2.resize(inside[top:bottom, left:right], (CROP, CROP), interpolation=interpolation)
  )


@pytest.mark.parametrize("roi", [[3.2, 7.9, 303.2, 307.9], [40, 60, 160, 180], [-31.4, 20.2, 568.6, 620.2]])
def test_from_crop_undoes_the_crop(roi):
  """A smooth bump in the photo: where it is seen in the crop, carried back, is where it is."""
  centre = np.array([110.3, 131.8])
  y, x = np.mgrid[:400, :400]
  size = (roi[2] - roi[0]) / 20
  photo = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * size**2)) * 255
  crop = crop_roi(np.repeat(photo[..., None], 3, -1).astype(np.uint8), np.array(roi))[..., 0].astype(float)
  y, x = np.mgrid[:CROP, :CROP]
  seen = np.array([[(crop * x).sum(), (crop * y).sum(), 0]]) / crop.sum()
  np.testing.assert_allclose(from_crop(seen, np.array(roi))[0, :2], centre, atol=0.02 * size)


def test_depth_scales_with_the_crop():
  depth = from_crop(np.array([[0, 0, 1.0], [0, 0, 3.0]]), np.array([10, 20, 310, 320]))[:, 2]
  assert depth[1] - depth[0] == pytest.approx(2 * 300 / CROP)


# ---------------------------------------------------------------------------------------------------------------------
# A made-up morphable model.


class Head(NamedTuple):
  """A model whose mesh, for the parameters of the first crop, is half an ellipsoid on the face in that crop."""

  model: dict[str, np.ndarray]
  triangles: np.ndarray
  vertices: np.ndarray  # in the crop
  parameters: np.ndarray


@pytest.fixture(scope="module")
def head(expected, obama, finder) -> Head:
  roi = np.rint(expected["roi"])
  inner = (finder.find(obama)[0].landmarks[MEDIAPIPE] - roi[:2]) / (roi[2] - roi[0]) * CROP - 0.5
  centre, radii = np.array([60.0, 46.0]), np.array([37.0, 48.0, 40.0])
  angle = np.linspace(np.pi, 0, 17)  # the jaw, from image left
  landmarks = centre + 0.97 * radii[:2] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
  landmarks = np.concatenate([landmarks, np.zeros((51, 2))])
  landmarks[IBUG] = inner
  grid = np.stack(np.meshgrid(np.arange(20, 101.0), np.arange(-5, 100.0)), axis=-1).reshape(-1, 2)
  points = np.concatenate([landmarks, grid[np.linalg.norm((grid - centre) / radii[:2], axis=-1) < 0.99]])
  triangles = spatial.Delaunay(points).simplices
  p, q, r = points[triangles].transpose(1, 0, 2)
  turned = np.linalg.det(np.stack([q - p, r - p], axis=-1)) < 0
  triangles = np.where(turned[:, None], triangles[:, ::-1], triangles)
  z = radii[2] * np.sqrt(np.maximum(1 - np.sum(((points - centre) / radii[:2]) ** 2, axis=-1), 0))
  vertices = np.column_stack([points, z])

  rng = np.random.default_rng(0)
  parameters = expected["param"][0].astype(np.float64)
  affine = parameters[:12].reshape(3, 4)
  posed = np.stack([points[:, 0] + 1, CROP - points[:, 1], z], axis=-1)  # from 1, and from the bottom
  shape, expression = rng.normal(0, 1e-3, (2, vertices.size, 60))
  mean = np.linalg.solve(affine[:, :3], (posed - affine[:, 3]).T).T.reshape(-1, 1)
  mean -= shape[:, :40] @ parameters[12:52, None] + expression[:, :10] @ parameters[52:, None]
  model = {
    "u": mean.astype(np.float32),
    "w_shp": shape.astype(np.float32),
    "w_exp": expression.astype(np.float32),
    "tri": triangles.T.astype(np.int32),
    "keypoints": np.arange(3 * 68),
  }
  return Head(model, np.asfortranarray(triangles.T.astype(np.int32)), vertices, expected["param"][0])


@pytest.fixture
def model_files(head, tmp_path):
  return write_pickle(tmp_path / "bfm_noneck_v3.pkl", head.model), write_pickle(tmp_path / "tri.pkl", head.triangles)


def test_parameters_become_the_mesh(head, model_files):
  model = read_morphable_model(*model_files)
  np.testing.assert_array_equal(model.triangles, head.triangles.T)
  np.testing.assert_array_equal(model.landmarks, np.arange(68))
  assert model.basis.shape == (len(head.vertices), 3, 50)
  np.testing.assert_allclose(crop_vertices(model, head.parameters), head.vertices, atol=1e-3)


def test_shape_and_expression_have_their_own_weights(head, model_files):
  model = read_morphable_model(*model_files)
  linear = head.parameters[:12].reshape(3, 4)[:, :3] * [[1], [-1], [1]]  # y downwards
  for index, basis, column in ((12, "w_shp", 0), (51, "w_shp", 39), (52, "w_exp", 0), (61, "w_exp", 9)):
    parameters = head.parameters.copy()
    parameters[index] += 1e5
    moved = crop_vertices(model, parameters) - crop_vertices(model, head.parameters)
    np.testing.assert_allclose(moved, 1e5 * head.model[basis][:, column].reshape(-1, 3) @ linear.T, atol=1e-3)


def test_ears_lie_behind_the_outermost_landmarks(head, model_files):
  model = read_morphable_model(*model_files)
  depth = model.mean[:, 2]
  assert 0 < model.ears.sum() < 0.2 * len(depth)
  assert depth[model.ears].max() <= depth[~model.ears].min()
  assert not model.ears[30]


@pytest.fixture(scope="module")
def tddfa(head, shared, tmp_path_factory):
  folder = tmp_path_factory.mktemp("model")
  model, triangles = write_pickle(folder / "bfm.pkl", head.model), write_pickle(folder / "tri.pkl", head.triangles)
  return TDDFA(shared(WEIGHTS), model, shared(STATISTICS), triangles)


def test_from_photo_to_record_with_arap(model_files, shared, tmp_path, monkeypatch):
  """The way that `--normals=tddfa` takes, with the model of the tests."""
  (tmp_path / "photos").mkdir()
  (tmp_path / "photos" / "obama.jpg").symlink_to(shared("reference/dpr/obama.jpg"))
  files = {
    "tddfa-weights": shared(WEIGHTS),
    "tddfa-stats": shared(STATISTICS),
    "bfm": model_files[0],
    "tddfa-triangles": model_files[1],
  }
  monkeypatch.setattr(tddfa_lib, "asset_path", files.__getitem__)
  settings = Settings(
    source=str(tmp_path / "photos"),
    size=256,
    normals="tddfa",
    arap=True,
    light_estimator="fit",
    lights_per_image=1,
  )
  with Synthesis(settings) as ready:
    (result,) = ready.relit("obama.jpg")
  assert result.record.mask.mean() > 0.05
  np.testing.assert_allclose(np.linalg.norm(result.record.normal, axis=-1), 1, atol=1e-5)
  np.testing.assert_array_equal(result.maps.landmarks, result.maps.detected)
  assert np.abs(result.record.relit[0].astype(int) - result.record.original).mean() > 1


def test_a_photo_becomes_maps(tddfa, obama, finder):
  face = finder.find(obama)[0]
  maps = tddfa.face_maps(obama, face)
  height, width = obama.shape[:2]
  assert maps.normal.shape == (height, width, 3)
  assert maps.normal.dtype == np.float32
  assert maps.label.shape == (height, width)
  assert maps.label.dtype == np.uint8
  assert set(np.unique(maps.label)) == {Label.BACKGROUND, Label.SKIN, Label.FEATURE, Label.EAR}
  face_pixels = maps.label != Label.BACKGROUND
  np.testing.assert_allclose(np.linalg.norm(maps.normal[face_pixels], axis=-1), 1, atol=1e-5)
  assert not maps.normal[~face_pixels].any()
  assert (maps.normal[face_pixels][:, 1] < 0).all()
  # What is drawn lies where the detector sees it, but for what the network says otherwise of the tighter crop.
  np.testing.assert_allclose(maps.detected, face.landmarks[MEDIAPIPE] - 0.5)
  error = np.linalg.norm(maps.landmarks - maps.detected, axis=-1)
  eyes = np.linalg.norm(face.landmarks[263] - face.landmarks[33])
  assert error.mean() < 0.05 * eyes
  eye, cheek = face.landmarks[[159, 50]].round().astype(int)
  assert maps.label[eye[1], eye[0]] == Label.FEATURE
  assert maps.label[cheek[1], cheek[0]] == Label.SKIN
  # The half ellipsoid: its left side faces left, its top up.
  for landmark, axis, sign in ((234, 0, -1), (454, 0, 1), (10, 2, 1), (152, 2, -1)):
    x, y = (0.9 * face.landmarks[landmark] + 0.1 * face.landmarks[1]).round().astype(int)
    assert sign * maps.normal[y, x, axis] > 0.4


def test_twice_the_photo_gives_twice_the_face(tddfa, obama, finder):
  face = finder.find(obama)[0]
  maps = tddfa.face_maps(obama, face)
  large = tddfa.face_maps(cv2.resize(obama, None, fx=2, fy=2), Face(2 * face.landmarks))
  # Twice as many pixels, counted from the corner. The crops are cut at whole pixels, and the network feels it.
  difference = (large.landmarks + 0.5) / 2 - (maps.landmarks + 0.5)
  assert np.abs(difference.mean(axis=0)).max() < 1
  assert np.abs(difference).max() < 2
  half = large.normal[1::2, 1::2]
  both = maps.normal.any(axis=-1) & half.any(axis=-1)
  assert both.sum() > 0.97 * maps.normal.any(axis=-1).sum()
  cosine = np.sum(maps.normal * half, axis=-1)[both]
  assert np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean() < 2


def test_a_photo_without_a_face_is_rejected(tddfa, shared):
  away = read_arrays(shared(STATISTICS), "mean")[0].copy()
  away[[3, 7]] = 1e4
  face = Face(np.random.default_rng(0).uniform(40, 160, (478, 2)))

  class Lost(TDDFA):
    def __init__(self, parameters):
      self.__dict__.update(tddfa.__dict__)
      self.parameters = lambda crop: parameters

  for parameters in (away, np.full(62, np.nan, np.float32), np.zeros(62, np.float32)):
    with pytest.raises(BadInput, match=r"^3DDFA finds no face"):
      Lost(parameters).face_maps(np.zeros((200, 200, 3), np.uint8), face)


def test_the_landmark_table_on_the_published_detections(shared, finder):
  """The published 68 landmarks of one laughing, turned face, by another detector."""
  root = shared("reference/ri_render")
  published = np.loadtxt(root / "result/imgHQ00000/imgHQ00000_detected.txt").T
  photo = cv2.imread(str(root / "data/imgHQ00000.png"))[..., ::-1]
  landmarks = finder.find(photo)[0].landmarks - 0.5
  eyes = np.linalg.norm(landmarks[263] - landmarks[33])
  error = np.linalg.norm(landmarks[MEDIAPIPE] - published[IBUG], axis=-1) / eyes
  assert error.mean() < 0.03
  assert np.partition(error, -2)[-2] < 0.08  # the chin, cut by the frame, is the farthest
  assert len(set(IBUG)) == len(set(MEDIAPIPE)) == 52


# ---------------------------------------------------------------------------------------------------------------------
# Files.


def test_the_real_triangles(shared):
  triangles = read_array(shared(TRIANGLES))
  assert triangles.shape == (3, 76073)
  np.testing.assert_array_equal(np.unique(triangles), np.arange(38365))


def test_truncated_files(tmp_path, shared):
  for name in (WEIGHTS, STATISTICS, TRIANGLES):
    content = shared(name).read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 1):
      path = tmp_path / "short"
      path.write_bytes(content[:length])
      with pytest.raises(BadInput):
        (read_state_dict if name == WEIGHTS else read_array)(path)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda m: m.pop("w_shp"), "has no 'w_shp'"),
    (lambda m: m.update(u=m["u"][:-3]), "'w_shp' has shape"),
    (lambda m: m.update(u=m["u"].ravel()), "'u' has shape"),
    (lambda m: m.update(w_exp=m["w_exp"][:, :9]), "'w_exp' has 9 components, expected at least 10"),
    (lambda m: m.update(w_shp=m["w_shp"][:-1]), "'w_shp' has shape"),
    (lambda m: m.update({k: m[k][:-1] for k in ("u", "w_shp", "w_exp")}), "expected three a vertex"),
    (lambda m: m.update(keypoints=m["keypoints"][:-1]), r"'keypoints' has shape \(203,\), expected \(204"),
    (lambda m: m.update(keypoints=m["keypoints"] + 1), "'keypoints' are not 68 vertices"),
    (lambda m: m.update(keypoints=m["keypoints"] + len(m["u"])), "'keypoints' are not 68 vertices"),
    (lambda m: m.update(keypoints=m["keypoints"] - 3), "'keypoints' are not 68 vertices"),
    (lambda m: m.update(u=m["u"] * np.float32(np.nan)), "'u' has numbers that are not finite"),
  ],
)
def test_models_that_do_not_fit(head, tmp_path, change, message):
  model = dict(head.model)
  change(model)
  triangles = write_pickle(tmp_path / "tri.pkl", head.triangles)
  with pytest.raises(BadInput, match=f"bfm.pkl: .*{message}") as caught:
    read_morphable_model(write_pickle(tmp_path / "bfm.pkl", model), triangles)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  "change", [lambda t: t.T, lambda t: t.astype(float), lambda t: t[:, :0], lambda t: t[0], lambda t: t - 1]
)
def test_triangles_that_do_not_fit(head, tmp_path, change):
  triangles = write_pickle(tmp_path / "tri.pkl", change(head.triangles))
  with pytest.raises(BadInput, match=r"tri.pkl: "):
    read_morphable_model(write_pickle(tmp_path / "bfm.pkl", head.model), triangles)


def test_the_real_triangles_do_not_fit_another_model(head, model_files, shared):
  with pytest.raises(BadInput, match=r"names vertices up to 38364, but .* has "):
    read_morphable_model(model_files[0], shared(TRIANGLES))


def test_statistics_that_do_not_fit(model_files, tmp_path, shared):
  for statistics, message in (
    ({"mean": np.zeros(62)}, "has no 'std'"),
    ({"mean": np.zeros(62), "std": np.ones(60)}, "'mean' and 'std' are not of 62 parameters"),
  ):
    path = write_pickle(tmp_path / "statistics.pkl", statistics)
    with pytest.raises(BadInput, match=f"statistics.pkl: {message}"):
      TDDFA(shared(WEIGHTS), model_files[0], path, model_files[1])


def test_a_missing_model_is_named(shared, monkeypatch):
  monkeypatch.setenv("DPR_ASSETS", str(shared("reference/tddfa")))
  with pytest.raises(BadInput, match=r"bfm_noneck_v3.pkl"):
    TDDFA(shared(WEIGHTS))
