"""Where in a framed portrait the new light belongs: on the head, not on the wall behind it."""

import numpy as np

from dpr_jax.base.arrays import ramp, smooth_step
from dpr_jax.base.native_libraries import import_native
from dpr_jax.portrait.faces import OVAL

cv2 = import_native("cv2")

# The segmentation works on a smaller square; its edge is then drawn sharp again along the photo's own edges.
_SEGMENT_SIDE = 192
_SEGMENT_ITERATIONS = 3
_EDGE_RADIUS = 1 / 90  # of the square's side
_EDGE_EPSILON = 1e-5
_EDGE_RANGE = (0.25, 0.8)

# The outline of the landmarks, which ends at the forehead and the cheeks, enlarged to hold hair, ears and neck.
_HEAD_SCALE = np.array([1.3, 1.35])
_HEAD_LIFT = 0.06  # of the square's side, upwards
_EDGE_FADE = 0.15  # of the square's side; over this distance from its edge everything fades out


def head_weight(
  square: np.ndarray, landmarks: np.ndarray, edge_inside: np.ndarray, person: np.ndarray | None = None
) -> np.ndarray:
  """How much of the relighting each pixel of a framed portrait receives.

  The product of two maps: a smooth one that is 1 around the face and 0 at the square's edge, so that there is no seam;
  and a segmentation of the head against its background (GrabCut: Rother et al. 2004, seeded by the landmarks), drawn
  along the photo's edges by a guided filter (He et al. 2013), so that there is no halo.

  Args:
    square: `[S, S, 3]` uint8 RGB, from `Framing`.
    landmarks: `[478, 2]` in pixels of the square.
    edge_inside: `[S, S]` bool, the border pixels of the square that lie inside the photo; where the photo ends first,
      nothing needs to fade out.
    person: `[S, S]` in [0, 1], a better map of the person than GrabCut's, or None.

  Returns:
    `[S, S]` float32 in [0, 1].
  """
  outline = cv2.convexHull(landmarks[OVAL].astype(np.float32))[:, 0]
  side = len(square)
  centre = outline.mean(axis=0)
  head = centre + (outline - centre) * _HEAD_SCALE - (0, _HEAD_LIFT * side)
  head_region = np.zeros((side, side), np.uint8)
  cv2.fillConvexPoly(head_region, np.round(head).astype(np.int32), 1)
  person = _segment(square, outline, head_region) if person is None else person
  return _fade_out(head_region, edge_inside) * person


def _distance(to: np.ndarray) -> np.ndarray:
  """Distance of every pixel to the nearest true one; infinite if there is none."""
  if not to.any():
    return np.full(to.shape, np.inf, np.float32)
  return cv2.distanceTransform((~to).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def _fade_out(head_region: np.ndarray, edge_inside: np.ndarray) -> np.ndarray:
  """1 well inside the head region, 0 on the edge, smooth in between, also where the head reaches the edge."""
  from_head, from_edge = _distance(head_region > 0), _distance(edge_inside)
  nearness = from_edge / (from_edge + from_head + 1e-3) if edge_inside.any() else np.ones_like(from_head)
  return smooth_step(nearness) * smooth_step(from_edge / (_EDGE_FADE * len(head_region)))


def _segment(square: np.ndarray, outline: np.ndarray, head_region: np.ndarray) -> np.ndarray:
  """The head, and what of the body has its colours, against the background: `[S, S]` in [0, 1]."""
  side, small_side = len(square), min(_SEGMENT_SIDE, len(square))
  small = cv2.resize(square, (small_side, small_side), interpolation=cv2.INTER_AREA)
  region = cv2.resize(head_region, (small_side, small_side), interpolation=cv2.INTER_NEAREST)
  labels = np.where(region, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
  # Neck and chest fill the middle of the lowest fifth; the upper border is background unless the hair reaches it.
  fifth, margin = small_side // 5, max(1, small_side // 40)
  labels[-fifth:, fifth:-fifth] = cv2.GC_PR_FGD
  upper_border = np.zeros(labels.shape, bool)
  upper_border[:margin] = upper_border[: 3 * fifth, :margin] = upper_border[: 3 * fifth, -margin:] = True
  labels[upper_border & (region == 0)] = cv2.GC_BGD
  face = np.zeros_like(labels)
  cv2.fillConvexPoly(face, np.round(outline * (small_side / side)).astype(np.int32), 1)
  labels[face > 0] = cv2.GC_FGD
  # GrabCut draws its initial clusters from OpenCV's global random state.
  cv2.setRNGSeed(0)
  cv2.grabCut(small, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), _SEGMENT_ITERATIONS, cv2.GC_INIT_WITH_MASK)
  foreground = ((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)).astype(np.float32)
  foreground = cv2.resize(foreground, (side, side), interpolation=cv2.INTER_LINEAR)
  guide = square.astype(np.float32) / 255
  matte = cv2.ximgproc.guidedFilter(guide, foreground, max(1, round(_EDGE_RADIUS * side)), _EDGE_EPSILON)
  # What little the filter leaks across an edge shows as a glow around a bright cheek: cut it, more outside than inside.
  low, high = _EDGE_RANGE
  return ramp(matte, low, high)
