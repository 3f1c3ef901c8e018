"""Building from stored runs: complete, deterministic, self-contained, traceable, without torch."""

from __future__ import annotations

import contextlib
import hashlib
import html.parser
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from made_up_study import made_up_study

import circuitlab.studies.build as building
from circuitlab.core.errors import StoreError
from circuitlab.studies.build import build_figures, check_figures, write_report
from circuitlab.studies.load import load_study
from circuitlab.tasks import tasks_folder


@pytest.fixture(scope="module", autouse=True)
def no_browser():
    """Images are made by a browser, whose bytes differ from time to time; what is said about them is tested without one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "image_problem", lambda: "not made: no browser in these tests")
        yield


@pytest.fixture(scope="module")
def built(tmp_path_factory, no_browser):
    folder = tmp_path_factory.mktemp("study")
    file, store = made_up_study(folder)
    result = build_figures(file, store=store, out=folder / "built")
    return file, store, folder / "built", result


@pytest.fixture(scope="module")
def small(tmp_path_factory, no_browser):
    """One task by one method: enough where the test is of files and not of what is drawn in them."""
    folder = tmp_path_factory.mktemp("small")
    file, store = made_up_study(folder, small=True)
    build_figures(file, store=store, out=folder / "built")
    return file, store, folder / "built"


class Page(html.parser.HTMLParser):
    """Collects what a page would fetch, its ids, and checks that tags close."""

    VOID = frozenset({"meta", "br", "link", "img", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        found = dict(attrs)
        self.fetched += [found[name] for name in ("src", "srcset", "data", "poster") if found.get(name)]
        self.fetched += [found["href"]] if tag == "link" else []
        self.links += [found["href"]] if tag == "a" else []
        self.ids += [found["id"]] if "id" in found else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if self.open and self.open[-1] not in {"script", "style"}:
            self.text.append(data)


def test_every_file_is_there(built) -> None:
    _, _, out, result = built
    names = {path.name for path in out.iterdir()}
    assert names == set(result.files)
    for task in ("successor", "capitals", "colored_objects"):
        for method in ("logit_attribution", "activation_patching"):
            for kind in ("heatmap", "top_heads"):
                assert {f"{task}.{method}.{kind}.html", f"{task}.{method}.{kind}.json"} <= names
    assert {"overlap.activation_patching.html", "overlap.logit_attribution.json", "task_fitness.html"} <= names
    assert {"report.html", "explorer.html", "heads.csv", "overlap.csv", "task_fitness.csv", "MANIFEST.json", "plotly.min.js"} <= names


def test_manifest_names_hashes_runs_weights_prompts_and_citations(built) -> None:
    file, store, out, result = built
    manifest = json.loads((out / "MANIFEST.json").read_bytes())
    assert set(manifest["files"]) == {path.name for path in out.iterdir()} - {"MANIFEST.json"}
    for name, entry in manifest["files"].items():
        assert entry["sha256"] == hashlib.sha256((out / name).read_bytes()).hexdigest()
    assert [run["run_id"] for run in manifest["runs"]] == result.runs and set(result.runs) == set(store.list())
    run = manifest["runs"][0]
    where = store.read(run["run_id"]).provenance
    assert run["weights"] == where.model.weights == manifest["model"]["weights"] and run["prompts"] == where.task.digest
    assert manifest["files"]["successor.logit_attribution.heatmap.json"]["runs"] == [run["run_id"]]
    assert {"gould2024", "wang2022"} <= set(manifest["citations"])
    assert manifest["study"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert manifest["images"]


def test_building_twice_gives_the_same_bytes(built, tmp_path) -> None:
    file, store, out, _ = built
    build_figures(file, store=store, out=tmp_path)
    for path in out.iterdir():
        if path.suffix not in {".png", ".svg"}:
            assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_tables_hold_every_node_and_pair(built) -> None:
    _, store, out, result = built
    heads = pd.read_csv(out / "heads.csv")
    assert len(heads) == 6 * (6 * 4 + 6) and set(heads["run_id"]) == set(result.runs)
    row = heads[(heads.run_id == result.runs[0]) & (heads.node == "a4.h1")].iloc[0]
    entry = next(e for e in store.read(result.runs[0]).nodes() if str(e.node) == "a4.h1")
    assert [row["mean"], row["low"], row["high"]] == pytest.approx([entry.mean, entry.low, entry.high], rel=1e-5)
    overlap = pd.read_csv(out / "overlap.csv")
    assert len(overlap) == 2 * 3 and {"jaccard", "jaccard_low", "null_mean", "p", "q", "method"} <= set(overlap)
    fitness = pd.read_csv(out / "task_fitness.csv").set_index("task")
    assert fitness["ready"].to_dict() == {"successor": True, "capitals": True, "colored_objects": False}


def test_report_stands_alone(built) -> None:
    text = (built[2] / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.fetched == [] and page.open == []
    assert "@import" not in text.split("</style>")[0] and "url(" not in text.split("</style>")[0]
    assert "default-src 'none'" in text
    assert text.count("plotly.js v") == 1
    assert len(page.ids) == len(set(page.ids))
    targets = [link for link in page.links if link.startswith("#")]
    assert targets and {link[1:] for link in targets} <= set(page.ids)
    assert page.links == targets


def test_report_says_what_a_reader_needs_without_scripts(built) -> None:
    _, store, out, result = built
    said = re.sub(r"\s+", " ", " ".join(Page((out / "report.html").read_text(encoding="utf-8")).text))
    order = [said.index(part) for part in ("How to read this", "Can the model do the tasks?", "Are they the same heads?", "Task by task")]
    assert order == sorted(order)
    assert "at chance: there is no ability that a circuit could carry" in said and "The sequence is:" in said
    assert all(run_id in said for run_id in result.runs)
    assert store.read(result.runs[0]).provenance.task.digest[:16] in said
    assert "A made-up study <of> nothing & nobody" in said
    assert "Successor Heads" in said and "Self-checks" in said and "Sum of parts minus total" in said


def test_plots_of_the_report_are_whole_figures(built) -> None:
    text = (built[2] / "report.html").read_text(encoding="utf-8")
    blocks = re.findall(r'<script type="application/json" id="data-[^"]+">(.*?)</script>', text, re.S)
    assert len(blocks) == 1 + 2 * 2 + 3 * (2 * 2 + 1), "fitness; overlap and UpSet; by task two of each method, and both"
    assert all(json.loads(block)["data"] for block in blocks)


def test_text_of_a_task_stays_text(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "tasks"
    shutil.copytree(tasks_folder(), folder)
    task = folder / "successor.toml"
    evil = "<script>alert('x')</script>"
    changed = re.sub(r"(?m)^title = .*$", f'title = "{evil}"', task.read_text(encoding="utf-8"), count=1)
    task.write_text(re.sub(r"(?m)^about = .*$", f'about = "{evil}"', changed, count=1), encoding="utf-8")
    monkeypatch.setenv("CIRCUITLAB_TASKS", str(folder))
    file, store = made_up_study(tmp_path)
    build_figures(file, store=store, out=tmp_path / "out")
    for path in (tmp_path / "out").glob("*.html"):
        assert "<script>alert" not in path.read_text(encoding="utf-8"), path.name
    assert "&lt;script&gt;alert" in (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_missing_cells_are_named_with_the_command(tmp_path) -> None:
    file, store = made_up_study(tmp_path, unfinished="capitals")
    with pytest.raises(
        StoreError, match=r"2 of 6 cells.*capitals x logit_attribution, capitals x activation_patching.*study run"
    ) as raised:
        build_figures(file, store=store, out=tmp_path / "out")
    assert f"circuitlab study run {file}" in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_check_sees_a_changed_a_missing_and_a_stale_file(small, tmp_path) -> None:
    file, store, out = small
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    assert check_figures(file, store=store, out=copy).ok
    (copy / "heads.csv").write_text("part\n")
    (copy / "task_fitness.json").unlink()
    found = check_figures(file, store=store, out=copy)
    assert not found.ok and found.differing == ["heads.csv", "task_fitness.json"]
    with pytest.raises(StoreError, match="figures build"):
        check_figures(file, store=store, out=tmp_path)


def listing(copy: Path, **files: str) -> None:
    """A manifest that also lists the given files, each with the SHA-256 of its text."""
    manifest = json.loads((copy / "MANIFEST.json").read_bytes())
    some = manifest["files"]["heads.csv"]
    manifest["files"] |= {name: some | {"sha256": hashlib.sha256(text.encode()).hexdigest()} for name, text in files.items()}
    (copy / "MANIFEST.json").write_text(json.dumps(manifest))


def test_rebuilding_sets_files_aside_that_are_no_longer_made_and_loses_none(small, tmp_path) -> None:
    file, store, out = small
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    listing(copy, **{"old.html": "old", "edited.html": "as it was built"})
    for name, text in (("old.html", "old"), ("edited.html", "edited by hand"), ("mine.txt", "mine")):
        (copy / name).write_text(text)
    build_figures(file, store=store, out=copy)
    assert not (copy / "old.html").exists() and (copy / "earlier" / "old.html").read_text() == "old"
    listing(copy, **{"old.html": "other"})  # as a manifest might list the file of somebody else
    (copy / "old.html").write_text("other")
    build_figures(file, store=store, out=copy)
    assert sorted(path.read_text() for path in (copy / "earlier").iterdir()) == ["old", "other"]
    assert (copy / "mine.txt").exists() and (copy / "edited.html").read_text() == "edited by hand"


def test_a_manifest_that_lists_foreign_files_removes_none(small, tmp_path) -> None:
    file, store, out = small
    copy, outside = tmp_path / "copy", tmp_path / "outside.csv"
    shutil.copytree(out, copy)
    (copy / "folder.html").mkdir()
    foreign = [outside, copy / "folder.html" / "inside.csv", copy / "notes.txt", tmp_path / "target.csv"]
    for path in foreign:
        path.write_text("x")
    (copy / "link.csv").symlink_to(tmp_path / "target.csv")
    names = [
        "../outside.csv",
        str(outside),
        "folder.html/inside.csv",
        "notes.txt",
        "link.csv",
        "folder.html",
        "..",
        ".",
        "",
        "MANIFEST.json",
    ]
    listing(copy, **dict.fromkeys(names, "x"))
    assert not set(check_figures(file, store=store, out=copy).differing).isdisjoint(names)
    build_figures(file, store=store, out=copy)
    assert all(path.read_text() == "x" for path in foreign) and (copy / "link.csv").is_symlink()
    assert check_figures(file, store=store, out=copy).ok


@pytest.mark.parametrize("data", [b"", b'{"study":{},"model":{},"runs":[{"params":{"a":' + b"[" * 20_000, b'{"study": "\xff"}', b"null"])
def test_a_manifest_that_cannot_be_read_is_named_and_stays(small, tmp_path, data) -> None:
    file, store, _ = small
    (tmp_path / "MANIFEST.json").write_bytes(data)
    with pytest.raises(StoreError, match=r"MANIFEST\.json cannot be read"):
        build_figures(file, store=store, out=tmp_path)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [data]


def test_a_failed_write_leaves_the_old_file_whole(small, tmp_path, monkeypatch) -> None:
    file, store, out = small
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    before = (copy / "report.html").read_bytes()

    def full(path, data) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreError, match="the disk is full"):
        write_report(file, store=store, out=copy / "report.html")
    monkeypatch.undo()
    assert (copy / "report.html").read_bytes() == before
    assert not list(copy.glob("*.part"))


def test_images_that_cannot_be_made_are_stated(small, tmp_path, monkeypatch) -> None:
    file, store, _ = small

    def broken(figure, kind) -> bytes:
        msg = "no browser\nhere"
        raise RuntimeError(msg)

    monkeypatch.setattr(building, "image_problem", lambda: "")
    monkeypatch.setattr(building, "exporter", contextlib.nullcontext)
    monkeypatch.setattr(building, "render_image", broken)
    result = build_figures(file, store=store, out=tmp_path)
    assert result.images == "not made: the exporter failed (RuntimeError: no browser here)"
    assert json.loads((tmp_path / "MANIFEST.json").read_bytes())["images"] == result.images
    assert (tmp_path / "report.html").is_file()


def test_images_are_listed_but_not_compared_between_browsers(small, tmp_path, monkeypatch) -> None:
    file, store, _ = small
    monkeypatch.setattr(building, "image_problem", lambda: "")
    monkeypatch.setattr(building, "exporter", contextlib.nullcontext)
    monkeypatch.setattr(building, "render_image", lambda figure, kind: f"made-up {kind}".encode())
    assert build_figures(file, store=store, out=tmp_path).images == "made"
    entry = json.loads((tmp_path / "MANIFEST.json").read_bytes())["files"]["task_fitness.svg"]
    assert entry["checked"] is False
    monkeypatch.setattr(building, "render_image", lambda figure, kind: b"another browser")
    assert check_figures(file, store=store, out=tmp_path).ok


def test_building_imports_no_torch(built, tmp_path) -> None:
    file, store, _, _ = built
    code = (
        "import sys; from circuitlab.studies.build import build_figures; from circuitlab.store import Cache;"
        "build_figures(sys.argv[1], store=Cache(sys.argv[2]), out=sys.argv[3]);"
        "bad = {'torch', 'transformers', 'transformer_lens'} & set(sys.modules); assert not bad, bad"
    )
    command = [sys.executable, "-c", code, str(file), str(store.root), str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ | {"CIRCUITLAB_TASKS": str(tasks_folder())})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").is_file()


def test_every_study_builds_into_a_folder_of_its_own_and_never_over_another(tmp_path, monkeypatch) -> None:
    (tmp_path / "one").mkdir()
    file, store = made_up_study(tmp_path / "one", small=True)
    other = tmp_path / "other.toml"
    other.write_text(file.read_text().replace('id = "', 'id = "other-', 1))
    monkeypatch.chdir(tmp_path)
    first = build_figures(file, store=store)
    assert Path(first.out) == Path("figures/built") / load_study(file).id
    before = {path: path.read_bytes() for path in Path(first.out).iterdir()}
    with pytest.raises(StoreError, match="holds the figures of study"):
        build_figures(other, store=store, out=first.out)
    second = build_figures(other, store=store)
    assert Path(second.out).name.startswith("other-")
    assert {path: path.read_bytes() for path in Path(first.out).iterdir()} == before


def test_the_report_opens_with_what_was_found(built) -> None:
    page = Page((built[2] / "report.html").read_text(encoding="utf-8"))
    said = " ".join(" ".join(page.text).split())
    opening = said[said.index("What was found") : said.index("How to read this")]
    assert "can do 2 of 3 tasks, and not " in opening
    assert "not ready: it is not shown that the model can do it." in opening
    assert re.search(r"By activation patching, \d+ of 24 heads differ from zero, the strongest a4\.h1 \+1\.\d\d \[", opening)
    assert re.search(r"Jaccard \d\.\d\d \[.*by chance \d\.\d\d, q = |no two tasks that the model can do share more heads", opening)
