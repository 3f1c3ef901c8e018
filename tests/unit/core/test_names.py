"""Names that become file names: one check, applied wherever something is stored under a name."""

from __future__ import annotations

import pytest

from circuitlab.core.errors import BadParameterError, CircuitlabError, StoreError, TaskFileError
from circuitlab.core.names import require_file_name
from circuitlab.store import EDGE_SCORES, Cache, Documents
from circuitlab.studies.types import MethodEntry, StudySpec, TaskEntry
from circuitlab.tasks.spec import PoolSource, Task, Template, Variant

BAD = [
    "",
    ".",
    "..",
    "../x",
    "/etc/x",
    "a/b",
    "a\\b",
    "C:x",
    ".hidden",
    "ends.",
    " x",
    "x ",
    "a\nb",
    "a\0b",
    "a\x1b[2Jb",
    "\u202etxt",
    "\ud800",
]
BAD += ["a|b", "a*b", "a?b", 'a"b', "<x>", "x" * 121, "\N{SNOWMAN}" * 41, "con", "NUL", "com1", "LPT9.txt"]


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_a_file_is_refused_everywhere(name, tmp_path) -> None:
    with pytest.raises(BadParameterError, match="cannot be a name"):
        require_file_name("name", name)
    with pytest.raises(BadParameterError, match="study id"):
        StudySpec(id=name, title="t", model="m", tasks=[TaskEntry("ioi")], methods=[MethodEntry("random")])
    for part in ({"id": name}, {"variants": {name: Variant("v", swap={"A": "b"})}}):
        with pytest.raises(TaskFileError, match="cannot be a"):
            Task(**(FIELDS | part))
    store = Cache(tmp_path)
    acts = (store.path, store.checkpoint, lambda one: store.path(one, EDGE_SCORES), store.has, lambda one: store.path({}, Documents(one)))
    for act in acts:
        with pytest.raises(StoreError, match=r"cannot be a|not a run id"):
            act(name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["core", "my_study-2", "v0.1", "gr\u00f6\u00dfe", "ABBA 3", "x" * 120, "console", "-n"])
def test_ordinary_names_pass_unchanged(name) -> None:
    assert require_file_name("name", name) == name


def test_a_message_says_where_and_what_to_do() -> None:
    with pytest.raises(CircuitlabError, match=r"'\.\./x' cannot be a study id: it holds /.*Use letters") as caught:
        require_file_name("study id", "../x")
    assert caught.value.fix


FIELDS = {
    "id": "made",
    "version": 1,
    "title": "t",
    "about": "a",
    "cite": [],
    "licence": "none",
    "source": PoolSource({"a": "words"}),
    "templates": [Template("one", "{a:A}")],
    "answers": [" x"],
    "foils": [" y"],
    "variants": {"v": Variant("v", swap={"A": "b"})},
    "default_variant": "v",
}
