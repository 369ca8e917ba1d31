"""The rooms of the package: every import points down the list, from the specific to the general."""

import ast
import collections
import functools
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

# Whoever stands lower may import whoever stands higher; never the other way round.
ROOMS = (
  "base",
  "records",
  "light",
  "image",
  "network",
  "portable",
  "portrait",
  "film",
  "train",
  "configs",
  "web",
  "cli",
)
# Neighbours of which neither knows the other.
STRANGERS = ({"film", "train"}, {"train", "web"})
PACKAGE = "dpr_jax"
ENTRY = "dpr_jax.__main__"  # of `python -m dpr_jax`


def module_names(folder: Path) -> dict[str, Path]:
  """All modules below a folder of the repository, by their dotted names."""
  return {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in folder.rglob("*.py")
  }


MODULES = module_names(ROOT / PACKAGE)
GENERATION = module_names(ROOT / "data_gen")


@functools.cache
def parsed(path: Path) -> ast.Module:
  text = path.read_text(encoding="utf-8")
  try:
    return ast.parse(text)
  except SystemError:  # Python 3.11, when another thread of the process has parsed meanwhile (python/cpython#106905)
    return ast.parse(text)


@functools.cache
def imports(path: Path) -> list[ast.Import | ast.ImportFrom]:
  """All import statements of a file, wherever in it."""
  return [node for node in ast.walk(parsed(path)) if isinstance(node, (ast.Import, ast.ImportFrom))]


def imported(path: Path, known: set[str]) -> set[str]:
  """The modules of `known` that a file imports, wherever in it."""
  found = set()
  for node in imports(path):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    else:
      assert not node.level, f"{path}: imports are absolute"
      found |= {
        f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in known else node.module for alias in node.names
      }
  return found & known


def room(module: str) -> str:
  """The room of a module of the package; the package itself and its entry have none."""
  return module.split(".")[1] if "." in module and module != ENTRY else ""


ARROWS = [(name, target) for name, path in MODULES.items() for target in imported(path, set(MODULES)) if target != name]


def test_every_module_has_a_room():
  assert {room(name) for name in MODULES} - {""} <= set(ROOMS)
  assert {name for name in MODULES if name.count(".") == 1 and MODULES[name].stem != "__init__"} == {
    f"{PACKAGE}.records",
    ENTRY,
  }


def test_contributors_are_told_the_same_list():
  text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
  assert re.findall(r"^  \| `(\w+)` \|", text, re.M) == list(reversed(ROOMS))


@pytest.mark.parametrize("importer", ROOMS)
def test_arrows_point_down_the_list(importer):
  targets = collections.defaultdict(list)
  for name, target in ARROWS:
    if room(name) == importer and room(target):
      targets[room(target)].append(f"{name} -> {target}")
  for target, arrows in targets.items():
    assert ROOMS.index(target) <= ROOMS.index(importer), arrows
    assert {importer, target} not in STRANGERS, arrows


def test_inside_a_room_no_two_modules_need_each_other_while_they_are_imported():
  """Imports inside functions may close a circle; those at the top of a file may not."""
  top = {}
  for name, path in MODULES.items():
    needed = set()
    for node in parsed(path).body:
      if isinstance(node, ast.Import):
        needed |= {alias.name for alias in node.names}
      elif isinstance(node, ast.ImportFrom):
        needed |= {f"{node.module}.{alias.name}" for alias in node.names} & set(MODULES) or {node.module}
    top[name] = needed & set(MODULES) - {PACKAGE}

  def visit(name: str, above: tuple[str, ...]) -> None:
    assert name not in above, " -> ".join((*above, name))
    for target in top[name]:
      visit(target, (*above, name))

  for name in top:
    visit(name, ())


def test_only_commands_know_how_datasets_are_made():
  for name, path in MODULES.items():
    if room(name) != "cli":
      assert not imported(path, set(GENERATION)), name
  for name, path in GENERATION.items():
    rooms = {room(target) for target in imported(path, set(MODULES))}
    assert not rooms & {"web", "cli", "configs"}, (name, rooms)


def test_the_papers_networks_hold_nothing_of_ours():
  path = MODULES[f"{PACKAGE}.network.hourglass"]
  assert imported(path, set(MODULES)) == {f"{PACKAGE}.network.{name}" for name in ("convolution", "encoding")}
  assert len(path.read_text(encoding="utf-8").splitlines()) < 350


def test_rooms_cost_nothing_to_enter():
  """A room's `__init__` is a line on what is in it: to import one module imports no other."""
  for name, path in MODULES.items():
    if path.stem == "__init__" and name != PACKAGE:
      (docstring,) = parsed(path).body
      assert isinstance(docstring, ast.Expr)
