"""Relights portraits.

dpr-jax relight --image=photo.jpg --light=left --out=relit.jpg
dpr-jax relight --image=folder --light=45,30 --out=relit_folder
dpr-jax relight --image=photo.jpg --light=45,30,0.2,20 --temperature=3200 --exposure=-0.5 --out=relit.jpg
dpr-jax relight --image=photo.jpg --light=studio.hdr --env_rotate=90 --out=relit.jpg
dpr-jax relight --image=photo.jpg --light=other_portrait.jpg --out=relit.jpg
dpr-jax relight --image=photo.jpg --light=right --background=0.5 --passes --out=relit.png
dpr-jax relight --image=photo.jpg --replace_background=studio.hdr --out=elsewhere.jpg
dpr-jax relight --image=photo.jpg --grid --out=sheet.png
dpr-jax relight --image=photo.jpg --rotate=60 --out=turn.mp4
dpr-jax relight --video=in.mp4 --light=left --out=out.mp4
dpr-jax relight --video=in.mp4 --rotate=100 --out=out.mp4
dpr-jax relight --demo
"""

from pathlib import Path

from absl import flags

from dpr_jax.base.errors import BadInput

_IMAGE = flags.DEFINE_string("image", None, "a photo, or a folder of photos")
_VIDEO = flags.DEFINE_string(
  "video", None, "a film; --out is an MP4. The same command goes on where an earlier one was interrupted"
)
_LIGHT = flags.DEFINE_multi_string(
  "light",
  [],
  "left, right, top, bottom, left-top, rembrandt, ...; or azimuth,elevation[,fill[,size]]: degrees to the image's left "
  "and up from the camera, the fill's light over the lamp's (0 to 4), and the lamp's diameter in degrees (0.5 to 60); "
  "or a text file of 9 SH numbers, or of 27 in colour; or a .hdr, .exr or .pic environment map; or a photo whose light "
  "is transferred. Left is the viewer's left. With --grid it may be given several times",
)
_OUT = flags.DEFINE_string("out", None, "where to write: a file, or a folder if --image is one")
_STRENGTH = flags.DEFINE_float("strength", 1.0, "0 leaves the photo as it is, 1 is the light as asked for, up to 3")
_EXPOSURE = flags.DEFINE_float(
  "exposure", 0.0, "stops, -5 to 5; at 0 the lit side of the face stays as bright as the photo has it"
)
_INTENSITY = flags.DEFINE_float(
  "intensity", 1.0, "factor on the light: 2 is one stop more of --exposure (the authors' demo: 0.7)"
)
_TEMPERATURE = flags.DEFINE_float(
  "temperature", None, "colour temperature of the lamps in kelvin, 1700 to 25000; 2700 is a bulb, 6504 white"
)
_COLOR = flags.DEFINE_string("color", None, "colour of the lamps, #ffb070 or 255,176,112 (sRGB)")
_ENV_ROTATE = flags.DEFINE_float(
  "env_rotate", 0.0, "degrees by which an environment map is turned: 90 brings light from the camera's side to the left"
)
_BACKGROUND = flags.DEFINE_float(
  "background", 0.0, "0 to 1: how much of the light's change the room around the persons takes"
)
_REPLACE_BACKGROUND = flags.DEFINE_string(
  "replace_background",
  None,
  "a picture, or a .hdr, .exr or .pic environment map, to put the persons before; by a map they are lit where no "
  "--light is given",
)
_PASSES = flags.DEFINE_bool(
  "passes", False, "write matte, normals, depth, shading and shadow beside --out, as PNGs of 16 bits"
)
_WEIGHTS = flags.DEFINE_string(
  "weights",
  None,
  "default, official-512, official-1024, a .npz, .safetensors, .t7 or .pth file, hf:OWNER/NAME, or a workdir "
  "or checkpoint of train.py",
)
_SIZE = flags.DEFINE_integer("size", None, "side of the square that the network sees; default: what it was trained at")
_FACE = flags.DEFINE_integer("face", None, "relight only this face, counted from 1, left to right; default: all")
_FACE_FINDER = flags.DEFINE_enum(
  "face_finder",
  None,
  ["embedded", "mediapipe"],
  "who looks for faces; default: mediapipe where it is installed and its model is at hand, else embedded",
)
_ENGINE = flags.DEFINE_enum(
  "engine", "jax", ["jax", "onnx"], "what runs the network on a photo: JAX, or ONNX Runtime on the CPU (extra onnx)"
)
_NO_ALIGN = flags.DEFINE_bool("no_align", False, "resize the whole photo to the network, as the authors' demo does")
_GRID = flags.DEFINE_bool("grid", False, "a contact sheet of several lights, with the lit spheres")
_ROTATE = flags.DEFINE_integer(
  "rotate",
  None,
  "films of so many frames (MP4 and GIF), the light going round the face; with --video, once in so many frames",
)
_DEMO = flags.DEFINE_bool("demo", False, "relight scikit-image's astronaut into the folder --out (default: demo)")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace existing outputs")


def main() -> None:
  if _DEMO.value and (_IMAGE.value or _VIDEO.value or _GRID.value or _ROTATE.value is not None):
    raise BadInput("--demo has a photo and a sheet of its own: leave out --image, --video, --grid and --rotate")
  if not _DEMO.value and not ((_IMAGE.value or _VIDEO.value) and _OUT.value):
    raise BadInput("--image (or --video) and --out are needed, or --demo; --help lists all flags")
  if _VIDEO.value and (_IMAGE.value or _GRID.value):
    raise BadInput("--video: leave out --image and --grid; one film at a time, under one light")
  from dpr_jax.cli.relight_options import Options, names_folder

  options = Options(
    lights=_LIGHT.value,
    weights=_WEIGHTS.value,
    size=_SIZE.value,
    strength=_STRENGTH.value,
    exposure=_EXPOSURE.value,
    intensity=_INTENSITY.value,
    temperature=_TEMPERATURE.value,
    color=_COLOR.value,
    env_rotate=_ENV_ROTATE.value,
    face=_FACE.value,
    align=not _NO_ALIGN.value,
    overwrite=_OVERWRITE.value,
    face_finder=_FACE_FINDER.value,
    engine=_ENGINE.value,
    background=_BACKGROUND.value,
    replace_background=_REPLACE_BACKGROUND.value,
    passes=_PASSES.value,
  )
  if _IMAGE.value:
    names_folder(Path(_IMAGE.value))
  from dpr_jax.network import traced  # JAX: a second, which neither the above nor --help costs

  traced.enable_compilation_cache()
  traced.load_ahead()
  from dpr_jax.cli import relight_command

  if _DEMO.value:
    relight_command.demo(options, Path(_OUT.value or "demo"))
  elif _VIDEO.value:
    relight_command.relight_film(options, Path(_VIDEO.value), Path(_OUT.value), turn_frames=_ROTATE.value)
  else:
    relight_command.relight(options, Path(_IMAGE.value), Path(_OUT.value), sheet=_GRID.value, film_frames=_ROTATE.value)
