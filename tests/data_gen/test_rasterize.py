"""The rasteriser against a brute-force one, against exact pictures, and against the published maps of one face."""

import cv2
import numpy as np
import pytest
from scipy import io as scipy_io
from scipy import ndimage, spatial

from data_gen.rasterize import normal_map, rasterize, to_scene_axes, vertex_normals


def triangle_soup(seed: int, count: int = 30, size: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  rng = np.random.default_rng(seed)
  vertices = rng.uniform(-0.3 * size, 1.3 * size, (3 * count, 3))
  return vertices, np.arange(3 * count).reshape(-1, 3), rng.normal(size=(3 * count, 2))


def brute_force(vertices, triangles, attributes, height, width):
  """Solves for the barycentric coordinates of every pixel in every triangle."""
  y, x = np.mgrid[:height, :width].reshape(2, -1)
  picture, depth = np.zeros((height * width, attributes.shape[1])), np.full(height * width, -np.inf)
  for triangle in triangles:
    corners = vertices[triangle]
    weights = np.linalg.solve(np.stack([*corners[:, :2].T, np.ones(3)]), np.stack([x, y, np.ones_like(x)]))
    z = corners[:, 2] @ weights
    nearer = (weights >= 0).all(axis=0) & (z > depth)
    depth = np.where(nearer, z, depth)
    picture = np.where(nearer[:, None], (attributes[triangle].T @ weights).T, picture)
  return picture.reshape(height, width, -1), depth.reshape(height, width)


def grid(columns: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
  """The plane z = 0 in unit squares, each of two triangles that face the viewer."""
  vertices = np.stack([*np.meshgrid(np.arange(columns), np.arange(rows)), np.zeros((rows, columns))], axis=-1)
  number = np.arange(rows * columns).reshape(rows, columns)
  a, b, c, d = number[:-1, :-1], number[:-1, 1:], number[1:, 1:], number[1:, :-1]
  triangles = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
  return vertices.reshape(-1, 3).astype(float), triangles


def dome(radius: float, size: int, points: int = 4000) -> tuple[np.ndarray, np.ndarray]:
  """The half sphere that faces the viewer, evenly sampled, in the middle of a picture."""
  number = np.arange(points + 1)
  distance, angle = np.sqrt(1 - (1 - number / points) ** 2), number * np.pi * (3 - np.sqrt(5))
  points = np.stack([distance * np.cos(angle), distance * np.sin(angle)], axis=-1)
  triangles = spatial.Delaunay(points).simplices
  p, q, r = points[triangles].transpose(1, 0, 2)
  turned = np.linalg.det(np.stack([q - p, r - p], axis=-1)) < 0
  triangles = np.where(turned[:, None], triangles[:, ::-1], triangles)
  z = np.sqrt(1 - np.sum(points**2, axis=-1).clip(max=1))
  return np.column_stack([points, z]) * radius + [size / 2, size / 2, 0], triangles


# ---------------------------------------------------------------------------------------------------------------------
# Pixels.


@pytest.mark.parametrize("seed", range(4))
def test_a_triangle_soup_equals_brute_force(seed):
  soup = triangle_soup(seed)
  picture, depth = rasterize(*soup, 40, 50)
  expected, expected_depth = brute_force(*soup, 40, 50)
  np.testing.assert_array_equal(np.isfinite(depth), np.isfinite(expected_depth))
  np.testing.assert_allclose(depth, expected_depth, rtol=1e-6, atol=1e-5)
  np.testing.assert_allclose(picture, expected, atol=1e-5)


def test_order_and_direction_of_triangles_do_not_matter():
  vertices, triangles, attributes = triangle_soup(5)
  rng = np.random.default_rng(6)
  shuffled = rng.permuted(rng.permutation(triangles), axis=1)
  for a, b in zip(
    rasterize(vertices, triangles, attributes, 40, 40), rasterize(vertices, shuffled, attributes, 40, 40), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("angle", [0.0, 0.3, 45.0, 90.0])
def test_a_plane_is_covered_without_gaps_and_linear(angle):
  vertices, triangles = grid(60, 60)
  c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
  vertices[:, :2] = (vertices[:, :2] - 29.5) @ np.array([[c, s], [-s, c]]) + 20
  attributes = vertices[:, :2] @ [[2.0, 0.5], [-1.0, 3.0]] + [7.0, -4.0]
  picture, depth = rasterize(vertices, triangles, attributes, 40, 40)
  assert (depth == 0).all()
  y, x = np.mgrid[:40, :40]
  np.testing.assert_allclose(picture, np.stack([2 * x - y + 7, 0.5 * x + 3 * y - 4], axis=-1), atol=1e-4)


def test_no_gap_between_triangles_at_random_angles():
  """A fan around a point: every pixel inside belongs to a slice, however the edges round."""
  rng = np.random.default_rng(1)
  for _ in range(20):
    angles = np.sort(rng.uniform(0, 2 * np.pi, 40))
    rim = 1e4 * np.stack([np.cos(angles), np.sin(angles), np.zeros(40)], axis=-1)
    vertices = np.concatenate([rng.integers(5, 25, (1, 3)), rim])
    triangles = np.stack([np.zeros(40, int), np.arange(40) + 1, np.roll(np.arange(40) + 1, -1)], axis=-1)
    _, depth = rasterize(vertices, triangles, np.ones((41, 1)), 30, 30)
    assert np.isfinite(depth).all()


def test_pixels_on_the_edge_belong_to_the_triangle():
  vertices = np.array([[1.0, 1, 0], [4, 1, 0], [1, 4, 0]])
  _, depth = rasterize(vertices, np.array([[0, 1, 2]]), np.ones((3, 1)), 6, 6)
  y, x = np.mgrid[:6, :6]
  np.testing.assert_array_equal(np.isfinite(depth), (x >= 1) & (y >= 1) & (x + y <= 5))


def test_of_equal_depths_the_first_wins():
  vertices = np.tile([[0.0, 0, 1 / 3], [9, 0, 1 / 3], [0, 9, 1 / 3]], (2, 1))
  attributes = np.repeat([[1.0], [2.0]], 3, axis=0)
  for order, winner in (([0, 1], 1.0), ([1, 0], 2.0)):
    picture, depth = rasterize(vertices, np.arange(6).reshape(2, 3)[order], attributes, 9, 9)
    np.testing.assert_allclose(picture[np.isfinite(depth)], winner, rtol=1e-6)


def test_a_mesh_beyond_the_frame_is_cut():
  vertices, triangles, attributes = triangle_soup(7)
  whole, depth = rasterize(vertices + np.array([30, 30, 0]), triangles, attributes, 100, 100)
  cut, cut_depth = rasterize(vertices, triangles, attributes, 40, 40)
  np.testing.assert_allclose(cut, whole[30:70, 30:70], atol=1e-5)
  np.testing.assert_allclose(cut_depth, depth[30:70, 30:70], atol=1e-5)
  for beyond in 1e3 * np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]):
    assert not np.isfinite(rasterize(vertices + beyond, triangles, attributes, 40, 40)[1]).any()


def test_triangles_without_area_draw_nothing():
  vertices = np.array([[1.0, 1, 0], [5, 5, 0], [9, 9, 0], [3, 3, 0]])
  triangles = np.array([[0, 1, 2], [0, 0, 0], [0, 1, 1], [3, 3, 2]])
  assert not np.isfinite(rasterize(vertices, triangles, np.ones((4, 1)), 12, 12)[1]).any()


@pytest.mark.parametrize("size", [1e6, 1e12, 1e30])
def test_a_huge_triangle_fills_the_frame(size):
  vertices = np.array([[-size, -size, 3], [2 * size, -size, 3], [-size, 2 * size, 3]])
  picture, depth = rasterize(vertices, np.array([[0, 1, 2]]), np.full((3, 1), 0.25), 20, 20)
  np.testing.assert_allclose(depth, 3)
  np.testing.assert_allclose(picture, 0.25)


def test_nothing_to_draw():
  picture, depth = rasterize(np.zeros((0, 3)), np.zeros((0, 3), int), np.zeros((0, 2)), 4, 5)
  assert picture.shape == (4, 5, 2)
  assert picture.dtype == depth.dtype == np.float32
  assert not picture.any()
  assert (depth == -np.inf).all()


@pytest.mark.parametrize(
  ("vertices", "triangles", "attributes", "message"),
  [
    (np.zeros((3, 2)), [[0, 1, 2]], np.zeros((3, 1)), "vertices must be"),
    (np.zeros((3, 3)), [[0, 1]], np.zeros((3, 1)), "triangles must be"),
    (np.zeros((3, 3)), [[0, 1, 2]], np.zeros((4, 1)), "attributes must be"),
    (np.zeros((3, 3)), [[0, 1, 2]], np.zeros(3), "attributes must be"),
    (np.zeros((3, 3)), [[0, 1, 3]], np.zeros((3, 1)), "names a vertex outside 0 to 2"),
    (np.zeros((3, 3)), [[0, 1, -1]], np.zeros((3, 1)), "names a vertex outside"),
    (np.full((3, 3), np.nan), [[0, 1, 2]], np.zeros((3, 1)), "not finite"),
    (np.full((3, 3), np.inf), [[0, 1, 2]], np.zeros((3, 1)), "not finite"),
  ],
)
def test_wrong_meshes(vertices, triangles, attributes, message):
  with pytest.raises(ValueError, match=message):
    rasterize(vertices, np.array(triangles), attributes, 4, 4)


# ---------------------------------------------------------------------------------------------------------------------
# Normals.


def test_vertex_normals_are_weighted_by_area():
  # A floor of area 1/2 (normal z) and a wall of area 3/2 (normal -y) that meet at vertices 0 and 1.
  vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 3], [9, 9, 9]])
  triangles = np.array([[0, 1, 2], [0, 1, 3]])
  expected = np.array([[0, -3, 1], [0, -3, 1], [0, 0, 1], [0, -1, 0], [0, 0, 0]], float)
  expected[:2] /= np.sqrt(10)
  np.testing.assert_allclose(vertex_normals(vertices, triangles), expected, atol=1e-15)
  np.testing.assert_allclose(vertex_normals(vertices, triangles[:, ::-1]), -expected, atol=1e-15)


def test_a_normal_towards_the_viewer_in_scene_axes():
  right, down, towards = np.eye(3)
  np.testing.assert_array_equal(to_scene_axes(towards), [0, -1, 0])
  np.testing.assert_array_equal(to_scene_axes(down), [0, 0, -1])
  np.testing.assert_array_equal(to_scene_axes(right), [1, 0, 0])


def test_the_normals_of_a_sphere():
  size, radius = 200, 80
  normal = normal_map(*dome(radius, size), size, size)
  y, x = (np.mgrid[:size, :size] - size / 2) / radius
  distance = np.hypot(x, y)
  z = np.sqrt(np.maximum(1 - distance**2, 0))
  inner = distance < 0.9
  cosine = np.sum(normal * np.stack([x, -z, -y], axis=-1), axis=-1)
  assert np.degrees(np.arccos(np.clip(cosine[inner], -1, 1))).max() < 2
  length = np.linalg.norm(normal, axis=-1)
  np.testing.assert_allclose(length[distance < 0.98], 1, atol=1e-6)
  assert not length[distance > 1].any()
  assert (normal[..., 1] <= 0).all()


def test_the_inside_of_a_mesh_has_no_normals():
  vertices, triangles = dome(80, 200)
  assert not normal_map(vertices, triangles[:, ::-1], 200, 200).any()


# ---------------------------------------------------------------------------------------------------------------------
# The published face.


@pytest.fixture(scope="module")
def published_face(shared):
  """Mesh, texture coordinates, and what the published pipeline renders from them, before its 8-bit pictures."""
  root = shared("reference/ri_render")
  lines = [line.split() for line in (root / "result/imgHQ00000/imgHQ00000.obj").read_text().splitlines() if line]
  vertices = np.array([line[1:4] for line in lines if line[0] == "v"], float)[:, [1, 0, 2]]  # the file has y first
  triangles = np.array([line[1:4] for line in lines if line[0] == "f"], int) - 1
  in_use = scipy_io.loadmat(root / "data/3DMM/model_info.mat")["trimIndex"].ravel().astype(int) - 1
  return vertices, triangles, scipy_io.loadmat(root / "data/3DMM/BFM_UV.mat")["UV"][in_use]


def sample_texture(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
  """A picture `[H, W, C]` at the vertices, bilinearly; (0, 0) is the centre of its bottom left pixel, 0 outside it."""
  height, width, channels = texture.shape
  place = [height - 1 - height * uv[:, 1], width * uv[:, 0]]
  return np.stack(
    [ndimage.map_coordinates(texture[..., c], place, np.float32, order=1, mode="constant") for c in range(channels)], -1
  )


def as_published(published_face, root, *, loader_fault: bool) -> dict[str, np.ndarray]:
  """The published 8-bit pictures, made anew.

  Args:
    published_face: see the fixture.
    root: of the reference data.
    loader_fault: the published loader swaps two corners of each face, but not their texture and normal indices; a
      vertex whose last face names it there gets the normal and the texture coordinates of a neighbour.
  """
  vertices, triangles, uv = published_face
  owner = np.arange(len(vertices))
  if loader_fault:
    owner[triangles[:, [0, 2, 1]].ravel()] = triangles.ravel()
  normals, uv = vertex_normals(vertices, triangles)[owner] * [1, 1, -1], uv[owner]  # theirs point into the scene
  label_picture = cv2.imread(str(root / "data/3DMM/label_v4.png"), cv2.IMREAD_GRAYSCALE)
  labels = sample_texture(label_picture[..., None] == np.arange(1, 14), uv)
  albedo = sample_texture(cv2.imread(str(root / "data/3DMM/UV.png")) / 255, uv)
  attributes = np.concatenate([normals, uv, albedo, labels], axis=1)
  picture, depth = rasterize(vertices, triangles, attributes, 1024, 1024)
  mask = (np.isfinite(depth) & (picture[..., 2] < 0)).astype(np.uint8)
  mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3)))
  picture[~np.isfinite(depth), :8] = -1
  # The background comes before the 13 labels, so that it wins where none has a share.
  label = np.insert(picture[..., 8:], 0, 0, axis=-1).argmax(axis=-1)
  maps = {
    "mask": mask * 255.0,
    "normal": (picture[..., :3] + 1) / 2 * 255,
    "uv": np.maximum(picture[..., 3:5], 0) * 255,
    "albedo": np.maximum(picture[..., 5:8], 0) * 255,
    "label": label / 13 * 255,
  }
  return {name: (m if m.ndim == 3 else m[..., None]).astype(np.uint8) * mask[..., None] for name, m in maps.items()}


def share_within_a_level(ours: np.ndarray, root, name: str, *, rim: int) -> tuple[float, float]:
  """Of all pixels, and of those of the face that are at least `rim` pixels from the frame."""
  published = cv2.imread(str(root / f"result/imgHQ00000/render/{name}.png"))[..., : ours.shape[-1]]
  mask = cv2.imread(str(root / "result/imgHQ00000/render/mask.png"))[..., 0] > 0
  mask[rim:-rim, rim:-rim] |= ours.any(axis=-1)[rim:-rim, rim:-rim]
  mask[:rim] = mask[-rim:] = mask[:, :rim] = mask[:, -rim:] = False
  good = (cv2.absdiff(ours, published).reshape(*mask.shape, -1) <= 1).all(axis=-1)
  return good.mean(), good[mask].mean()


@pytest.mark.parametrize("name", ["mask", "normal", "uv", "albedo", "label"])
def test_the_published_maps(published_face, shared, name):
  """All pixels at 99.9% (the published code draws its two outermost rows differently), within the rows 99.99%."""
  root = shared("reference/ri_render")
  maps = as_published(published_face, root, loader_fault=True)
  everywhere, face = share_within_a_level(maps[name], root, name, rim=2)
  assert everywhere >= 0.999
  assert face >= 0.9999


def test_the_published_loader_mixes_up_vertices(published_face, shared):
  root = shared("reference/ri_render")
  maps = as_published(published_face, root, loader_fault=False)
  _, face = share_within_a_level(maps["normal"], root, "normal", rim=2)
  assert 0.996 < face < 0.998
