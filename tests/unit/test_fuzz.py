"""Files that are almost right: readers end in a result or in one of our errors, soon, and touch nothing outside the file's folder.

The short version of benchmarks/bench_fuzz.py, with the same readers.
"""

from __future__ import annotations

import json
import random
from html.parser import HTMLParser
from pathlib import Path

import fuzzing
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from circuitlab.explorer.example import Example, example_payload
from circuitlab.explorer.page import explorer_page

SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large)
SHORT = settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=SLOW)
MARKUP = ["</script><script>", "<!--", "</title><b>", "]]>", '"><img src=x>']


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("right")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # h5netcdf's, about its own half-open file
@pytest.mark.parametrize("part", ["names", "tasks", "circuits", "studies", "stored", "weights"])
def test_files_that_are_almost_right_are_read_or_refused(folder, part) -> None:
    for target in getattr(fuzzing, f"{part}_targets")(*([] if part in {"names", "tasks", "studies"} else [folder])):
        place = folder / f"{target.file}-trial"
        place.mkdir()
        target.setup(place)
        try_often(target, place)


def try_often(target: fuzzing.Target, place: Path) -> None:
    @SHORT
    @given(st.randoms(use_true_random=False))
    def read(choose) -> None:
        assert not (problem := fuzzing.trial(target, place, choose)), problem

    read()


@pytest.mark.parametrize(
    ("read", "problem"),
    [
        (lambda path: {}["x"], "KeyError"),
        (lambda path: Path("/etc/hostname").read_text(), "it did open /etc/hostname"),
        (lambda path: (path.parents[1] / "outside").write_text("x"), "it did open"),
        (lambda path: __import__("pickle").loads(b"cos\nsystem\n."), "it did pickle.find_class"),
    ],
)
def test_a_reader_that_misbehaves_is_named(tmp_path, read, problem) -> None:
    (tmp_path / "inside").mkdir()
    target = fuzzing.Target("a reader", "file", (b"x",), read)
    assert problem in fuzzing.trial(target, tmp_path / "inside", random.Random(0))


class Elements(HTMLParser):
    """How often every element opens, and the text of scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data) -> None:
        if self.scripts and self.cdata_elem == "script":
            self.scripts[-1] += data


@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(MARKUP))
def test_no_text_of_a_payload_becomes_markup(text) -> None:
    payload = example_payload(Example(layers=2, heads=2, kv_heads=1, pairs=2, shown=1, length=4))
    plain = Elements(explorer_page(payload))
    payload["title"] = text
    for place in (payload["tasks"], payload["methods"], payload["models"]):
        for one in place:
            one |= {name: text for name, value in one.items() if name != "id" and isinstance(value, str)}
    for score in payload["scores"]:
        score |= {"task": text, "method": text}
    page = Elements(explorer_page(payload))
    assert page.tags == plain.tags
    assert json.loads(page.scripts[0]) == json.loads(json.dumps(payload))
