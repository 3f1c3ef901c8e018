"""Progress on the terminal and in notebooks: a bar with the estimated remaining time, or plain lines without a terminal."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

from circuitlab.core.progress import has_listener, report_progress

if TYPE_CHECKING:
    from rich.progress import TaskID

__all__ = ["CellProgress", "NotebookProgress", "Progress", "SilentProgress", "TerminalProgress", "announce", "format_seconds", "say"]

_LONG = 20.0
"""Durations of at least this many seconds are announced."""


class Progress(Protocol):
    """Shows the progress of a running study."""

    def start(self, weights: Sequence[float]) -> None:
        """Called first, with the relative costs of the cells that will run."""
        ...

    def cell(self, index: int, label: str) -> None:
        """Called when a cell begins."""
        ...

    def step(self, done: int, total: int) -> None:
        """Called when part of the current cell is done."""
        ...

    def note(self, line: str) -> None:
        """Show a line of text."""
        ...

    def stop(self) -> None:
        """Called at the end, also after an interruption."""
        ...


class SilentProgress:
    """Shows nothing."""

    def start(self, weights: Sequence[float]) -> None:
        """Ignore."""

    def cell(self, index: int, label: str) -> None:
        """Ignore."""

    def step(self, done: int, total: int) -> None:
        """Ignore."""

    def note(self, line: str) -> None:
        """Ignore."""

    def stop(self) -> None:
        """Ignore."""


class TerminalProgress:
    """A bar on standard error, or a line every ten seconds if standard error is not a terminal."""

    _EVERY = 10.0
    _TOO_EARLY = 0.02

    def __init__(self) -> None:
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn  # noqa: PLC0415

        self._console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn())
        live = self._console.is_terminal
        self._bar = Progress(*columns, TimeRemainingColumn(), console=self._console, transient=True) if live else None
        self._weights: list[float] = []
        self._index, self._fraction, self._label = 0, 0.0, ""
        self._began = self._said = time.monotonic()
        self._task: TaskID | None = None

    def start(self, weights: Sequence[float]) -> None:
        """Open the bar."""
        self._weights = list(weights) or [1.0]
        self._began = self._said = time.monotonic()
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("starting", total=sum(self._weights))

    def cell(self, index: int, label: str) -> None:
        """Name the current cell."""
        self._index, self._label, self._fraction = index, label, 0.0
        self._show(force=False)

    def step(self, done: int, total: int) -> None:
        """Move the bar."""
        self._fraction = done / max(1, total)
        self._show(force=False)

    def note(self, line: str) -> None:
        """Print one line above the bar."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def stop(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.stop()

    def _show(self, *, force: bool) -> None:
        done = sum(self._weights[: self._index]) + self._fraction * self._weights[min(self._index, len(self._weights) - 1)]
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, description=self._label)
            return
        now = time.monotonic()
        if not force and now - self._said < self._EVERY:
            return
        self._said = now
        share = done / sum(self._weights)
        left = (now - self._began) * (1 - share) / share if share > self._TOO_EARLY else float("nan")
        sys.stderr.write(f"{share:4.0%}  {self._label}  {format_seconds(left)} left\n")
        sys.stderr.flush()


def format_seconds(seconds: float) -> str:
    """``75`` as ``1 min 15 s``."""
    if seconds != seconds:  # noqa: PLR0124 - the usual test for NaN
        return "an unknown time"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class CellProgress:
    """A bar for one run: ``with CellProgress("ioi x activation_patching"): ...`` shows what the method reports.

    It is shown on a terminal and in a notebook, but not if output is piped, nor inside another computation that reports its own progress.
    """

    def __init__(self, label: str) -> None:
        self._label, self._stack = label, ExitStack()

    def __enter__(self) -> CellProgress:
        if not has_listener() and _watched():
            shown: Progress = NotebookProgress() if _in_notebook() else TerminalProgress()
            shown.start([1.0])
            self._stack.callback(shown.stop)
            shown.cell(0, self._label)
            self._stack.enter_context(report_progress(shown.step))
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()


class NotebookProgress:
    """One line below a notebook's cell that counts up, and is cleared at the end."""

    _EVERY = 0.5

    def __init__(self) -> None:
        self._label, self._began, self._said = "", time.monotonic(), 0.0
        self._line: Any = None

    def start(self, weights: Sequence[float]) -> None:  # noqa: ARG002 - one cell
        """Open the line."""
        from IPython.display import display  # noqa: PLC0415 - only a notebook has it

        self._began = time.monotonic()
        self._line = display(_Line(""), display_id=True)

    def cell(self, index: int, label: str) -> None:  # noqa: ARG002 - one cell
        """Name what is running."""
        self._label = label
        self.step(0, 1)

    def step(self, done: int, total: int) -> None:
        """Update the count, at most twice a second."""
        now = time.monotonic()
        if self._line is None or now - self._said < self._EVERY:
            return
        self._said, share = now, done / max(1, total)
        left = f", {format_seconds((now - self._began) * (1 - share) / share)} left" if share > 0 else ""
        self._line.update(_Line(f"{self._label}: {share:.0%}{left}"))

    def note(self, line: str) -> None:
        """Replace the count by a line of text."""
        if self._line is not None:
            self._line.update(_Line(line))

    def stop(self) -> None:
        """Clear the line."""
        if self._line is not None:
            self._line.update(_Line(""))


class _Line:
    """A line of text that a notebook shows as plain text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text

    def _repr_html_(self) -> str:
        return f"<small>{html.escape(self._text)}</small>"


def announce(label: str, seconds: float) -> None:
    """Print how long something will take, if it takes long and standard error is a terminal."""
    if seconds >= _LONG:
        say(f"{label} will take about {format_seconds(seconds)}.")


def say(line: str) -> None:
    """Print a line if standard error is a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def _watched() -> bool:
    return sys.stderr.isatty() or _in_notebook()


def _in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel; nothing is imported to check it."""
    kernel = sys.modules.get("ipykernel")
    return kernel is not None and "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None
