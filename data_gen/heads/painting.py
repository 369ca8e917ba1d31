"""The albedo of every pixel of a portrait: skin by its pigments, brows and beards hair by hair, eyes, teeth, cloth."""

import numpy as np

from data_gen.heads import morphable_head as parts
from data_gen.heads.buffers import Fragments
from data_gen.heads.noise import smooth_noise
from data_gen.heads.people import CHANNELS, HAIR, Look, PeopleModel, Person
from data_gen.heads.pigments import skin_colour
from dpr_jax.base.arrays import ramp
from dpr_jax.image.color import linearise

_IRIS, _LIMBUS = 23.0, 3.0  # degrees from the eye's axis to the rim of the iris, and the width of that rim
_TURN = np.float32(np.linalg.qr(np.array([[1.0, 0.35, 0.2], [-0.35, 1.0, -0.3], [-0.25, 0.3, 1.0]]))[0])
_EYE_AXIS = np.array([0.12, 0.03, 1.0])  # of the subject's left eye
_SCLERA = linearise(np.array([176, 165, 158]) / 255)
_TEETH = linearise(np.array([222, 208, 184]) / 255)
_GUMS = linearise(np.array([158, 84, 82]) / 255)


def paint(
  rng: np.random.Generator, model: PeopleModel, person: Person, shown: Fragments, part: np.ndarray, material: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Albedo `[P, 3]` linear float32 of fragments.

  Args:
    rng: the randomness.
    model: the head.
    person: who is portrayed.
    shown: the fragments; corners are those of all parts, one after the other.
    part: `[P]`, the number of each fragment's part.
    material: `[P]`.

  Returns:
    The albedo, and the head's channels at the head's own fragments, `[Q]` each, by name.
  """
  look = person.look
  albedo = np.zeros((len(part), 3), np.float32)
  starts = np.cumsum([0, *(len(each.vertices) for each in person.parts)])
  for number, each in enumerate(person.parts):
    chosen = part == number
    if number and chosen.any():
      own = shown.of(chosen)
      own = own._replace(corners=own.corners - starts[number])
      albedo[chosen] = (
        _hair(person, own.gather(each.strands)) if (each.material == HAIR).all() else own.gather(each.albedo)
      )
  on_head = part == 0
  head = shown.of(on_head)
  values = head.gather(person.channels)
  at = {name: values[:, number] for number, name in enumerate(CHANNELS)}
  points, kind = np.ascontiguousarray(values[:, :3]), material[on_head]
  colour = _skin(rng, person, points, at)
  for number, eye in enumerate((parts.LEFT_EYEBALL, parts.RIGHT_EYEBALL)):
    chosen = kind == eye
    if chosen.any():
      colour[chosen] = _eye(look, person.noise, points[chosen] - model.eye_centres[number], (1, -1)[number])
  shade = (1 - 0.85 * at["mouth"])[:, None]
  for number, paint_of in ((parts.TEETH, _TEETH), (parts.GUMS, _GUMS)):
    chosen = kind == number
    colour[chosen] = paint_of * shade[chosen] * (1 + 0.1 * smooth_noise(person.noise, points[chosen], 0.7))[:, None]
  mouth = kind == parts.MOUTH
  colour[mouth] = _GUMS * 0.5 * shade[mouth] ** 2
  sockets = (kind == 3) | (kind == 4)
  colour[sockets] = colour[sockets] * np.float32((0.55, 0.4, 0.38))
  albedo[on_head] = colour
  return np.clip(albedo, 0.002, 0.9), at


def _skin(rng: np.random.Generator, person: Person, points: np.ndarray, at: dict[str, np.ndarray]) -> np.ndarray:
  look, noise = person.look, person.noise
  # Turned and bent, so that the lattice of the noise does not show.
  bent = points @ _TURN + 0.35 * at["bend"][:, None]

  def field(wavelength, shift, chosen=slice(None)):
    return smooth_noise(noise, bent[chosen] + np.float32(shift), wavelength)

  fine, finest = field(0.28, 23), field(0.14, 91)
  pores = rng.standard_normal(len(points), np.float32)
  lip = np.clip(at["lips"] * 1.15, 0, 1)
  melanin = np.float32(np.log(look.melanin)) + at["melanin"] + np.float32(0.05 * look.mottling) * fine
  blood = np.float32(np.log(look.blood)) + at["blood"] + np.float32(0.08 * look.mottling) * fine
  if look.freckles > 0.05:
    spots = _ramp(finest + 0.3 * at["melanin"], 0.75, 1.3) * _ramp(points[:, 1], -5, 1) * _ramp(points[:, 2], 5, 8)
    melanin += np.float32(0.9 * look.freckles) * spots
  chosen = lip > 0.01
  blood[chosen] += lip[chosen] * (1.5 + 0.25 * field((0.16, 1.5, 1.5), 3, chosen))
  colour = skin_colour(np.exp(melanin), np.exp(blood))
  colour *= np.exp(np.float32(0.022) * pores + np.float32(0.02) * finest)[:, None]

  def lay(share, paint_of):
    """Paints over, where there is anything to paint: `paint_of` gives colours of the pixels chosen."""
    chosen = share > 0.01
    if chosen.any():
      colour[chosen] = _mix(colour[chosen], paint_of(chosen), share[chosen])

  if look.lipstick is not None:
    lay(0.75 * _ramp(lip, 0.3, 0.8), lambda chosen: look.lipstick)
  front = _ramp(points[:, 2], 4, 6)
  for x, y, _, radius in look.moles:
    distance = np.hypot(points[:, 0] - np.float32(x), points[:, 1] - np.float32(y))
    share = 0.7 * front * _ramp(-distance, -1.5 * radius, -0.3 * radius)
    lay(share, lambda chosen: colour[chosen] * np.float32((0.5, 0.4, 0.36)))

  def stubble(chosen):
    shadow = 0.45 * colour[chosen] + np.float32(0.25 * look.hair)
    return _mix(colour[chosen], shadow, 0.7 + 0.3 * finest[chosen])

  def hairs(wavelength, shift, brightness):
    return lambda chosen: brightness * _hair_colour(look, field(wavelength, shift, chosen) + 0.5 * fine[chosen])

  grown = 0.5 + 0.5 * field((0.14, 0.35, 0.3), 29) if max(look.beard, look.moustache) else fine
  beard = np.clip(1.9 * look.beard * at["beard"] - 0.5 + 0.45 * grown, 0, 0.96) * (look.beard > 0)
  moustache = np.clip(1.9 * look.moustache * at["moustache"] - 0.5 + 0.45 * grown, 0, 0.96) * (look.moustache > 0)
  lay(np.float32(0.8 * look.stubble) * np.clip(at["beard"] + at["moustache"], 0, 1), stubble)
  lay(np.maximum(beard, moustache), hairs((0.12, 0.6, 0.5), 19, 0.9))
  brows = np.clip(1.5 * at["brows"] - 0.3 + 0.2 * finest, 0, 1) * np.float32(0.4 + 0.6 * look.brows)
  lay(np.clip(brows, 0, 0.92), lambda chosen: 0.7 * _hair_colour(look, fine[chosen]))
  lay(0.85 * look.lashes * _ramp(at["lids"], 0.45, 0.95), lambda chosen: np.float32((0.02, 0.014, 0.012)))
  if person.wears_hair:
    growing = np.zeros_like(fine)
    near = at["hairline"] > -1.5
    wisps = 0.45 * field((0.18, 1.2, 0.6), 67, near) + 0.2 * pores[near]
    growing[near] = 0.94 * _ramp(at["hairline"][near] + wisps, -0.3, 0.55)
    lay(growing, hairs((0.12, 0.9, 0.5), 19, 1.0))

  def cloth(chosen):
    weave = np.exp(0.06 * fine[chosen] + 0.1 * at["melanin"][chosen])[:, None]
    return _mix(look.cloth[0], look.cloth[1], _ramp(at["collar"][chosen], 0.7, 0.8)) * weave

  lay(_ramp(at["collar"], -0.02, 0.04), cloth)
  return colour


def _ramp(values: np.ndarray, start: float, end: float) -> np.ndarray:
  return ramp(values, np.float32(start), np.float32(end))


def _hair_colour(look: Look, streaks: np.ndarray) -> np.ndarray:
  """Colour `[P, 3]` of hairs, some of them white, from noise along them `[P]`."""
  colour = np.float32(look.hair) * np.exp(np.float32(0.3) * streaks)[:, None]
  return _mix(colour, np.float32((0.30, 0.295, 0.29)), np.clip(look.gray * (1 + 0.5 * streaks), 0, 1))


def _hair(person: Person, strands: np.ndarray) -> np.ndarray:
  """Albedo `[P, 3]` of sheets of hair."""
  places = np.zeros((len(strands), 3), np.float32)
  places[:, :2] = strands[:, :2]
  streaks = smooth_noise(person.noise, places, (1.6, 3.0, 1.0)) + 0.9 * smooth_noise(person.noise, places, (8, 12, 1))
  colour = _hair_colour(person.look, streaks)
  # Roots and the edges of sheets lie in the shadow of other hair.
  return colour * (0.8 + 0.2 * np.clip(strands[:, 2:], 0, 1))


def _eye(look: Look, noise: np.ndarray, offset: np.ndarray, side: int) -> np.ndarray:
  """Albedo `[P, 3]` of an eyeball, at places `[P, 3]` from its centre."""
  axis = _EYE_AXIS * (side, 1, 1) / np.linalg.norm(_EYE_AXIS)
  offset = offset / np.linalg.norm(offset, axis=1, keepdims=True)
  angle = np.degrees(np.arccos(np.clip(offset @ axis, -1, 1))).astype(np.float32)
  around = np.arctan2(offset[:, 1] - axis[1], offset[:, 0] - axis[0]).astype(np.float32)
  rays = smooth_noise(noise, np.column_stack([around * 5, angle * 0.1, np.zeros_like(angle)]), 1.0)
  red = _ramp(angle, 26, 60)[:, None]
  colour = np.float32(_SCLERA) * (1 - red * np.float32((0.22, 0.42, 0.42)))
  iris = np.float32(look.iris) * (1 + 0.35 * rays)[:, None] * (1.25 - 0.5 * _ramp(angle, 10, _IRIS))[:, None]
  colour = _mix(colour, iris, 1 - _ramp(angle, _IRIS - _LIMBUS / 2, _IRIS + _LIMBUS / 2))
  colour = _mix(colour, colour * 0.45, np.exp(-(((angle - _IRIS) / _LIMBUS) ** 2)))
  return _mix(colour, np.full(3, 0.003, np.float32), 1 - _ramp(angle, 8, 10.5))


def _mix(below: np.ndarray, above: np.ndarray, share: np.ndarray) -> np.ndarray:
  share = np.reshape(share, (-1, 1)).astype(np.float32)
  return below + share * (np.asarray(above, np.float32) - below)
