"""Nine and 27 numbers as people and programs save them."""

import json

import numpy as np
import pytest

from dpr_jax.base.errors import BadInput
from dpr_jax.light.files import check_light, read_coefficients
from dpr_jax.portrait.lights import parse_light

NINE = np.float32([0.75, -0.35, 0.3, -0.45, 0.25, -0.15, -0.05, -0.2, 0.05])
WORDS = [f"{number:g}" for number in NINE]
COLOURED = np.float32([[1.0], [0.8], [0.6]]) * NINE


def read(tmp_path, content, name="light.txt"):
  path = tmp_path / name
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  return read_coefficients(path)


@pytest.mark.parametrize(
  "text",
  [
    " ".join(WORDS),
    "\n".join(WORDS),
    "\r\n".join(WORDS),
    ", ".join(WORDS),
    ";".join(WORDS),
    "; ".join(WORDS) + ";",
    "[" + ", ".join(WORDS) + "]",
    "[[" + ", ".join(WORDS) + "]]",
    "(" + ", ".join(WORDS) + ")\n",
    "array([" + ", ".join(WORDS) + "], dtype=float32)",
    "np.array([" + ", ".join(WORDS) + "])",
    "# left-top lamp\n" + "\n".join(WORDS),
    "% 9 numbers\n" + "\n".join(f"{word}  # number {k}" for k, word in enumerate(WORDS)),
    "// 1 2 3\n" + " ".join(WORDS),
    "\n".join(WORDS).replace(".", ","),  # a decimal comma
    "; ".join(WORDS).replace(".", ","),
    "\ufeff" + " ".join(WORDS),
    "/* a lamp, 4 m\n away */ " + " ".join(WORDS),
    "sh = [" + ", ".join(WORDS) + "]",
    "float sh[9] = {" + "f, ".join(WORDS) + "f};",
    json.dumps({"sh": NINE.tolist()}),
    " ".join(WORDS).replace("-", "\N{MINUS SIGN}"),
  ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be"])
def test_nine_numbers(tmp_path, text, encoding):
  np.testing.assert_allclose(read(tmp_path, text.encode(encoding)), NINE, rtol=1e-6)


def test_comments_may_be_in_the_code_page_of_windows(tmp_path):
  np.testing.assert_allclose(read(tmp_path, "# für links\n".encode("cp1252") + " ".join(WORDS).encode()), NINE)


@pytest.mark.parametrize("text", [json.dumps({"b": [1] * 9, "g": [2] * 9, "r": [3] * 9}), "b,g,r\n" + "1 2 3\n" * 9])
def test_names_that_might_say_an_order_are_not_passed_over(tmp_path, text):
  with pytest.raises(BadInput, match="could not convert"):
    read(tmp_path, text)


def rows(numbers, between=" ", end="\n"):
  return end.join(between.join(f"{number:.9g}" for number in row) for row in numbers)


@pytest.mark.parametrize(
  "text",
  [
    rows(COLOURED),
    rows(COLOURED.T),
    rows(COLOURED.reshape(27, 1)),
    rows(COLOURED.T.reshape(27, 1)),
    rows(COLOURED.reshape(1, 27), ", "),
    rows(COLOURED.T.reshape(1, 27), "; "),
    json.dumps(COLOURED.tolist()),
    json.dumps(COLOURED.T.tolist()),
    json.dumps(COLOURED.T.tolist(), indent=2),
    json.dumps(COLOURED.T.ravel().tolist()),
    repr(COLOURED.T),
    "[" + rows(COLOURED, " ", "; ") + "]",
    "# r g b\n" + rows(COLOURED.T, ","),
    "vec3(" + rows(COLOURED.T, ", ", "),\nvec3(") + ")",
    json.dumps({"sh": COLOURED.T.tolist()}, indent=1),
  ],
)
def test_twenty_seven_numbers_in_either_order(tmp_path, text):
  np.testing.assert_allclose(read(tmp_path, text), COLOURED, rtol=1e-6)


def test_lamps_of_different_colours_are_told_by_which_order_can_be_a_light(tmp_path):
  """The colours differ as much as the coefficients do, but in the other order a first number is not positive."""
  lamps = np.float32([NINE, NINE * [1, -1, 1, -1, 1, -1, 1, -1, 1], NINE * [0.5, 1, -1, 1, -1, 1, 1, 1, -1]])
  for numbers in (lamps, lamps.T):
    np.testing.assert_allclose(read(tmp_path, rows(numbers.reshape(27, 1))), lamps, rtol=1e-6)


def test_an_order_that_cannot_be_told_is_refused(tmp_path):
  for numbers in (np.full(27, 0.8), np.arange(27) / 8 - 1):
    with pytest.raises(BadInput, match="27 numbers whose order cannot be told"):
      read(tmp_path, rows(numbers[:, None]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_arrays_of_numpy(tmp_path, dtype):
  for numbers in (NINE, NINE[:, None], NINE[None], COLOURED, COLOURED.T, COLOURED.ravel()):
    np.save(tmp_path / "light.npy", numbers.astype(dtype))
    expected = NINE if numbers.size == 9 else COLOURED
    for name in ("light.npy", "light.txt"):
      (tmp_path / name).write_bytes((tmp_path / "light.npy").read_bytes())
      np.testing.assert_allclose(
        read_coefficients(tmp_path / name), expected, atol=1e-3 if dtype == np.float16 else 1e-6
      )
  assert parse_light(str(tmp_path / "light.npy")).soft.shape == (3, 9)


def test_arrays_that_are_no_lights(tmp_path):
  np.save(tmp_path / "pickled.npy", np.array([{}], object), allow_pickle=True)
  np.save(tmp_path / "many.npy", np.zeros(1000))
  np.save(tmp_path / "words.npy", np.array(["a"] * 9))
  (tmp_path / "cut.npy").write_bytes((tmp_path / "words.npy").read_bytes()[:60])
  for name in ("pickled", "many", "words", "cut"):
    with pytest.raises(BadInput, match=f"{name}.npy: ") as refused:
      read_coefficients(tmp_path / f"{name}.npy")
    assert "\n" not in str(refused.value)


def test_a_signalling_nan_is_not_finite_without_a_word(tmp_path):
  numbers = np.full(9, 0.5)
  numbers[4:5].view(np.uint64)[:] = 0x7FF0000000000001
  np.save(tmp_path / "light.npy", numbers)
  with pytest.raises(BadInput, match="not finite"):
    parse_light(str(tmp_path / "light.npy"))


def test_lights_that_no_network_knows_are_refused_with_the_reason(tmp_path):
  check_light("light", NINE)
  check_light("light", COLOURED)
  for numbers, reason in (
    (0 * NINE, "must be positive and is 0"),
    (-NINE, "must be positive and is -0.75"),
    (100 * NINE, "is 75; those of lights are about 1"),
    (1e-4 * NINE, "is 7.5e-05; those of lights are about 1"),
    (np.where(np.arange(9) == 0, 0.01, NINE), "45 times the first one"),
    (COLOURED * [[1], [-1], [1]], "must be positive"),
  ):
    with pytest.raises(BadInput, match=reason):
      check_light("light", numbers)


def test_files_without_end_are_not_read(tmp_path):
  import os

  os.mkfifo(tmp_path / "pipe.txt")
  for path in ("/dev/zero", tmp_path / "pipe.txt"):
    with pytest.raises(BadInput, match="is not a file"):
      read_coefficients(path)


def test_the_odd_lights(shared):
  expected = parse_light(str(shared("cases/odd/sh_27_9x3.txt"))).soft
  np.testing.assert_array_equal(parse_light(str(shared("cases/odd/sh_27_lines.txt"))).soft, expected)
  for name in ("brackets", "comment", "utf16"):
    np.testing.assert_allclose(parse_light(str(shared(f"cases/odd/sh_{name}.txt"))).soft[0], NINE, rtol=1e-6)
  for name in ("zero", "9_big"):
    with pytest.raises(BadInput, match="no light: its first number"):
      parse_light(str(shared(f"cases/odd/sh_{name}.txt")))
