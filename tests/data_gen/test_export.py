"""The dataset on disk: the same bytes however it was made, whatever interrupted it; nothing lost silently."""

import csv
import dataclasses
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_gen import export_folder
from data_gen.export import describe, export, export_procedural_faces, plan_shards
from data_gen.export_folder import ExportFolder, Outcome, open_folder
from data_gen.export_workers import Worker
from data_gen.synthesis import Settings, open_lights, open_source
from dpr_jax import records
from dpr_jax.base.errors import BadInput
from dpr_jax.image.pictures import astronaut
from dpr_jax.portrait.face_finders import choose_face_finder

ROOT = Path(__file__).resolve().parents[2]
# Small faces in many small shards.
SMALL = Settings(count=12, size=128, lights_per_image=2, shard_megabytes=0.2)
FLAGS = ["--count=12", "--size=128", "--lights_per_image=2", "--shard_megabytes=0.2"]


def contents(folder: Path) -> dict[str, bytes]:
  return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def command(out: Path, *more: str) -> list[str]:
  return [sys.executable, str(ROOT / "export_dataset.py"), f"--out={out}", *more]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
  """A dataset made by one worker, without interruption."""
  out = tmp_path_factory.mktemp("undisturbed") / "dataset"
  export(SMALL, out, workers=1)
  return out


def test_every_id_is_in_one_shard_of_its_split():
  ids = [f"face {number}" for number in range(500)]
  shards = plan_shards(ids, dataclasses.replace(SMALL, shard_megabytes=1))
  assert sorted(id for shard in shards for id in shard.ids) == sorted(ids)
  assert len({shard.filename for shard in shards}) == len(shards)
  for shard in shards:
    assert {records.split_of(id) for id in shard.ids} == {shard.split}
    assert shard.filename.startswith(f"dpr-{shard.split}.tfrecord-")
  by_size = [len(plan_shards(ids, dataclasses.replace(SMALL, shard_megabytes=size))) for size in (0.2, 1, 10, 1000)]
  assert by_size == sorted(by_size, reverse=True)
  assert by_size[-1] == 3


def test_the_dataset_can_be_read(undisturbed):
  info = json.loads((undisturbed / "dataset_info.json").read_text())
  ids = []
  for split in info["splits"]:
    shards = records.list_shards(undisturbed, split["name"])
    lengths = [len(list(records.read_tfrecords(shard))) for shard in shards]
    assert [int(length) for length in split["shardLengths"]] == lengths
    for shard in shards:
      for payload in records.read_tfrecords(shard):
        record = records.decode_record(payload)
        assert record.relit.shape == (2, 128, 128, 3)
        assert np.abs(record.relit[0].astype(int) - record.relit[1]).mean() > 1  # two lights, two pictures
        assert records.split_of(record.id) == split["name"]
        ids.append(record.id)
  assert sorted(ids) == [f"face-{number:08d}" for number in range(12)]
  assert not (undisturbed / ".export").exists()
  assert (undisturbed / "rejected.csv").read_text() == "id,reason\n"


def test_worker_count_changes_no_byte(undisturbed, tmp_path):
  export(SMALL, tmp_path / "dataset", workers=3)
  assert contents(tmp_path / "dataset") == contents(undisturbed)


def test_a_seed_changes_the_faces(undisturbed, tmp_path):
  export(dataclasses.replace(SMALL, seed=1, count=2), tmp_path / "dataset", workers=1)
  (first,) = list(records.read_tfrecords(records.list_shards(tmp_path / "dataset", "train")[0]))[:1]
  (other,) = list(records.read_tfrecords(records.list_shards(undisturbed, "train")[0]))[:1]
  assert (records.decode_record(first).original != records.decode_record(other).original).any()


def test_the_ratio_is_on_record(undisturbed, tmp_path):
  """In each record, in `export.json`, in `features.json` and in what a dry run says; by default it is linear."""
  (first,) = list(records.read_tfrecords(records.list_shards(undisturbed, "train")[0]))[:1]
  assert records.decode_record(first).ratio == "linear"
  published = tmp_path / "published"
  flags = ["--count=1", "--size=128", "--lights_per_image=2", "--ratio=published"]
  said = subprocess.run(command(published, *flags, "--dry_run"), capture_output=True, text=True, check=True).stdout
  assert "a change of light multiplies L of Lab, as published" in said
  subprocess.run(command(published, *flags, "--workers=1"), check=True, capture_output=True)
  (other,) = records.read_tfrecords(records.list_shards(published, "train")[0])
  assert records.decode_record(other).ratio == "published"
  assert (records.decode_record(other).original != records.decode_record(first).original).any()
  for folder, ratio in ((undisturbed, "linear"), (published, "published")):
    assert json.loads((folder / "export.json").read_text())["settings"]["ratio"] == ratio
    assert "ratio" in json.loads((folder / "features.json").read_text())["featuresDict"]["features"]
    assert json.loads((folder / "dataset_info.json").read_text())["version"] == "3.0.0"


def test_training_does_not_take_procedural_faces_of_another_ratio(tmp_path):
  """Nor those of a program that knew no ratio."""
  faces = {"count": 1, "size": 128, "lights_per_image": 1}
  export_procedural_faces(tmp_path / "faces", **faces)
  export_procedural_faces(tmp_path / "faces", **faces)  # there already
  summary = tmp_path / "faces" / "export.json"
  ours = json.loads(summary.read_text())
  for theirs in ("published", None):
    settings = {name: value for name, value in (ours["settings"] | {"ratio": theirs}).items() if value is not None}
    summary.write_text(json.dumps(ours | {"settings": settings}))
    with pytest.raises(BadInput, match=rf"holds a dataset with other ratio \({theirs}, now linear\); remove it"):
      export_procedural_faces(tmp_path / "faces", **faces)


@pytest.mark.parametrize(
  "kills", [pytest.param(2, marks=pytest.mark.nightly), pytest.param(20, marks=pytest.mark.slow)]
)
def test_killed_again_and_again_and_resumed_it_is_the_same(undisturbed, tmp_path, kills):
  rng = random.Random(0)
  out = tmp_path / "dataset"
  arguments = command(out, *FLAGS, "--workers=2")
  start = time.monotonic()
  subprocess.run(arguments, check=True, capture_output=True)
  duration = time.monotonic() - start
  finished = 0
  for kill in range(kills):
    if not (out / ".export").exists():  # finished in spite of all: once more from the start
      shutil.rmtree(out / ".export-done", ignore_errors=True)  # the next command would
      assert not out.exists() or contents(out) == contents(undisturbed)
      finished += out.exists()
      shutil.rmtree(out, ignore_errors=True)
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    time.sleep(rng.uniform(0.3, 1) * duration)
    if kill % 2:  # all processes at once, or only the parent: its workers then end by themselves
      os.killpg(process.pid, signal.SIGKILL)
    else:
      process.kill()
    process.wait()
  if (out / ".export").exists() or not out.exists():
    subprocess.run(arguments, check=True, capture_output=True)
  if (out / ".export-done").exists():
    (out / ".lock").unlink(missing_ok=True)
    shutil.rmtree(out / ".export-done")
  print(f"finished {finished} times between the kills, one run takes {duration:.1f} s")
  assert contents(out) == contents(undisturbed)


def test_half_a_shard_is_made_again(undisturbed, tmp_path):
  out = tmp_path / "dataset"
  shards = plan_shards([f"face-{number:08d}" for number in range(12)], SMALL)
  with open_folder(out, SMALL, shards, lights="built in", pages=0) as folder:
    # Whole, but its note was never written; and one that was cut short after its note.
    shutil.copy(undisturbed / shards[0].filename, out)
    payloads = list(records.read_tfrecords(undisturbed / shards[1].filename))
    folder.write_shard(shards[1].filename, [Outcome(payloads, [])])
    assert folder.note(shards[1]) == (len(payloads), [])
    os.truncate(out / shards[1].filename, 100)
    assert folder.unfinished() == shards
    (out / ".export" / "left over.partial").touch()
  export(SMALL, out, workers=1)
  assert contents(out) == contents(undisturbed)


@pytest.mark.parametrize(
  ("change", "named"),
  [
    ({"seed": 5}, "seed"),
    ({"count": 13}, "count"),
    ({"image_format": "jpeg"}, "image_format"),
    ({"ratio": "published"}, "ratio"),
  ],
)
def test_an_unfinished_export_is_not_mixed_with_another(tmp_path, change, named):
  out = tmp_path / "dataset"
  ids = ["a", "b"]
  shards = plan_shards(ids, SMALL)
  other = dataclasses.replace(SMALL, **change)
  with open_folder(out, other, plan_shards(ids, other)):
    pass  # nothing was finished, so that other settings may follow
  with open_folder(out, SMALL, shards, lights="these") as folder:
    folder.write_shard(shards[0].filename, [])
  for settings, names, lights, difference in (
    (other, ids, "these", named),
    (SMALL, ["a", "c"], "these", "photos"),
    (SMALL, ids, "those", "lights"),
  ):
    with (
      pytest.raises(BadInput, match=f"holds an unfinished export with other {difference}"),
      open_folder(out, settings, plan_shards(names, settings), lights=lights),
    ):
      pass
  with open_folder(out, SMALL, shards, lights="these") as folder:
    assert folder.note(shards[0]) == (0, [])


def test_damaged_notes_are_no_notes(tmp_path):
  shards = plan_shards(["a"], SMALL)
  with open_folder(tmp_path, SMALL, shards) as folder:
    folder.write_shard(shards[0].filename, [])
    assert folder.unfinished() == []
    note = tmp_path / ".export" / f"{shards[0].filename}.json"
    note.write_text("")
    assert folder.unfinished() == shards
    with pytest.raises(BadInput, match="is not finished"):
      folder.finish([])


def test_a_kill_at_the_very_end(undisturbed, tmp_path):
  """The work folder is renamed before it is removed: the same command does that, another is refused."""
  out, other = tmp_path / "dataset", tmp_path / "other"
  for folder in (out, other):
    shutil.copytree(undisturbed, folder)
    (folder / ".export-done").mkdir()
    (folder / ".export-done" / "settings.json").touch()
    (folder / ".lock").touch()
  summary = export(SMALL, out, workers=1)
  assert sum(summary.records.values()) == 12
  assert not summary.rejections
  assert contents(out) == contents(undisturbed)
  with pytest.raises(BadInput, match="holds a finished dataset"):
    export(dataclasses.replace(SMALL, seed=1), other, workers=1)
  with pytest.raises(BadInput, match="holds a finished dataset"):
    export(SMALL, out, workers=1)


def test_an_export_into_its_own_source_is_refused(photos):
  settings = Settings(source=str(photos), size=128, normals="face_mesh", light_estimator="fit")
  for out in (photos, photos / "out", photos / "sub" / ".." / "out"):
    with pytest.raises(BadInput, match="lies inside --source"):
      export(settings, out, workers=1)
  assert not (photos / "out").exists()


def test_folders_that_hold_something_are_left_alone(undisturbed, tmp_path):
  before = contents(undisturbed)
  with pytest.raises(BadInput, match="holds a finished dataset"):
    export(SMALL, undisturbed, workers=1)
  assert contents(undisturbed) == before
  (tmp_path / "thesis.tex").touch()
  with pytest.raises(BadInput, match="is not empty"):
    export(SMALL, tmp_path, workers=1)
  with pytest.raises(BadInput, match="cannot be written"):
    export(SMALL, tmp_path / "thesis.tex" / "dataset", workers=1)


def test_two_exports_do_not_share_a_folder(tmp_path):
  shards = plan_shards(["a"], SMALL)
  with (
    open_folder(tmp_path / "dataset", SMALL, shards),
    pytest.raises(BadInput, match="another export is filling it"),
    open_folder(tmp_path / "dataset", SMALL, shards),
  ):
    pass


def test_one_that_comes_while_another_finishes_leaves_its_dataset_alone(undisturbed, tmp_path, monkeypatch):
  """It has looked, found an unfinished export, and then finds the folder free but full."""
  shards, claimed = plan_shards(["a"], SMALL), export_folder.claimed

  def claimed_late(*arguments):
    shutil.rmtree(tmp_path / ".export")
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    return claimed(*arguments)

  (tmp_path / ".export").mkdir()
  monkeypatch.setattr(export_folder, "claimed", claimed_late)
  with pytest.raises(BadInput, match="holds a finished dataset"), open_folder(tmp_path, SMALL, shards):
    pass
  assert contents(tmp_path) == contents(undisturbed)


def test_two_may_remove_what_is_left_at_the_end(tmp_path, monkeypatch):
  """The same command, given once more, takes the renamed folder for what a killed export has left."""
  rename = os.rename

  def renamed(source, target):
    rename(source, target)
    shutil.rmtree(target)

  (shard,) = plan_shards(["a"], SMALL)
  with open_folder(tmp_path, SMALL, [shard]) as folder:
    folder.write_shard(shard.filename, [])
    monkeypatch.setattr(os, "rename", renamed)
    with pytest.raises(BadInput, match="no portrait could be used"):
      folder.finish([])


def test_what_is_renamed_at_the_end_holds_no_open_file(tmp_path, monkeypatch):
  """Windows renames no folder with one; the lock lies beside it, and is gone in the end."""
  rename, renamed = os.rename, []

  def watched(source, target):
    renamed.append((source.name, sorted(os.listdir(source))))
    assert (source.parent / ".lock").exists()
    rename(source, target)

  monkeypatch.setattr(os, "rename", watched)
  (tmp_path / ".lock").touch()  # of a process that was killed before it began
  (shard,) = plan_shards(["a"], SMALL)
  with open_folder(tmp_path, SMALL, [shard]) as folder:
    folder.write_shard(shard.filename, [])
    with pytest.raises(BadInput, match="no portrait could be used"):
      folder.finish([])
  assert renamed == [(".export", [f"{shard.filename}.json", "settings.json"])]  # both closed
  assert sorted(os.listdir(tmp_path)) == ["export.json", "rejected.csv"]


def test_heads_are_not_mixed_with_those_under_other_environment_maps(tmp_path, monkeypatch):
  (tmp_path / "environments").mkdir()
  (tmp_path / "heads" / "makehuman_hair").mkdir(parents=True)
  for name in ("heads/ict_facekit.npz", "heads/makehuman_hair/hair_on_ict.npz"):
    (tmp_path / name).touch()
  monkeypatch.setenv("DPR_SHARED", str(tmp_path))
  monkeypatch.delenv("DPR_ASSETS", raising=False)
  room, held_out = (tmp_path / "environments" / name for name in ("room.hdr", "park.hdr"))
  room.write_bytes(b"first")
  settings = Settings(source="heads", count=2, size=64, lights_per_image=1)

  def made_from():
    return open_source(settings).made_from

  shards = plan_shards(open_source(settings).ids, settings)
  with open_folder(tmp_path / "out", settings, shards, lights="built in", pages=0, **made_from()) as folder:
    folder.write_shard(shards[0].filename, [])
  held_out.write_bytes(b"which training never sees")
  with open_folder(tmp_path / "out", settings, shards, lights="built in", pages=0, **made_from()):
    pass
  room.write_bytes(b"other")
  with pytest.raises(BadInput, match=r"holds an unfinished export with other environment_maps; choose another folder$"):
    export(settings, tmp_path / "out", workers=1)
  room.write_bytes(b"first")
  room.rename(room.with_name("hut.hdr"))
  with pytest.raises(BadInput, match="other environment_maps"):
    export(settings, tmp_path / "out", workers=1)


def test_a_full_disk_stops_with_one_line_and_can_be_resumed(undisturbed, tmp_path):
  out = tmp_path / "dataset"
  # A limit on the size of a file, in KiB: notes fit, shards don't.
  small_disk = ["bash", "-c", 'ulimit -f 60; exec "$@"', "bash"]
  result = subprocess.run([*small_disk, *command(out, *FLAGS, "--workers=1")], capture_output=True, text=True)
  assert result.returncode == 2
  last = result.stderr.strip().splitlines()[-1]
  assert last.startswith(f"export_dataset.py: {out}/dpr-")
  assert "cannot be written (File too large)" in last
  assert not list(out.glob("dpr-*"))
  export(SMALL, out, workers=1)
  assert contents(out) == contents(undisturbed)


def test_a_worker_that_is_killed_is_reported(tmp_path):
  def kill_one():
    while not (children := active_children()):
      time.sleep(0.01)
    time.sleep(1)
    children[0].kill()

  killer = threading.Thread(target=kill_one)
  killer.start()
  with pytest.raises(BadInput, match="a worker was killed"):
    export(dataclasses.replace(SMALL, count=200), tmp_path / "dataset", workers=2)
  killer.join()


@pytest.fixture
def photos(tmp_path):
  """Good and bad portraits."""
  folder = tmp_path / "photos"
  folder.mkdir()
  good = Image.fromarray(astronaut())
  good.save(folder / "good.png")
  good.convert("L").save(folder / "gray.png")
  (folder / "text.jpg").write_text("not a picture")
  Image.new("RGB", (300, 300), (200, 100, 50)).save(folder / "nobody.png")
  (folder / "broken.png").write_bytes((folder / "good.png").read_bytes()[:5000])
  return folder


def test_what_cannot_be_used_is_listed_and_the_run_goes_on(photos, tmp_path):
  lights = tmp_path / "lights"
  lights.mkdir()
  (lights / "good.txt").write_text(" ".join(["0.8"] + ["0.1"] * 8))
  (lights / "short.txt").write_text(" ".join(["0.8"] * 8))
  settings = Settings(
    source=str(photos), size=128, normals="face_mesh", light_estimator="fit", light_prior=str(lights), color=True
  )
  summary = export(settings, tmp_path / "dataset", workers=1, pages=10)
  with open(tmp_path / "dataset" / "rejected.csv", newline="") as file:
    rows = {row["id"]: row["reason"] for row in csv.DictReader(file)}
  assert sorted(rows) == ["broken.png", "gray.png", "nobody.png", "short.txt", "text.jpg"]
  assert rows["nobody.png"] == "no face found"
  assert rows["gray.png"].startswith("gray photo")
  assert "8 numbers" in rows["short.txt"]
  assert sum(summary.records.values()) == 1
  assert "1 portrait: " in str(summary)
  assert "5 rejected" in str(summary)
  (split,) = summary.records
  (shard,) = records.list_shards(tmp_path / "dataset", split)
  (payload,) = records.read_tfrecords(shard)
  record = records.decode_record(payload)
  assert record.id == "good.png"
  assert record.light_names == ("good",) * 5
  assert record.target_color_lights.shape == (5, 3, 9)
  assert os.listdir(tmp_path / "dataset" / "pages") == ["good.png.jpg"]


def test_photos_give_the_same_bytes_however_many_work_on_them(tmp_path):
  """Faces found, meshes fitted, lights fitted, pages drawn: on machines of one kind to the last bit."""
  folder = tmp_path / "photos"
  folder.mkdir()
  for number in range(12):
    dimmed = astronaut() * np.linspace(1, 0.7, 12)[number]
    Image.fromarray(dimmed.astype(np.uint8)[:, :: (-1) ** number]).save(folder / f"{number}.png")
  (folder / "text.jpg").write_text("not a picture")
  settings = Settings(
    source=str(folder), size=128, normals="face_mesh", light_estimator="fit", lights_per_image=1, shard_megabytes=0.2
  )
  made = []
  for workers in (1, 3):
    export(settings, tmp_path / f"{workers}", workers=workers, pages=2)
    made.append(contents(tmp_path / f"{workers}"))
  assert made[0] == made[1]
  assert len([name for name in made[0] if name.startswith("pages/")]) == 2
  assert 'text.jpg,"not a usable picture: ' in made[0]["rejected.csv"].decode()


# The face finder.


def test_the_face_finder_is_on_record(photos, tmp_path):
  """The one that was named; without a name the one that was chosen; none where none was needed."""
  for named in (None, "embedded"):
    settings = Settings(source=str(photos), size=128, normals="face_mesh", light_estimator="fit", face_finder=named)
    export(settings, tmp_path / f"{named}", workers=1)
    about = json.loads((tmp_path / f"{named}" / "export.json").read_text())
    assert about["settings"]["face_finder"] == (named or choose_face_finder())
    assert f"faces found by {named or choose_face_finder()}" in describe(settings, tmp_path / "new")


def test_exact_faces_need_no_finder(undisturbed, tmp_path):
  assert json.loads((undisturbed / "export.json").read_text())["settings"]["face_finder"] is None
  assert "found by" not in describe(SMALL, tmp_path / "new")


def test_an_export_goes_on_with_the_finder_that_it_began_with(photos, tmp_path, monkeypatch):
  shutil.copy(photos / "good.png", photos / "also good.png")
  settings = Settings(
    source=str(photos),
    size=128,
    normals="face_mesh",
    light_estimator="fit",
    lights_per_image=1,
    shard_megabytes=0.1,
    face_finder="embedded",
  )
  unnamed = dataclasses.replace(settings, face_finder=None)
  export(settings, tmp_path / "undisturbed", workers=1)
  out, write_shard, written = tmp_path / "dataset", ExportFolder.write_shard, []

  def killed_after_one(folder, *shard):
    if written:
      raise KeyboardInterrupt
    written.append(write_shard(folder, *shard))

  with monkeypatch.context() as patched:
    patched.setattr(ExportFolder, "write_shard", killed_after_one)
    with pytest.raises(KeyboardInterrupt):
      export(settings, out, workers=1)
  monkeypatch.setattr("data_gen.synthesis.choose_face_finder", lambda name=None: name or "mediapipe")
  with pytest.raises(BadInput, match=r"with other face_finder \(embedded, now mediapipe\)"):
    export(dataclasses.replace(settings, face_finder="mediapipe"), out, workers=1)
  assert "faces found by embedded" in describe(unnamed, out)
  assert "faces found by mediapipe" in describe(unnamed, tmp_path / "new")
  export(unnamed, out, workers=1)
  assert contents(out) == contents(tmp_path / "undisturbed")


@pytest.fixture
def heard_interrupts():
  """Lets SIGINT through to processes started here: where the tests are a shell's background job, it is ignored."""
  handler = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("heard_interrupts")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_quietly_and_it_can_be_resumed(undisturbed, tmp_path, sent):
  out = tmp_path / "dataset"
  for _ in range(10):
    process = subprocess.Popen(command(out, *FLAGS, "--workers=2"), stderr=subprocess.PIPE, text=True)
    while not list(out.glob("dpr-*")) and process.poll() is None:
      time.sleep(0.05)
    process.send_signal(sent)
    _, error = process.communicate()
    if process.returncode != 0:
      break
    shutil.rmtree(out)  # it was done before the signal came: once more
  assert process.returncode == 128 + sent
  assert "Traceback" not in error
  if sent == signal.SIGINT:
    return  # the way from here is that of the other signal
  export(SMALL, out, workers=1)
  assert contents(out) == contents(undisturbed)


def test_missing_models_stop_it_before_anything_is_written(photos, tmp_path, monkeypatch):
  monkeypatch.setenv("DPR_ASSETS", "")
  monkeypatch.setenv("DPR_CACHE", str(tmp_path / "cache"))
  for normals, estimator, missing in (
    ("tddfa", "fit", "mb1_120x120.pth"),
    ("face_mesh", "sfsnet", "SfSNet.pth"),
    ("face_mesh", "network", "no-weights.t7"),
  ):
    settings = Settings(
      source=str(photos),
      face_finder="embedded",
      normals=normals,
      light_estimator=estimator,
      weights=str(tmp_path / "no-weights.t7"),
    )
    with pytest.raises(BadInput, match=missing):
      export(settings, tmp_path / "dataset", workers=1)
    assert not (tmp_path / "dataset").exists()


def test_an_unknown_runner_is_named(tmp_path):
  pytest.importorskip("apache_beam", reason="the extra 'beam' is not installed")
  result = subprocess.run(command(tmp_path / "dataset", *FLAGS, "--runner=Nonsense"), capture_output=True, text=True)
  assert result.returncode == 2
  assert result.stderr.splitlines()[-1].startswith("export_dataset.py: --runner Nonsense: not a runner of Apache Beam")
  assert "Traceback" not in result.stderr
  assert not (tmp_path / "dataset").exists()


def test_page_names_of_any_id(tmp_path):
  with open_folder(tmp_path, SMALL, plan_shards(["a"], SMALL)) as folder:
    folder.write_pages({"sub/a.jpg#1": b"1", "sub": b"2", "x" * 300: b"3", "ä b": b"4"})
  names = os.listdir(tmp_path / "pages")
  assert {"sub%2Fa.jpg#1.jpg", "sub.jpg"} < set(names)
  assert len(names) == 4
  assert max(map(len, names)) <= 200


def test_if_nothing_can_be_used_it_says_so(photos, tmp_path):
  (photos / "good.png").unlink()
  settings = Settings(source=str(photos), size=128, normals="face_mesh", light_estimator="fit")
  with pytest.raises(BadInput, match="no portrait could be used"):
    export(settings, tmp_path / "dataset", workers=1)
  assert sorted(os.listdir(tmp_path / "dataset")) == ["export.json", "rejected.csv"]
  assert len((tmp_path / "dataset" / "rejected.csv").read_text().splitlines()) == 5


def test_an_unexpected_error_costs_one_portrait(monkeypatch, capfd):
  worker = Worker(SMALL, open_lights(SMALL), frozenset())
  monkeypatch.setattr(worker._synthesis, "_relight", lambda portrait: 1 / 0)
  outcome, pages = worker.make("face-00000000")
  worker.close()
  assert outcome.payloads == []
  assert outcome.rejections == [("face-00000000", "unexpected ZeroDivisionError: division by zero")]
  assert pages == {}
  assert "Traceback" in capfd.readouterr().err


def test_beam_gives_the_same_bytes(undisturbed, tmp_path):
  pytest.importorskip("apache_beam", reason="the extra 'beam' is not installed")
  result = subprocess.run(
    command(tmp_path / "dataset", *FLAGS, "--runner=DirectRunner"), capture_output=True, text=True
  )
  assert result.returncode == 0, result.stderr
  assert contents(tmp_path / "dataset") == contents(undisturbed)


def test_tensorflow_datasets_opens_it(undisturbed):
  if importlib.util.find_spec("tensorflow") is None:
    pytest.skip("TensorFlow is not installed")
  program = """
import sys, tensorflow_datasets as tfds
builder = tfds.builder_from_directory(sys.argv[1])
print(sum(len(builder.as_dataset(split=split)) for split in builder.info.splits))
"""
  result = subprocess.run([sys.executable, "-c", program, str(undisturbed)], capture_output=True, text=True)
  assert result.stdout.split() == ["12"], result.stderr
