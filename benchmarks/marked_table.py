"""A table of the README that a script writes: it stands between two marks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["MarkedTable"]

_README = Path(__file__).parents[1] / "README.md"


@dataclass(frozen=True)
class MarkedTable:
    """The place of one table: ``name`` in the marks, and the script that writes it."""

    name: str
    script: str

    @property
    def start(self) -> str:
        """The line before the table."""
        return f"<!-- {self.name}: made by benchmarks/{self.script} -->"

    @property
    def end(self) -> str:
        """The line after it."""
        return f"<!-- {self.name} ends -->"

    def between(self, text: str) -> str:
        """What a page holds between the two marks."""
        return self._divided(text)[1].strip()

    def write(self, table: str, page: Path = _README) -> None:
        """Put a table there in place of the one before."""
        before, _, after = self._divided(page.read_text(encoding="utf-8"))
        page.write_text(f"{before}{self.start}\n{table}\n{self.end}{after}", encoding="utf-8")

    def _divided(self, text: str) -> tuple[str, str, str]:
        if self.start not in text or self.end not in text:
            raise SystemExit(f"The page has no place for the table. Put these two lines where it should stand:\n{self.start}\n{self.end}")
        before, _, rest = text.partition(self.start)
        table, _, after = rest.partition(self.end)
        return before, table, after
