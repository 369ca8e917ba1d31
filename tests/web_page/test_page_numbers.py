"""What the page computes in JavaScript, beside what this package computes: run by Node, without a browser."""

import json
import re
import shutil
import subprocess

import cv2
import jax
import numpy as np
import pytest
import scipy.ndimage
import scipy.sparse
from scipy.sparse import csgraph

from dpr_jax.image import color
from dpr_jax.image.pictures import astronaut
from dpr_jax.light import exposure, light, sh
from dpr_jax.light.light import Light
from dpr_jax.light.shading import believed_shading, face_shading
from dpr_jax.light.shadows import depth_of_normals
from dpr_jax.network.ratio_network import RatioHourglassNet
from dpr_jax.network.shape import RatioEncoding, Shape
from dpr_jax.portrait import portrait
from dpr_jax.portrait.canonical_face import canonical_face
from dpr_jax.portrait.faces import OVAL, Face, frame_face
from dpr_jax.portrait.landmark_mesh import mesh_surface
from dpr_jax.portrait.lights import PRESETS, Direction, studio_light
from dpr_jax.portrait.square import cut_square
from tests.conftest import ROOT

NODE = shutil.which("node")
PAGE = ROOT / "web_page" / "page"
SIZE, CELLS = 256, 64

needs_node = pytest.mark.skipif(NODE is None, reason="Node.js is not installed")
pytestmark = [needs_node, pytest.mark.usefixtures("quick_compilation")]

LIGHTS = {
  "left": studio_light(PRESETS["left"]),
  "behind": studio_light(Direction(-115, 30, 0, 3)),
  "even": light.even_light(),
  "warm": light.tint_lamps(studio_light(Direction(20, -35, 0.5, 40)), color.lamp_colour(2500)),
}


def javascript(code, **values):
  """What a piece of the page returns, of `values` as typed arrays, numbers and lists."""
  told = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}
  script = f"""
    import {{ readFileSync }} from "node:fs";
    const given = JSON.parse(readFileSync(0, "utf-8"));
    const floats = (numbers) => Float32Array.from(numbers.flat(Infinity));
    const bytes = (numbers) => Uint8ClampedArray.from(numbers.flat(Infinity));
    const result = await (async () => {{ {code} }})();
    const plain = (key, value) => (ArrayBuffer.isView(value) ? Array.from(value) : value);
    process.stdout.write(JSON.stringify(result, plain));
  """
  done = subprocess.run(
    [NODE, "--input-type=module", "--eval", script], input=json.dumps(told), capture_output=True, text=True, cwd=PAGE
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


def in_javascript(lit):
  return {name: np.asarray(part).tolist() for name, part in lit._asdict().items()}


@pytest.fixture(scope="module")
def relief():
  """A face that is none: a dome with a nose, its normals, and where it is skin."""
  down, right = (np.mgrid[:CELLS, :CELLS] - 31.5) / 32
  height = 0.5 * np.sqrt(np.maximum(1 - 0.8 * right**2 - 0.5 * down**2, 0.05))
  height += 0.15 * np.exp(-(right**2 / 0.01 + (down - 0.1) ** 2 / 0.05))
  slope_down, slope_right = np.gradient(height, 1 / 32)
  normal = np.stack([-slope_right, -np.ones_like(height), slope_down], axis=-1)
  normal = np.float32(normal / np.linalg.norm(normal, axis=-1, keepdims=True))
  skin = np.float32(np.clip(1.2 - right**2 - down**2, 0, 1))
  return Shape(
    luminance=np.float32(color.srgb_to_lab(cv2.resize(astronaut(), (SIZE, SIZE)) / np.float32(255))[..., :1] / 100),
    framing=np.zeros(3, np.float32),
    normal=normal,
    depth=np.asarray(depth_of_normals(normal))[..., None],
    skin=skin[..., None],
    doubt=np.clip(3 * normal[..., :1], 0, 1) * skin[..., None],  # all of one side
  )


def shading(shape, lit):
  """As far as it is believed."""
  skin = shape.skin[..., 0]
  plain = jax.jit(face_shading)(shape.normal, shape.depth[..., 0], skin, lit)
  return np.asarray(believed_shading(plain, skin, shape.doubt[..., 0]))


@pytest.mark.parametrize("name", LIGHTS)
def test_shading_is_that_of_jax(name, relief):
  expected = shading(relief, LIGHTS[name])
  found = javascript(
    """
    const { faceShading, litShape } = await import("./shading.js");
    const shape = litShape(...["normal", "depth", "skin", "doubt"].map((name) => floats(given[name])), 64);
    return faceShading(shape, given.light);
    """,
    normal=relief.normal,
    depth=relief.depth,
    skin=relief.skin,
    doubt=relief.doubt,
    light=in_javascript(LIGHTS[name]),
  )
  found = np.moveaxis(np.reshape(found, (-1, CELLS, CELLS)), 0, -1)
  assert np.ptp(expected) > 0.1 or name == "even"
  np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["left", "warm"])
def test_the_ratio_is_the_network_s(name, relief):
  """As `Portrait` puts a face under a light that was turned with its head, half a stop brighter."""
  roll, stops = 12.0, 0.5
  own = shading(relief, studio_light(PRESETS["right"]))
  batch = Shape(*(part[None] for part in relief))
  target = Light(*(part[None] for part in light.rotate(LIGHTS[name], sh.roll(roll))))
  encoding = RatioEncoding(own[None], target, batch, own[None])
  ratio = np.asarray(RatioHourglassNet().apply({}, encoding, target, method="log_ratio"))[0]
  oval = np.zeros((SIZE, SIZE), np.float32)
  oval[60:200, 70:180] = 1
  before = color.luminance_of_lightness(relief.luminance[..., 0])
  after = light.luminance(before[..., None] * np.exp(ratio))
  gain = np.log(portrait._key(before, oval) / portrait._key(after, oval))
  lines = portrait._local_lines(relief.luminance[..., 0], portrait.within_stops(ratio + gain + stops * np.log(2)))
  found = javascript(
    """
    const { FaceRatio } = await import("./ratio.js");
    const { normal, depth, skin, doubt, shading, lightness, oval } = given;
    const [face, names] = [{ roll: given.roll }, { normal, depth, skinWeight: skin, doubt, shading, lightness }];
    for (const [name, numbers] of Object.entries({ ...names, skin: oval })) face[name] = floats(numbers);
    const ratio = new FaceRatio(face, 256, 64);
    return [ratio.logRatio(given.light, given.stops), ratio.lines(given.light, given.stops)];
    """,
    normal=relief.normal,
    depth=relief.depth,
    skin=relief.skin,
    doubt=relief.doubt,
    shading=own,
    lightness=relief.luminance,
    oval=oval,
    roll=roll,
    stops=stops,
    light=in_javascript(LIGHTS[name]),
  )
  found_ratio = np.moveaxis(np.reshape(found[0], (-1, SIZE, SIZE)), 0, -1)
  np.testing.assert_allclose(found_ratio, ratio + gain + stops * np.log(2), atol=1e-3)
  for c, line in enumerate(found[1]):
    there = np.reshape(line["a"], (SIZE, SIZE)) * relief.luminance[..., 0] + np.reshape(line["b"], (SIZE, SIZE))
    here = lines[..., c, 0] * relief.luminance[..., 0] + lines[..., c, 1]
    np.testing.assert_allclose(there, here, atol=1e-3)


def test_lights_are_the_package_s():
  turned = light.rotate(LIGHTS["left"]._replace(soft=np.linspace(-1, 1, 9, dtype=np.float32)[None]), sh.roll(33))
  found = javascript(
    """
    const lights = await import("./lights.js");
    const { lampColour } = await import("./color.js");
    const soft = [given.soft];
    return {
      presets: lights.PRESETS,
      studio: lights.keyAndFill(65, 10, 0.25, 15),
      even: lights.evenLight(),
      turned: lights.roll({ ...lights.keyAndFill(65, 10, 0.25, 15), soft }, 33),
      colours: given.kelvins.map(lampColour),
      warm: lights.tintLamps(lights.keyAndFill(20, -35, 0.5, 40), lampColour(2500)),
    };
    """,
    soft=np.linspace(-1, 1, 9),
    kelvins=[1800, 2500, 3500, 6504, 11000],
  )
  assert found["presets"] == {name: preset and list(preset) for name, preset in PRESETS.items()}
  for name, expected in (("studio", LIGHTS["left"]), ("turned", turned), ("warm", LIGHTS["warm"])):
    for part in Light._fields:
      np.testing.assert_allclose(found[name][part], getattr(expected, part), atol=1e-6, err_msg=f"{name} {part}")
  np.testing.assert_allclose(found["even"]["soft"], LIGHTS["even"].soft, atol=1e-6)
  colours = [color.lamp_colour(kelvin) for kelvin in (1800, 2500, 3500, 6504, 11000)]
  np.testing.assert_allclose(found["colours"], colours, atol=1e-6)


def test_the_square_and_the_surface_of_a_face_are_the_package_s():
  """A canonical face, turned and leaning, that reaches beyond a photo."""
  turn = cv2.Rodrigues(np.array([0.15, 0.5, 0.3]))[0]
  mesh = canonical_face().vertices @ turn.T * 11
  landmarks = np.concatenate([mesh, np.zeros((10, 3))])
  face = Face(landmarks[:, :2] * (1, -1) + (120, 180), landmarks[:, 2])
  framing = frame_face(face, SIZE)
  pixels = cv2.resize(astronaut(), (700, 700), interpolation=cv2.INTER_CUBIC)[:, :500]
  found = javascript(
    """
    const { cutSquare, framed } = await import("./framing.js");
    const { meshSurface } = await import("./landmark_mesh.js");
    const framing = framed(given.landmarks, 256);
    const photo = { data: bytes(given.pixels), width: 500, height: 700, channels: 4 };
    return { framing, square: cutSquare(photo, framing).data, ...meshSurface(given.landmarks, framing, given, 64) };
    """,
    landmarks=np.column_stack([face.landmarks, face.depth]),
    pixels=np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)]),
    vertices=canonical_face().vertices,
    triangles=canonical_face().triangles,
  )
  np.testing.assert_allclose(np.reshape(found["framing"]["matrix"], (2, 3)), framing.matrix, rtol=1e-9, atol=1e-9)
  assert found["framing"]["roll"] == pytest.approx(framing.roll)
  square = np.reshape(found["square"], (SIZE, SIZE, 4))[..., :3]
  difference = np.abs(square - cut_square(pixels, framing).astype(int))
  assert difference.mean() < 0.5  # OpenCV's warp rounds places to a 32nd of a pixel
  assert np.percentile(difference, 99) <= 3
  expected = mesh_surface(face, framing, CELLS)
  weight = np.reshape(found["weight"], (1, CELLS, CELLS, 1))
  np.testing.assert_allclose(weight, expected.weight, atol=1e-4)
  inside = expected.weight[..., 0] > 0
  assert 500 < inside.sum() < 3500
  for name, channels in (("normal", 3), ("depth", 1)):
    there = np.reshape(found[name], (1, CELLS, CELLS, channels))[inside]
    np.testing.assert_allclose(there, getattr(expected, name)[inside], atol=1e-3)


def test_the_key_is_the_package_s():
  generator = np.random.default_rng(0)
  values, weights = generator.random((2, CELLS, CELLS), np.float32)
  found = javascript(
    'const { key } = await import("./exposure.js"); return key(floats(given.values), floats(given.weights));',
    values=values,
    weights=weights,
  )
  assert found == pytest.approx(float(exposure.key(values, weights)), abs=1e-5)


def test_regions_are_opencv_s():
  generator = np.random.default_rng(0)
  points = generator.uniform(8, 56, (len(OVAL), 2))
  marked = generator.random((64, 64)) < 0.01
  hull, shares, distance = javascript(
    """
    const { convexHull, covered, distanceTo } = await import("./regions.js");
    const hull = convexHull(given.points);
    return [hull, covered(hull, 64), distanceTo(given.marked.flat(), 64)];
    """,
    points=points,
    marked=marked,
  )
  expected = cv2.convexHull(np.float32(points))[:, 0]
  assert {tuple(np.float32(point)) for point in hull} == {tuple(point) for point in expected}
  assert np.sum(shares) == pytest.approx(cv2.contourArea(expected), rel=0.01)
  np.testing.assert_allclose(
    np.reshape(distance, (64, 64)), scipy.ndimage.distance_transform_edt(~marked), rtol=1e-6, atol=1e-6
  )


def test_no_cut_is_cheaper():
  """Its cost is the largest flow (Ford & Fulkerson 1956), which SciPy knows."""
  side, generator = 9, np.random.default_rng(1)
  excess = generator.integers(-60, 61, side * side)
  bonds = np.zeros((side * side, 8), int)
  steps = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (-1, 1), (1, -1)]
  first, second, capacity = [], [], []
  for k in range(side * side):
    for way, (right, down) in enumerate(steps):
      x, y = k % side + right, k // side + down
      if way % 2 == 0 and 0 <= x < side and 0 <= y < side:
        bonds[k, way] = bonds[y * side + x, way + 1] = generator.integers(1, 30)
        first += [k, y * side + x]
        second += [y * side + x, k]
        capacity += [bonds[k, way]] * 2
  edges = list(zip(first, second, capacity, strict=True))
  source, sink = side * side, side * side + 1
  ends = [(source, k, e) if e > 0 else (k, sink, -e) for k, e in enumerate(excess) if e]
  rows, columns, values = zip(*edges, *ends, strict=True)
  network = scipy.sparse.csr_array((np.int32(values), (rows, columns)), shape=(side * side + 2,) * 2)
  front = javascript(
    """
    const { graphCut } = await import("./graph_cut.js");
    return graphCut(floats(given.excess), floats(given.bonds), 9);
    """,
    excess=excess,
    bonds=bonds,
  )
  cost = sum(max(e, 0) if not there else max(-e, 0) for e, there in zip(excess, front, strict=True))
  cost += sum(c for a, b, c in edges if front[a] > front[b])
  assert 0 < sum(front) < side * side
  assert cost == csgraph.maximum_flow(network, source, sink).flow_value


def test_both_sides_know_the_same_sizes():
  """Numbers that stand in Python and in JavaScript."""
  from web_page import models

  finder = (PAGE / "face_finder.js").read_text(encoding="utf-8")
  assert re.search(r"CANVAS = { width: (\d+), height: (\d+) }", finder).groups() == (
    str(models.CANVAS[1]),
    str(models.CANVAS[0]),
  )
  assert re.search(r"BATCH = (\d+)", finder)[1] == str(models.SQUARES)
