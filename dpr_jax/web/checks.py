"""What a page's functions are asked, checked before it waits in the queue, and what may wait there."""

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from dpr_jax.base.errors import BadInput, one_line
from dpr_jax.web.gate import log_error
from dpr_jax.web.upload_folder import UploadFolder

_LONGEST_TEXT = 200  # of a choice


def guard(page: gr.Blocks, folder: UploadFolder, waiting: Mapping[str, int]) -> None:
  """Refuses what a page's components could not have sent, in a line that holds nothing of it, and unlogged.

  Wrong types are refused when they arrive, by 422. Files must lie in `folder`, whatever they say of themselves: Gradio
  looks only at those that have its mark. What its components refuse is passed on as they put it.

  Args:
    page: whose `queue` has been called.
    folder: where uploads lie.
    waiting: how many requests may wait for all functions of a `concurrency_id` together; every function has one of
      these.
  """
  queue = page._queue
  push, process, preprocess = queue.push, page.process_api, page.preprocess_data

  async def checked_push(body, request, username):
    function = page.fns.get(body.fn_index) if isinstance(body.fn_index, int) else None
    if function is None:
      return False, "there is no such function", "error"
    if problems := _problems(function, body.data):
      return False, problems, "validator_error"
    waiting_now = queue.event_queue_per_concurrency_id.get(function.concurrency_id)
    now = len(waiting_now.queue) if waiting_now else 0
    if now >= waiting[function.concurrency_id]:
      return False, f"Queue is full: {now} requests of this kind wait already.", "queue_full"
    return await push(body, request, username)

  async def checked_process(*arguments, **options):
    try:
      with folder.used():  # as Gradio itself moves files there, before and after the function
        return await process(*arguments, **options)
    except BadInput as error:
      raise user_error(str(error)) from None

  async def checked_preprocess(function, inputs, *rest, **options):
    try:
      for component, value in zip(function.inputs, inputs, strict=True):
        if takes_file(component) and value is not None:
          _check_file(folder, value)
      return await preprocess(function, inputs, *rest, **options)
    except BadInput as error:
      raise user_error(str(error)) from None
    except gr.Error as error:
      raise user_error(error.message) from None
    except Exception as error:
      if not folder.closing:
        log_error("a request", error)
      raise user_error("this request cannot be answered") from None

  queue.push, page.process_api, page.preprocess_data = checked_push, checked_process, checked_preprocess


def user_error(line: str) -> gr.Error:
  """An error for the person who asked, and for nobody else."""
  return gr.Error(one_line(line), duration=10, print_exception=False)


def takes_file(component: Any) -> bool:
  """Whether a component's value is a file that somebody uploads."""
  return isinstance(component, (gr.Image, gr.File))


def _check_file(folder: UploadFolder, value: dict) -> None:
  path = value["path"]
  if path.lower().startswith(("http:", "https:")):
    raise BadInput("upload the file itself, not its address")
  folder.accept(path)


def _problems(function: Any, values: list) -> list[dict[str, Any]]:
  """What is wrong with the values that a function is to be given, as Gradio's clients read it; empty if nothing is."""
  components = function.inputs
  if len(values) != len(components):
    return [_problem("data", f"{len(components)} values are needed, not {len(values)}")]
  problems = []
  for component, value in zip(components, values, strict=True):
    wanted, fits = _WANTED.get(type(component), ("nothing", lambda _: False))
    if not fits(value):
      problems.append(_problem(str(component.elem_id or component.label), f"must be {wanted}"))
  return problems


def _problem(name: str, message: str) -> dict[str, Any]:
  return {"__type__": "validate", "is_valid": False, "parameter_name": name, "message": message}


def _is_number(value: Any) -> bool:
  return type(value) in (int, float) and abs(value) <= 1e9  # NaN is none


def _is_number_or_none(value: Any) -> bool:
  return value is None or _is_number(value)


def _is_text(value: Any) -> bool:
  return value is None or (isinstance(value, str) and len(value) <= _LONGEST_TEXT)


def _is_file(value: Any) -> bool:
  if value is None:
    return True
  texts = ("path", "url", "orig_name", "mime_type")
  return (
    isinstance(value, dict)
    and isinstance(value.get("path"), str)
    and all(value.get(name) is None or isinstance(value[name], str) for name in texts)
    and value.get("meta", _MARK) == _MARK
    and not value.get("is_stream")
    and (value.get("size") is None or type(value["size"]) in (int, float))
  )


def _is_sphere(value: Any) -> bool:
  return isinstance(value, dict) and all(_is_number(value.get(name)) for name in ("azimuth", "elevation"))


_MARK = {"_type": "gradio.FileData"}
_WANTED: dict[type, tuple[str, Callable[[Any], bool]]] = {
  gr.Slider: ("a number", _is_number),
  gr.Number: ("a number", _is_number_or_none),
  gr.Dropdown: (f"a text of at most {_LONGEST_TEXT} letters", _is_text),
  gr.Radio: (f"a text of at most {_LONGEST_TEXT} letters", _is_text),
  gr.Image: ("a file that was uploaded", _is_file),
  gr.File: ("a file that was uploaded", _is_file),
  gr.HTML: ("a place on the sphere", _is_sphere),
}
