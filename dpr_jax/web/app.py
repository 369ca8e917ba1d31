"""The web app: drag the light, see the face change. And the same over HTTP, for other programs."""

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import gradio as gr
import numpy as np
from gradio_client.utils import is_http_url_like
from starlette.middleware import Middleware

from dpr_jax.base.errors import BadInput
from dpr_jax.base.output_files import atomic_output
from dpr_jax.image import pictures
from dpr_jax.image.color import NEUTRAL
from dpr_jax.image.photo import Photo
from dpr_jax.image.photo_formats import WRITTEN_FORMATS
from dpr_jax.image.photo_writing import write_photo
from dpr_jax.light.environment_files import ENVIRONMENT_SUFFIXES
from dpr_jax.light.light import Light, even_light
from dpr_jax.portrait.lights import PRESETS, SIZES, Direction
from dpr_jax.web import gate as web_gate
from dpr_jax.web import upload_folder
from dpr_jax.web.checks import guard, user_error
from dpr_jax.web.gate import Gate, log_error
from dpr_jax.web.service import RelightService, Wish
from dpr_jax.web.upload_folder import UploadFolder

LAMP, EVEN, MAP, PORTRAIT = "a lamp", "even light", "an environment map", "another portrait"
ALL_FACES = "all faces"

_WEB = Path(__file__).with_name("page")
_START = "left"  # the preset of the first view
_FRAMES, _FPS, _FILM_SIDE = 60, 15, 720
_FILM_SECONDS = 300  # that a film may take
_QUEUE, _AT_A_TIME = "relighting", 3
_FILM_QUEUE, _FILMS_WAITING = "films", 4


def uploads_alone(component: gr.Image | gr.File, folder: UploadFolder) -> gr.Image | gr.File:
  """The component, which from now on hands its file on as a path, undecoded, and takes only what lies in `folder`.

  Gradio's own would decode photos of any size, and fetch what lies at an address. (No subclass: of those Gradio writes
  a file beside their module.)
  """
  move = component.async_move_resource_to_block_cache

  async def move_upload(path):
    if path is not None and is_http_url_like(str(path)):
      raise user_error("upload the file itself, not its address")
    return await move(path)

  def accept(payload):
    try:
      return None if payload is None or payload.path is None else folder.accept(payload.path)
    except BadInput as error:
      raise user_error(str(error)) from None

  component.async_move_resource_to_block_cache = move_upload
  component.preprocess = accept
  return component


def light_sphere(value: dict, *, caption: str, movable: bool, width: int, elem_id: str) -> gr.HTML:
  """A sphere lit by a light; a movable one gives the direction of the lamp that a person has dragged over it.

  Its value is `{"azimuth", "elevation", "fill", "size", "lamp", "light"}`: the numbers of a `Direction`, whether that
  lamp is the light that is shown, and this light: `{"soft", "towards", "irradiance", "size"}`, a `Light` in lists.
  """
  return gr.HTML(
    value,
    html_template=(_WEB / "light_sphere.html").read_text(),
    css_template=(_WEB / "light_sphere.css").read_text(),
    js_on_load=(_WEB / "light_sphere.js").read_text(),
    caption=caption,
    movable=movable,
    width=width,
    tabindex=0 if movable else -1,
    role="slider" if movable else "img",
    aria="where the lamp is; arrow keys move it" if movable else caption,
    elem_id=elem_id,
  )


def _sphere(direction: Direction, light: Light, lamp: bool = True) -> dict:
  numbers = {name: float(number) for name, number in direction._asdict().items()}
  return numbers | {"lamp": lamp, "light": {name: np.asarray(part).tolist() for name, part in light._asdict().items()}}


def _tell(handler: Callable, folder: UploadFolder) -> Callable:
  """What cannot be used is told to the person who asked, without the folders of this machine; nobody else notices."""

  @functools.wraps(handler)
  def telling(*arguments, **options):
    try:
      with folder.used():  # here as well as around the request: a cancelled one leaves its thread at work
        return handler(*arguments, **options)
    except BadInput as error:
      message = str(error)
      for path in (each for each in arguments if isinstance(each, Path)):
        message = message.replace(str(path), path.name)
      raise user_error(message) from None
    except gr.Error:
      raise
    except Exception as error:
      if not folder.closing:
        log_error(handler.__name__, error)
      raise user_error("this could not be done; the server's log says where it failed") from None

  return telling


class _Handlers:
  """What happens when something is clicked, moved or asked for over HTTP.

  Each takes, in this order, what `build` lists as wishes: photo, kind of light, azimuth, elevation, fill, size of the
  lamp, environment map, its rotation, reference portrait, strength, exposure, colour temperature, share of the room,
  weights, face.
  """

  def __init__(self, service: RelightService, folder: UploadFolder):
    self._service, self._folder = service, folder

  def look(self, photo: Path | None):
    """Which faces can be chosen."""
    count = 0 if photo is None else self._service.count_faces(photo)
    choices = [ALL_FACES, *(f"face {k}" for k in range(1, count + 1))] if count > 1 else [ALL_FACES]
    return gr.Dropdown(choices=choices, value=ALL_FACES, visible=count > 1, allow_custom_value=True)

  def show(self, *wishes):
    """Before and after, the target light and the source light; nothing while there is no photo."""
    if wishes[0] is None:
      return gr.skip(), gr.skip(), gr.skip()
    photo, wish, weights, face = self._read(*wishes)
    light = self._service.light(wish, weights)
    relit = self._service.relight_for_screen(photo, wish, weights, face)
    source = self._service.source_light(photo, weights, face)
    lamp = Direction(*wishes[2:6])  # where a lamp would be, had it not been for another kind of light
    return (
      (self._service.screen_photo(photo), relit),
      _sphere(lamp, light, wishes[1] == LAMP),
      _sphere(lamp, source, False),
    )

  def drag(self, value, *wishes):
    """The lamp has been dragged: what tells of the lamp, the pictures, the source light. The sphere itself has moved
    on in the meantime.
    """
    photo, _, _, _, *rest = wishes
    if not isinstance(value, dict):
      raise BadInput("light: not a place on the sphere")
    azimuth, elevation = value.get("azimuth"), value.get("elevation")
    shown, _, source = self.show(photo, LAMP, azimuth, elevation, *rest)
    return LAMP, azimuth, elevation, shown, source

  def choose(self, preset: str, *wishes):
    """One of the named lights: `show`, and what tells of the lamp."""
    photo, _, *lamp = wishes[:6]
    if preset not in PRESETS:
      raise BadInput(f"light {preset!r}: none of {', '.join(PRESETS)}")
    kind, direction = (EVEN, lamp) if PRESETS[preset] is None else (LAMP, PRESETS[preset])
    return kind, *direction, *self.show(photo, kind, *direction, *wishes[6:])

  def relight(self, *wishes) -> str:
    """The photo in full resolution, as a file of its own kind, or as a PNG where that kind is not written."""
    photo, wish, weights, face = self._read(*wishes)
    relit = self._service.relight(photo, wish, weights, face)
    suffix = photo.suffix.lower() if photo.suffix.lower() in WRITTEN_FORMATS else ".png"
    path = self._folder.new_path(f"{photo.stem}_relit{suffix}")
    write_photo(path, relit)
    return str(path)

  def passes(self, *wishes) -> list[str]:
    """What compositors ask for of the photo, in full resolution: PNGs of 16 bits."""
    photo, wish, weights, face = self._read(*wishes)
    folder, paths = self._folder.new_path(photo.name).parent, []
    for name, layer in self._service.passes(photo, wish, weights, face):
      paths.append(str(folder / f"{photo.stem}_{name}.png"))
      write_photo(paths[-1], layer)
      del layer  # before the next one is made
    return paths

  def turn(self, *wishes, progress=gr.Progress()):  # noqa: B008 - by which Gradio knows who wants to report
    """Films of the light going round: the MP4, and the GIF."""
    photo, wish, weights, face = self._read(*wishes)
    mp4, gif = (self._folder.new_path(f"{photo.stem}_turn{suffix}") for suffix in (".mp4", ".gif"))
    until = time.monotonic() + _FILM_SECONDS

    def frames() -> Iterator[np.ndarray]:
      turning = self._service.turn(photo, wish, _FRAMES, weights, face)
      for frame in progress.tqdm(turning, total=_FRAMES, desc="turning the light", unit="frames"):
        if self._folder.closing:
          raise BadInput("this server stops")
        if time.monotonic() > until:
          raise BadInput(f"{photo.name}: the film has taken more than {_FILM_SECONDS} seconds")
        yield pictures.shrink(frame, _FILM_SIDE)

    with atomic_output(mp4) as mp4_aside, atomic_output(gif) as gif_aside:
      pictures.write_films(mp4_aside, gif_aside, frames(), _FPS)
    return str(mp4), str(gif)

  def _given(self, photo: Path | None) -> Path:
    if photo is None:
      raise BadInput("there is no photo yet: upload one, paste one, or take one with the camera")
    return photo

  def _read(
    self,
    photo,
    kind,
    azimuth,
    elevation,
    fill,
    size,
    environment,
    env_rotate,
    reference,
    strength,
    exposure,
    kelvin,
    background,
    weights,
    face,
  ) -> tuple[Path, Wish, str, int | None]:
    if kind == MAP and environment is None:
      raise BadInput("upload an environment map first (.hdr, .exr or .pic)")
    if kind == PORTRAIT and reference is None:
      raise BadInput("upload the portrait whose light you want first")
    wish = Wish(
      Direction(azimuth, elevation, fill, size),
      environment if kind == MAP else None,
      reference if kind == PORTRAIT else None,
      strength,
      kelvin,
      exposure,
      env_rotate,
      background,
    )
    if kind == EVEN:
      wish = dataclasses.replace(wish, direction=None)
    number = str(face or ALL_FACES).removeprefix("face ")
    if number != ALL_FACES and not number.isdecimal():
      raise BadInput(f"face {face!r}: {ALL_FACES}, or face 1, face 2, ...")
    return self._given(photo), wish, weights, None if number == ALL_FACES else int(number)


def build(service: RelightService, folder: UploadFolder, example: Path) -> gr.Blocks:
  """The page.

  Args:
    service: what relights.
    folder: Gradio's own (`GRADIO_TEMP_DIR`), from which it serves files; no others are ever opened.
    example: the photo that is there at first.
  """
  handlers, start = _Handlers(service, folder), PRESETS[_START]
  tell = functools.partial(_tell, folder=folder)
  unlit = _sphere(start, even_light())
  with gr.Blocks(
    title="Portrait relighting", analytics_enabled=False, delete_cache=(60, upload_folder.KEPT_SECONDS)
  ) as page:
    gr.Markdown("## Drag the light, see the face change")
    with gr.Row(elem_id="studio"):
      with gr.Column(scale=2, min_width=300):
        photo = uploads_alone(
          gr.Image(str(example), label="Photo", sources=["upload", "clipboard", "webcam"], height=220, elem_id="photo"),
          folder,
        )
        with gr.Row():
          target = light_sphere(unlit, caption="new light: drag it", movable=True, width=230, elem_id="target")
          source = light_sphere(unlit, caption="light of the photo", movable=False, width=110, elem_id="source")
        preset = gr.Dropdown(list(PRESETS), value=_START, label="Named lights", elem_id="preset")
        fill = gr.Slider(0, 1, start.fill, step=0.01, label="Fill: its light over the lamp's", elem_id="fill")
        size = gr.Slider(
          *SIZES, start.size, step=0.5, label="Size of the lamp, degrees: small is hard, large is soft", elem_id="size"
        )
        exposure = gr.Slider(-3, 3, 0.0, step=0.1, label="Exposure, stops", elem_id="exposure")
        strength = gr.Slider(0, 2, 1.0, step=0.01, label="Strength", elem_id="strength")
        kelvin = gr.Slider(
          2000, 12_000, NEUTRAL, step=4, label="Colour of the lamps, kelvin (6504: as they are)", elem_id="kelvin"
        )
        background = gr.Slider(0, 1, 0.0, step=0.01, label="Room: its share of the light", elem_id="background")
        # Of a program that has not asked which faces there are, any is taken and looked at.
        face = gr.Dropdown(
          [ALL_FACES], value=ALL_FACES, label="Which face", visible=False, allow_custom_value=True, elem_id="face"
        )
        with gr.Accordion("Other lights", open=False):
          kind = gr.Radio([LAMP, EVEN, MAP, PORTRAIT], value=LAMP, label="Light from", elem_id="kind")
          environment = uploads_alone(
            gr.File(
              label="Environment map (.hdr, .exr, .pic)",
              file_types=list(ENVIRONMENT_SUFFIXES),
              height=110,
              elem_id="environment",
            ),
            folder,
          )
          env_rotate = gr.Slider(-180, 180, 0, step=1, label="Turn the map, degrees", elem_id="env_rotate")
          reference = uploads_alone(
            gr.Image(
              label="Light like in this portrait", sources=["upload", "clipboard"], height=160, elem_id="reference"
            ),
            folder,
          )
        with gr.Accordion("More", open=False):
          with gr.Row():
            azimuth = gr.Number(start.azimuth, label="Azimuth, degrees left", elem_id="azimuth")
            elevation = gr.Number(start.elevation, label="Elevation, degrees up", elem_id="elevation")
          weights = gr.Dropdown(list(service.weights), value=service.weights[0], label="Weights", elem_id="weights")
      with gr.Column(scale=3, min_width=320):
        result = gr.ImageSlider(
          label="Before and after",
          format="jpeg",
          max_height=720,
          slider_position=30,
          interactive=False,
          elem_id="result",
        )
        with gr.Row():
          save = gr.Button("Full resolution", variant="primary", elem_id="save")
          film = gr.Button("Turn the light (60 frames)", elem_id="film")
          layers = gr.Button("Passes", elem_id="passes")
        with gr.Column(visible=False) as photo_made:
          saved = gr.File(label="The photo, relit, in full resolution", elem_id="saved")
        with gr.Column(visible=False) as passes_made:
          passes = gr.File(
            label="For compositing, 16 bits: matte, normals, depth, shading, shadow",
            file_count="multiple",
            elem_id="passes_saved",
          )
        with gr.Column(visible=False) as films_made:
          movie = gr.Video(label="The light going round", autoplay=True, loop=True, elem_id="movie")
          animation = gr.File(label="The same as a GIF", elem_id="animation")

    lamp = [azimuth, elevation, fill, size]
    dials = [strength, exposure, kelvin, background]
    wishes = [photo, kind, *lamp, environment, env_rotate, reference, *dials, weights, face]
    shown = [result, target, source]
    quiet = {"show_progress": "hidden", "trigger_mode": "always_last", "api_visibility": "private"}
    show = tell(handlers.show)
    page.load(show, wishes, shown, api_visibility="private")
    photo.input(tell(handlers.look), photo, face, api_visibility="private").success(
      show, wishes, shown, api_visibility="private"
    )
    target.input(tell(handlers.drag), [target, *wishes], [kind, azimuth, elevation, result, source], **quiet)
    preset.input(tell(handlers.choose), [preset, *wishes], [kind, *lamp, *shown], **quiet)
    for component in (fill, size, env_rotate, exposure, kelvin, background, kind, weights, face):
      component.input(show, wishes, shown, **quiet)
    strength.input(show, wishes, shown, **quiet | {"api_visibility": "public"}, api_name="preview")
    for component in (azimuth, elevation):
      component.submit(show, wishes, shown, **quiet)
    for component, kind_of_light in ((environment, MAP), (reference, PORTRAIT)):
      component.upload(lambda kind_of_light=kind_of_light: kind_of_light, None, kind, api_visibility="private").then(
        show, wishes, shown, **quiet
      )

    made = save.click(tell(handlers.relight), wishes, saved, api_name="relight")
    filmed = film.click(
      tell(handlers.turn), wishes, [movie, animation], api_name="turn", concurrency_id=_FILM_QUEUE, concurrency_limit=1
    )
    taken_apart = layers.click(tell(handlers.passes), wishes, passes, api_name="passes")
    for event, place in ((made, photo_made), (filmed, films_made), (taken_apart, passes_made)):
      event.success(lambda: gr.Column(visible=True), None, place, api_visibility="private")
  for function in page.fns.values():  # of which Gradio would work on so many each
    if function.concurrency_id != _FILM_QUEUE:
      function.concurrency_id, function.concurrency_limit = _QUEUE, _AT_A_TIME
  return page


@contextlib.contextmanager
def serving(
  service: RelightService,
  host: str = "127.0.0.1",
  port: int | None = None,
  *,
  max_megabytes: int = 40,
  waiting: int = 32,
  hosts: Sequence[str] = (),
  folder_megabytes: int = 2048,
) -> Iterator[str]:
  """The page is there while the block runs; yields its address. All files are gone afterwards.

  Args:
    service: what relights.
    host: the address to listen at; the default is reached from this machine alone.
    port: where to listen, or None: a free one from 7860 on.
    max_megabytes: of a request that uploads a file.
    waiting: how many requests may wait beside a few films; three of them, and one film, are worked on at a time.
    hosts: the names under which browsers may ask for it, beside those of this machine and `host`.
    folder_megabytes: of all that was uploaded or made in the last hour; what is not in use makes room.

  Raises:
    BadInput: the address cannot be listened at, or one of `hosts` is no name.
  """
  names = web_gate.allowed_hosts(host, hosts)
  with (
    upload_folder.opened(folder_megabytes * 2**20) as folder,
    _environment(GRADIO_TEMP_DIR=str(folder.path), GRADIO_ANALYTICS_ENABLED="False"),
  ):
    example = folder.path / "example" / "astronaut.png"
    write_photo(example, Photo(pictures.astronaut()))
    start = PRESETS[_START]
    service.relight_for_screen(example, Wish(start))  # compiles, so that the first visitor need not wait for it
    page = build(service, folder, example)
    page.queue(max_size=waiting + _FILMS_WAITING)
    guard(page, folder, {_QUEUE: waiting, _FILM_QUEUE: _FILMS_WAITING})
    try:
      _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        share=False,
        quiet=True,
        show_error=False,
        ssr_mode=False,
        max_file_size=max_megabytes * 2**20,
        css_paths=[_WEB / "page.css"],
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        footer_links=["api"],
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        state_session_capacity=100,
        app_kwargs={"middleware": [Middleware(Gate, folder=folder, hosts=names, max_bytes=max_megabytes * 2**20)]},
      )
    except OSError as error:
      raise BadInput(f"{host}:{port or 7860}: cannot be listened at ({error})") from None
    folder.keep_all()
    try:
      yield address
    finally:
      folder.closing = True
      page.close()


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
  before = {name: os.environ.get(name) for name in variables}
  os.environ.update(variables)
  try:
    yield
  finally:
    for name, value in before.items():
      if value is None:
        del os.environ[name]
      else:
        os.environ[name] = value
