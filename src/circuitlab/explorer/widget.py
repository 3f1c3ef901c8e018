"""The explorer in a notebook: a live widget, and beside it the page itself, which saved notebooks still show."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from circuitlab.core.files import replace_file
from circuitlab.core.provenance import digest
from circuitlab.explorer.page import explorer_page, front_end, notebook_frame, payload_script
from circuitlab.explorer.picture import map_png

__all__ = ["Explorer"]


class Explorer(anywidget.AnyWidget):
    """A page of the explorer that is looked at in a notebook or written to a file.

    In a notebook it shows a live widget. The same page is stored in the cell's output, behind the widget: a notebook that is opened
    without a kernel, or converted to HTML, shows the page, and where no script runs a picture of the map.

    Parameters
    ----------
    payload : mapping
        From `circuitlab.explorer.payload.build_payload`.

    Attributes
    ----------
    payload : dict
        The data.
    state : dict
        What the view shows at the moment (task, method, head, pinned heads); set it to change the view.
    uid : str
        Name of the payload, by which the stored page finds the live widget.

    Examples
    --------
    >>> from circuitlab.explorer.example import Example, example_payload
    >>> explorer = Explorer(example_payload(Example(layers=2, heads=2, kv_heads=1)))
    >>> explorer
    Explorer: Example of random numbers, 4 runs
    """

    payload = traitlets.Dict().tag(sync=True)
    uid = traitlets.Unicode().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)

    def __init__(self, payload: Mapping[str, Any]) -> None:
        self._esm, self._css = front_end()
        super().__init__(payload=dict(payload), uid=digest([payload["title"], payload["provenance"]])[:12])

    def save(self, path: str | Path) -> Path:
        """Write one HTML file that needs no network, in one step, and return its path."""
        text = explorer_page(self.payload)
        replace_file(Path(path), lambda target: target.write_text(text, encoding="utf-8"))
        return Path(path)

    def to_json(self) -> str:
        """The payload as JSON text."""
        return payload_script(self.payload)

    def page(self) -> str:
        """The page as text."""
        return explorer_page(self.payload)

    def _repr_html_(self) -> str:
        return notebook_frame(self.payload, self.uid)

    def _ipython_display_(self) -> None:
        """Show the widget and store the page: two outputs, of which the page hides itself while the widget is there."""
        from IPython.display import display  # noqa: PLC0415 - only in a notebook

        bundle = super()._repr_mimebundle_()
        if bundle is not None:
            display(bundle[0] | {"text/plain": repr(self)}, metadata=bundle[1], raw=True)
        picture = base64.b64encode(map_png(self.payload)).decode("ascii")
        display({"text/html": self._repr_html_(), "image/png": picture, "text/plain": repr(self)}, raw=True)

    def __repr__(self) -> str:
        return f"Explorer: {self.payload['title']}, {len(self.payload['scores'])} runs"
