"""Stored data of another form under a checksum that fits, as another program may write them: named, set aside, and nothing else is lost."""

from __future__ import annotations

import json
import random
import re
import shutil
import warnings
from pathlib import Path

import pytest
from fuzzing import odd_json

from circuitlab.core.errors import CircuitlabError
from circuitlab.core.provenance import digest
from circuitlab.explorer.conforms import require_conforming
from circuitlab.explorer.documents import documents_named
from circuitlab.explorer.payload import build_payload, payload_json
from circuitlab.explorer.stored import ATTENTION, gather, page_records
from circuitlab.scores.head_scores import HeadScores
from circuitlab.store import Cache, Documents

METHOD = "activation_patching"
KINDS = ["roles", "attention", "cards", "evaluations", "analyses"]


@pytest.fixture(scope="module")
def everything(planted, tmp_path_factory) -> tuple[Cache, list[HeadScores]]:
    """A store with everything that a page shows, and its runs."""
    store = Cache(tmp_path_factory.mktemp("whole") / "runs")
    shutil.copytree(planted.store.root, store.root)
    runs = [store.read(run_id) for run_id in store.list()]
    one, limits = {"mean": 0.5, "low": 0.1, "high": 0.9}, {"n": 3, "mean": 0.1, "low": 0.0, "high": 0.2}
    ids = {run.provenance.task.digest: run.provenance.run_id() for run in runs if run.provenance.method == METHOD}
    cell = {"circuit": "x", "task": "y", "size": 2, "faithfulness": one, "p": 0.1, "q": None, "random": limits}
    row = {"task_a": "x", "task_b": "y", "verdict": "none", "p": 0.5, "q": 0.5}
    row |= dict.fromkeys(("contrast_a", "contrast_b", "interaction"), one)
    about = {"analysis": "transfer", "cell": "c", "runs": list(ids.values())}
    store.put(about, Documents("analyses"), {"tasks": ["x", "y"], "cells": [cell], "dissociation": {"pairs": [row]}})
    store.put({"analysis": "planted", "cell": METHOD}, Documents("analyses"), {"rows": [{"auroc": one, "visible": True}]})
    return store, runs


def forge(path: Path, result: object, about: object = None) -> Path:
    """Write other data into a document, with the checksum and the name that fit them."""
    document = json.loads(path.read_text())
    document |= {"result": result, "checksum": digest(result)} | ({} if about is None else {"about": about})
    path.unlink()
    path = path.parent / f"{digest(document['about'])[:16]}.json"
    path.write_text(json.dumps(document))
    return path


def forged(path: Path, choose: random.Random) -> Path:
    """Change some value of a document at random; what it is about as well, in one case of four."""
    document = json.loads(path.read_text())
    result = json.loads(odd_json(document["result"], choose))
    about = json.loads(odd_json(document["about"], choose)) if choose.random() < 0.25 else None
    if "\\ud" in json.dumps([result, about]):  # half of a character, of which there is no JSON
        return forged(path, choose)
    return forge(path, result if isinstance(result, dict) else {}, about if isinstance(about, dict) else None)


def others(payload: dict, kind: str) -> dict:
    """What a payload shows beside the kind that was changed."""
    of = {"roles": ["roles"], "attention": ["attention", "prompts"], "cards": ["cards"], "evaluations": ["circuits"]}
    changed = {*of.get(kind, ["transfer", "dissociation", "methods", "circuits"]), "absent", "citations", "made_by", "provenance"}
    return {name: part for name, part in payload.items() if name not in changed}


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_shows_all_but_what_was_forged(everything, tmp_path, check, kind) -> None:
    store, runs = everything
    whole, choose, left_out = build_payload(gather(store, runs)), random.Random(kind), 0
    for _ in range(7):
        shutil.rmtree(tmp_path, ignore_errors=True)
        shutil.copytree(store.root, tmp_path)
        forged(choose.choice(sorted((tmp_path / kind).glob("*.json"))), choose)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            payload = build_payload(gather(Cache(tmp_path), runs))
        check(payload)
        payload_json(payload)
        assert others(payload, kind) == others(whole, kind)
        left_out += any(re.search(rf"{kind}.*left out", str(one.message)) for one in said)
    assert left_out >= 2, "hardly any change mattered"


def test_names_of_records_reach_no_file_outside_the_store(everything, tmp_path) -> None:
    store, runs = everything
    records = page_records(store, runs)
    shutil.copytree(store.root, tmp_path / "runs")
    (tmp_path / "outside.json").write_text(next((store.root / "attention").glob("*.json")).read_text())
    cache = Cache(tmp_path / "runs")
    for name in ("../../outside", str(tmp_path / "outside"), "", None, 3, ["x"]):
        assert documents_named(cache, ATTENTION, [name]) == []  # type: ignore[list-item]
        kept = gather(cache, runs, records | {"edges": [name]})  # type: ignore[dict-item]
        assert len(kept.prompts) == 2 and kept.edges == {}


def packed_in(value) -> list[dict]:
    """Every array of packed numbers inside plain data."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = [value] if isinstance(value, dict) and "base64" in value else []
    return own + [one for each in inner for one in packed_in(each)]


def test_numbers_may_be_null_and_packed_bytes_have_to_fit_their_shape(everything) -> None:
    """What is asked beside the schema, which a validator checks."""
    store, runs = everything
    attention = build_payload(gather(store, runs))["attention"]
    require_conforming("attention", attention)
    require_conforming("level", None)
    spoilt = json.loads(json.dumps(attention))
    packed_in(spoilt)[0]["shape"].append(2)
    with pytest.raises(ValueError, match="shape"):
        require_conforming("attention", spoilt)
    packed_in(spoilt)[0]["shape"][-1] = -1
    with pytest.raises(CircuitlabError, match=r"shape\[\d\] is -1, not of minimum 0"):
        require_conforming("attention", spoilt)
