"""Readers of files from elsewhere, and files that are almost right: what `bench_fuzz.py` and the tests try."""

from __future__ import annotations

import copy
import itertools
import json
import random
import re
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from circuitlab.circuits import Circuit
from circuitlab.circuits.graphml import read_graphml, write_graphml
from circuitlab.circuits.interchange import read_graph_json, read_graph_scores, write_graph_json
from circuitlab.circuits.saved import load_circuit, save_circuit
from circuitlab.core.errors import CircuitlabError
from circuitlab.core.nodes import Universe, parse_edge, parse_node
from circuitlab.experiments.catalogue import RESULTS
from circuitlab.experiments.run import read_record
from circuitlab.explorer.documents import documents_about, stored_provenances
from circuitlab.scores.head_scores import HeadScores
from circuitlab.scores.role_scores import RoleProvenance, RoleScores
from circuitlab.store import HEAD_SCORES, Cache, Checkpoint, Documents
from circuitlab.studies.load import load_study
from circuitlab.studies.manifest import MANIFEST, read_manifest
from circuitlab.tasks import load_task, sample_pairs, tasks_folder
from circuitlab.tasks.own_pairs import read_pairs
from circuitlab.tasks.templates import fill, fill_set, parse
from circuitlab.testing.fakes import fake_scores
from circuitlab.texts import read_texts

LONGEST = 5.0
"""CPU-seconds after which a reader counts as hanging."""

ROOT = Path(__file__).parents[1]
UNIVERSE = Universe(3, 4, 2)
ROW = {"io": "Mary", "place": "shop", "many": ["a", "b"], "more": ["c"], "item.country": "France"}

ODD_TEXTS = (
    *("", " ", "../x", "/etc/passwd", "con", "\0", "\ud800", "\u202e", "a9.h6", "{io}", "{", "|", "=1+1"),
    *("x" * 3000, "<script>", "é" * 200),
)
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2.5, 1e308, 10**9, 10**30, float("nan"), float("inf"), [], {}, [[]], [None], {"": None}, ["a"] * 50),
    *ODD_TEXTS,
)
ODD_BYTES = (
    *(b"", b"\0", b"\xff", b"\xef\xbb\xbf", b"\r", b"\n", b'"', b"'", b",", b"[", b"{", b"]", b"}", b"<", b"&#0;", b"=", b"#", b"1e999"),
    *(b"[" * 5000, b'{"a":' * 5000, b"nan", b"-1", b"9" * 400, b"->", b"<q>", b".", b"h", b"a", b"m", b"{io:S2}", b"|", b"true", b'"""'),
    *(b"a=[" * 2000, b"\xff" * 8, b"\x09\0\0\0\0\0\0\0" + b"\xff" * 6, b"&x;", b"../../x", b"[[a.b]]\n"),
    *(b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"<!ENTITY x SYSTEM 'file:///etc/passwd'>"),
)

Reader = Callable[[Path], object]


@dataclass(frozen=True)
class Target:
    """A reader, the file that it reads, and contents of that file that are right."""

    name: str
    file: str
    contents: tuple[bytes, ...]
    read: Reader
    setup: Callable[[Path], None] = field(default=lambda _folder: None)


def targets(folder: Path) -> list[Target]:
    """All readers; ``folder`` is used to write files that are right."""
    plain, with_files = (names_targets, tasks_targets, studies_targets), (circuits_targets, stored_targets, weights_targets)
    return [*(target for made in plain for target in made()), *(target for made in with_files for target in made(folder))]


def trial(target: Target, folder: Path, choose: random.Random) -> str:
    """Read one file that is almost right.

    Returns
    -------
    str
        What is wrong with the reader; empty if it gave a result or one of our errors, in time, without opening anything else.
    """
    path = folder / target.file
    data = mutated(choose.choice(target.contents), choose)
    path.write_bytes(data)
    began = time.process_time()
    _watched.update(roots=(folder, *_ROOTS), seen=[])
    problem = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.read(path)
    except CircuitlabError as error:
        problem = "" if error.what.strip() and error.fix.strip() else f"an error that says too little: {error!r}"
    except Exception as error:  # that there is none is what is tried
        problem = f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        seen, _watched["roots"] = list(_watched["seen"]), ()
    seconds = time.process_time() - began
    problem = problem or (f"it took {seconds:.1f} s" if seconds > LONGEST else "") or (f"it did {seen[0]}" if seen else "")
    return f"{target.name}: {problem} on {data[:300]!r}" if problem else ""


def mutated(data: bytes, choose: random.Random) -> bytes:
    """The content with some of it replaced: values where it is JSON, else lines, words and bytes."""
    if choose.random() < 0.5 and data[:1] in b"{[":
        try:
            return odd_json(json.loads(data), choose)
        except ValueError:
            pass
    for _ in range(choose.choice((1, 1, 2, 4))):
        data = choose.choice((_odd_bytes, _odd_bytes, _cut, _repeated, _odd_assignment, _odd_word))(data, choose)
    return data


def odd_value(choose: random.Random) -> Any:
    """One of the values that hardly any field allows."""
    return copy.deepcopy(choose.choice(ODD_VALUES))  # lists among them are changed afterwards


def odd_json(value: Any, choose: random.Random) -> bytes:
    for _ in range(choose.choice((1, 1, 2, 3))):
        holder, key = None, None
        inner = value
        while isinstance(inner, dict | list) and inner and (holder is None or choose.random() < 0.8):
            holder, key = inner, choose.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
            inner = inner[key]
        if holder is None:
            return json.dumps(odd_value(choose)).encode()
        if choose.random() < 0.3:
            del holder[key]
        elif isinstance(holder, dict) and choose.random() < 0.2:
            holder[choose.choice(ODD_TEXTS)] = holder.pop(key)
        else:
            holder[key] = odd_value(choose)
    return json.dumps(value).encode()


def _odd_bytes(data: bytes, choose: random.Random) -> bytes:
    at = choose.randint(0, len(data))
    return data[:at] + choose.choice(ODD_BYTES) + data[at + choose.choice((0, 0, 1, 3)) :]


def _cut(data: bytes, choose: random.Random) -> bytes:
    start, stop = sorted((choose.randint(0, len(data)), choose.randint(0, len(data))))
    return data[:start] + data[stop:] if choose.random() < 0.7 else data[:start]


def _repeated(data: bytes, choose: random.Random) -> bytes:
    lines = data.splitlines(keepends=True) or [b""]
    at = choose.randrange(len(lines))
    return b"".join([*lines[:at], lines[at] * choose.choice((2, 2, 300)), *lines[at + 1 :]])


def _odd_assignment(data: bytes, choose: random.Random) -> bytes:
    """In TOML: another value for a key."""
    places = list(re.finditer(rb"(?m)^(\w+ *= *)(.+)$", data))
    if not places:
        return _odd_bytes(data, choose)
    place, value = choose.choice(places), odd_value(choose)
    text = {"nan": "nan", "inf": "inf"}.get(str(value), json.dumps(value) if not isinstance(value, dict) else "{}")
    return data[: place.start(2)] + text.encode() + data[place.end(2) :]


def _odd_word(data: bytes, choose: random.Random) -> bytes:
    places = list(re.finditer(rb"[\w.{}\-]+", data))
    if not places:
        return _odd_bytes(data, choose)
    one, other = choose.choice(places), choose.choice(places)
    word = other[0] if choose.random() < 0.5 else str(odd_value(choose)).encode(errors="surrogatepass")
    return data[: one.start()] + word + data[one.end() :]


def names_targets() -> list[Target]:
    def node(path: Path) -> None:
        text = path.read_bytes().decode(errors="replace")
        parsed = parse_node(text)
        assert parse_node(str(parsed)) == parsed

    def edge(path: Path) -> None:
        text = path.read_bytes().decode(errors="replace")
        parsed = parse_edge(text)
        assert parse_edge(str(parsed)) == parsed

    def template(path: Path) -> None:
        text = path.read_bytes().decode(errors="replace")
        filled, spans = fill(parse(text, "a template"), ROW, "a template")
        assert all(0 <= start <= stop <= len(filled) for start, stop in spans.values())

    def answers(path: Path) -> None:
        fill_set([path.read_bytes().decode(errors="replace")], ROW, "answers")

    long = b"When {io:IO} went to the {place}, {io|upper:S2} gave {item.country|article} it"
    sentences = (long, b" {many}", b"{io}{place}", b"{many}{more}")
    return [
        Target("node names", "node", (b"a9.h6", b"L9H6", b"9.6", b"a9.kv2", b"m3", b"r9.pre", b"embed", b"logits"), node),
        Target("edge names", "edge", (b"a9.h6->a10.h0<q>", b"a5.h1->a7.kv0<k>", b"m0->logits", b"embed->m3"), edge),
        Target("templates", "template", sentences, template),
        Target("answers", "answers", sentences, answers),
    ]


def tasks_targets() -> list[Target]:
    def pairs(path: Path) -> None:
        task = load_task(path)
        for variant in list(task.variants)[:3]:
            list(itertools.islice(sample_pairs(path, variant=variant), 3))

    def tables(folder: Path) -> None:
        for table in tasks_folder().glob("*.csv"):
            (folder / table.name).write_bytes(table.read_bytes())

    shipped = {path.name: path.read_bytes() for path in sorted(tasks_folder().glob("*.toml")) if path.name != "pools.toml"}
    targets = [Target("task files", name, (data,), pairs, tables) for name, data in shipped.items()]
    capitals = shipped["capitals.toml"]

    def table(path: Path) -> None:
        (path.parent / "capitals.toml").write_bytes(capitals)
        list(itertools.islice(sample_pairs(path.parent / "capitals.toml"), 3))

    rows = [
        {"clean": f"The capital of [PLACE:{a}] is", "corrupt": f"The capital of [PLACE:{b}] is", "answer": c, "foil": [d, "x"]}
        for a, b, c, d in (("France", "Spain", "Paris", "Madrid"), ("Peru", "Chile", "Lima", "Santiago"))
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    cells = b'clean,corrupt,answer,foil,S2\n"A, b {x} John#2 John",A c John John,d,"e|f",John#2\nG John,"H ""John""",i,j,John\n'
    texts = b'{"kind": "recipe", "text": "Mix the flour."}\n{"text": "Two."}\n'
    return [
        *targets,
        Target("tables of tasks", "capitals.csv", ((tasks_folder() / "capitals.csv").read_bytes()[:300],), table),
        Target("own pairs (CSV)", "pairs.csv", (cells,), read_pairs),
        Target("own pairs (TSV)", "pairs.tsv", (cells.replace(b",", b"\t"),), read_pairs),
        Target("own pairs (JSON lines)", "pairs.jsonl", (lines,), read_pairs),
        Target("passages (JSON lines)", "texts.jsonl", (texts,), read_texts),
        Target("passages (text)", "texts.txt", (b"One,\ntwo.\n\nThree.\n",), read_texts),
    ]


def circuits_targets(folder: Path) -> list[Target]:
    edges = ["a0.h1->a1.h0<q>", "a0.h1->a2.kv1<k>", "embed->m0", "m0->logits"]
    about = fake_scores(np.ones((2, 3, 4))).provenance
    universe = Universe(about.model.n_layers, about.model.n_heads, about.model.n_kv_heads)
    circuit = Circuit(["a0.h1", "m0", "embed"], UNIVERSE, edges, sources=("x",))
    saved = Circuit(["a0.h1", "m0"], universe, sources=(about.run_id(),))
    ours = write_graph_json(circuit, folder / "graph.json").read_bytes()
    foreign = json.loads(ours)
    del foreign["circuitlab"]
    graphml = write_graphml(circuit, folder / "graph.graphml").read_bytes()
    files = (save_circuit(saved, folder / "saved.json", [about]).read_bytes(), save_circuit(circuit, folder / "saved.json").read_bytes())

    def both(path: Path) -> None:
        repr(read_graph_json(path))
        read_graph_scores(path)

    return [
        Target("circuit files", "circuit.json", files, lambda path: repr(load_circuit(path))),
        Target("circuit graphs", "graph.json", (ours, json.dumps(foreign).encode()), both),
        Target("GraphML", "graph.graphml", (graphml,), lambda path: repr(read_graphml(path, UNIVERSE))),
    ]


def studies_targets() -> list[Target]:
    entry = {"sha256": "0", "bytes": 1, "runs": ["a"]}
    plain = {"id": "x", "title": "X"}
    manifest = {"study": plain, "model": {"name": "x"}, "runs": [], "files": {"heads.csv": entry}, "images": "made"}
    manifest |= {"citations": {}, "built_with": {}}
    written = tuple(path.read_bytes() for path in sorted((ROOT / "figures").glob("*.toml")))
    records = tuple(path.read_bytes() for path in sorted(RESULTS.glob("*.json")) if not path.name.startswith("gates."))

    def record(path: Path) -> None:
        kept = read_record(path)
        repr(kept), kept._repr_html_(), kept.to_dict()

    return [
        Target("study files", "study.toml", written, lambda path: [cell.label for cell in load_study(path).cells()]),
        Target("experiment records", "record.json", records, record),
        Target("manifests", MANIFEST, (json.dumps(manifest).encode(),), lambda path: read_manifest(path.parent)),
    ]


def stored_targets(folder: Path) -> list[Target]:
    cache, codec = Cache(folder / "store"), Documents("evaluations")
    identity: Mapping[str, Any] = {"model": {"weights": "w"}, "ranking": "r"}
    cache.put(identity, codec, {"mean": 0.5, "heads": ["a0.h1"]})
    document = cache.path(identity, codec)
    scores = fake_scores(np.random.default_rng(0).normal(size=(3, 3, 4)))
    run_id = scores.provenance.run_id()
    cache.put(run_id, HEAD_SCORES, scores)
    nc, sidecar = cache.path(run_id).read_bytes(), cache.path(run_id).with_suffix(".json")
    checkpoint = Checkpoint(folder / "x.npz")
    checkpoint.save({"heads": np.ones((3, 2)), "done": np.zeros(3, dtype=bool)})
    about = RoleProvenance(
        role="x", params={}, estimand="e", units="u", threshold=0.1, null="n", sample="prompts", digest="d", model=scores.provenance.model
    )
    spec = about.model
    values = np.random.default_rng(0).normal(size=(3, spec.n_layers, spec.n_heads))
    role = json.dumps(RoleScores(values, about, values * 0).to_plain()).encode()

    def read_document(path: Path) -> None:
        store = Cache(path.parent)
        target = store.path(identity, codec)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
        documents_about(store, codec, lambda _about: True)
        try:
            store.read(identity, codec)
        finally:
            store.find(identity, codec)

    def read_sidecar(path: Path) -> None:
        store = Cache(path.parent)
        store.path(run_id).write_bytes(nc)
        store.path(run_id).with_suffix(".json").write_bytes(path.read_bytes())
        stored_provenances(store)
        store.find(run_id, HEAD_SCORES)

    def read_role(path: Path) -> None:
        plain = msgspec.json.decode(path.read_bytes())
        RoleScores.from_plain(plain, about).earned()

    def read_plain_json(path: Path) -> None:
        try:
            read_role(path)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return  # the store decodes the file, which is tried with documents

    return [
        Target("documents", "document", (document.read_bytes(),), read_document),
        Target("sidecars", "sidecar", (sidecar.read_bytes(),), read_sidecar),
        Target("scores", "x.nc", (nc,), HeadScores.load),
        Target("checkpoints", "x.npz", (checkpoint.path.read_bytes(),), lambda path: Checkpoint(path).load()),
        Target("roles", "role.json", (role,), read_plain_json),
    ]


def weights_targets(folder: Path) -> list[Target]:
    import torch
    from gguf import GGUFWriter

    from circuitlab.methods.sae import Dictionary, load_dictionary, save_dictionary
    from circuitlab.model.weights.convert import check_whole

    writer = GGUFWriter(folder / "whole.gguf", "llama")
    writer.add_block_count(1)
    writer.add_embedding_length(8)
    writer.add_head_count(2)
    writer.add_token_list(["a", "b", "cc"])
    writer.add_token_scores([0.0, 1.0, 2.0])
    writer.add_tensor("token_embd.weight", np.ones((3, 8), dtype=np.float32))
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()
    torch.manual_seed(0)
    shapes = {"encoder": (6, 4), "encoder_bias": (6,), "decoder": (6, 4), "bias": (4,)}
    written = folder / "dictionary"
    save_dictionary(Dictionary(**{name: torch.randn(shape) for name, shape in shapes.items()}), written)
    (config,), (weights,) = written.glob("*.json"), written.glob("*.safetensors")

    def beside(other: Path) -> Callable[[Path], None]:
        def setup(place: Path) -> None:
            (place / other.name).write_bytes(other.read_bytes())

        return setup

    def read(path: Path) -> object:
        return load_dictionary(path.parent)

    return [
        Target("GGUF", "model.gguf", ((folder / "whole.gguf").read_bytes(),), check_whole),
        Target("dictionaries (config)", config.name, (config.read_bytes(),), read, beside(weights)),
        Target("dictionaries (weights)", weights.name, (weights.read_bytes(),), read, beside(config)),
    ]


_ROOTS = tuple(Path(root).resolve() for root in {sys.prefix, sys.base_prefix, str(ROOT / "src"), str(tasks_folder())})
_watched: dict[str, Any] = {"roots": (), "seen": []}


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Note what a reader does besides reading its own folder; files of Python and of the package may be read."""
    roots = _watched["roots"]
    if not roots:
        return
    if event in {"pickle.find_class", "os.system", "subprocess.Popen", "socket.connect", "os.exec", "os.fork"}:
        _watched["seen"].append(event)
    elif event == "open" and isinstance(arguments[0], str | bytes):
        path = Path(arguments[0] if isinstance(arguments[0], str) else arguments[0].decode())
        allowed = roots[:1] if isinstance(arguments[1], str) and set(arguments[1]) & set("wax+") else roots
        system = path.parts[:2] in {("/", "dev"), ("/", "proc"), ("/", "sys")}
        if not system and not any(path.resolve().is_relative_to(root) for root in allowed):
            _watched["seen"].append(f"open {path} ({arguments[1]})")


sys.addaudithook(_watch)
