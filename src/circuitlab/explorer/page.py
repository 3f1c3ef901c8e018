"""The page: the front end, the payload and a static picture in one HTML file that asks for nothing."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from circuitlab.core.errors import BadParameterError
from circuitlab.explorer.payload import payload_json
from circuitlab.explorer.picture import map_svg

__all__ = ["explorer_page", "front_end", "notebook_frame", "payload_script"]

_CSP = (
    "default-src 'none'; script-src 'unsafe-inline' data:; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
    "form-action 'none'"
)
"""Nothing may be fetched; the front end is imported from a data URL."""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{csp}">
<title>{title}</title>
<style>
:root {{ background: #ffffff; color: #1f2328; }}
@media (prefers-color-scheme: dark) {{ :root {{ background: #0d1117; color: #e6edf3; }} }}
body {{ margin: 0; font-family: system-ui, sans-serif; }}
.cl-static {{ margin: 16px; }}
.cl-static svg {{ max-width: 100%; height: auto; }}
</style>
<style>{css}</style>
</head>
<body>
<main>
<div id="circuitlab-explorer" class="cl-explorer">
<div class="cl-static">
<h1>{title}</h1>
<noscript>
<p>The explorer needs JavaScript; this is a picture of its map.</p>
{picture}
</noscript>
</div>
</div>
</main>
<script type="application/json" id="circuitlab-payload">{payload}</script>
<script type="module" data-uid="{uid}">{boot}</script>
</body>
</html>
"""

_BOOT = """
const uid = document.querySelector("script[data-uid]").dataset.uid;
let frame = null;
try { frame = window.frameElement; } catch (error) { frame = null; }
const live = () => {
  if (!uid || !frame) { return false; }
  return frame.ownerDocument.querySelector('[data-circuitlab-id="' + uid + '"]') !== null;
};
const draw = async () => {
  const payload = JSON.parse(document.getElementById("circuitlab-payload").textContent);
  const explorer = await import("data:text/javascript;base64," + "FRONT_END");
  const root = document.getElementById("circuitlab-explorer");
  root.replaceChildren();
  explorer.mount(root, payload);
};
const hide = (element) => element.style.setProperty("display", "none", "important");  // nbconvert's style sheet shows what is hidden
const hidePicture = () => {
  const picture = frame.previousElementSibling;
  if (picture && picture.matches("[data-circuitlab-picture]")) { hide(picture); }
};
const show = () => {
  if (frame) {
    hidePicture();
    const fit = () => { frame.style.height = Math.min(4000, Math.ceil(document.body.scrollHeight)) + "px"; };
    new ResizeObserver(fit).observe(document.body);
  }
  draw();
};
const wait = (left) => {
  if (live()) {
    hide(frame);
    hidePicture();
  } else if (left > 0) {
    setTimeout(wait, 250, left - 1);
  } else {
    show();
  }
};
wait(uid && frame ? 12 : 0);
"""
"""Draws the page; in a notebook it first waits whether the live widget beside it appears, and leaves the place to it."""


def front_end() -> tuple[str, str]:
    """The built module and its style sheet.

    Raises
    ------
    BadParameterError
        If the package was installed without them.
    """
    folder = files("circuitlab.explorer").joinpath("static")
    script, style = folder.joinpath("explorer.js"), folder.joinpath("explorer.css")
    if not script.is_file():
        what = f"The explorer's front end is missing: there is no {script}."
        raise BadParameterError(what, "Build it (`make front-end`), or install circuitlab from a release.")
    return script.read_text(encoding="utf-8"), style.read_text(encoding="utf-8") if style.is_file() else ""


def payload_script(payload: Mapping[str, Any]) -> str:
    """The payload as JSON that cannot end the script element it is put into, nor open a comment in it."""
    text = payload_json(payload)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def explorer_page(payload: Mapping[str, Any], *, uid: str = "") -> str:
    """One HTML page that needs no network and no server.

    Parameters
    ----------
    payload : mapping
        From `build_payload`.
    uid : str
        In a notebook, the name of the live widget that is drawn instead where there is one.

    Raises
    ------
    BadParameterError
        If the front end is missing.

    Examples
    --------
    >>> from circuitlab.explorer.example import Example, example_payload
    >>> page = explorer_page(example_payload(Example(layers=2, heads=2, kv_heads=1)))
    >>> page.count("http-equiv"), "<svg" in page
    (1, True)
    """
    script, style = front_end()
    boot = _BOOT.replace("FRONT_END", base64.b64encode(script.encode()).decode("ascii"))
    return _PAGE.format(
        csp=html.escape(_CSP, quote=True),
        title=html.escape(str(payload["title"])),
        css=style.replace("</", "<\\/"),
        picture=map_svg(payload),
        payload=payload_script(payload),
        uid=html.escape(uid, quote=True),
        boot=boot,
    )


def notebook_frame(payload: Mapping[str, Any], uid: str = "") -> str:
    """The page inside a frame that sizes itself, behind a picture that is shown where no script runs."""
    picture = base64.b64encode(map_svg(payload).encode()).decode("ascii")
    alternative = html.escape(f"Map of heads: {payload['title']}", quote=True)
    page = html.escape(explorer_page(payload, uid=uid), quote=True)
    return (
        f'<img data-circuitlab-picture alt="{alternative}" src="data:image/svg+xml;base64,{picture}" style="max-width:100%">'
        f'<iframe title="{alternative}" srcdoc="{page}" style="width:100%;height:40px;border:0" loading="eager"></iframe>'
    )
