"""Pages are built from stored runs without a model, and nothing that is not asked for gets in."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import msgspec
import numpy as np
import pytest

import circuitlab as cl
from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.explorer.documents import documents_about
from circuitlab.explorer.explore import explored
from circuitlab.explorer.payload import build_payload
from circuitlab.explorer.runs import Wanted, find_runs
from circuitlab.explorer.stored import ATTENTION, gather, page_records, sources_of_store
from circuitlab.model.toy import build_planted
from circuitlab.store import EDGE_SCORES, HEAD_SCORES, Cache
from circuitlab.testing.fakes import fake_scores

WITHOUT_TORCH = """
import sys
import circuitlab as cl
from circuitlab.explorer.explore import explored
from circuitlab.explorer.page import explorer_page
from circuitlab.explorer.payload import build_payload
payload = build_payload(explored(cl.Cache({root!r})))
assert payload["attention"] and payload["cards"] and any(one["curves"] for one in payload["circuits"]), payload["absent"]
explorer = cl.explore(cl.Cache({root!r}))
page = explorer_page(payload)
assert "torch" not in sys.modules, "a page of stored runs loaded torch"
print(len(page), len(explorer.payload["scores"]))
"""


def put(cache: Cache, scores, **changes) -> str:
    """Store scores with another provenance, and return their run id."""
    about = scores.provenance
    task = {name: changes.pop(name) for name in ("n_pairs", "seed", "variant", "digest") if name in changes}
    model = {name: changes.pop(name) for name in ("name", "weights", "edits") if name in changes}
    about = msgspec.structs.replace(
        about, task=msgspec.structs.replace(about.task, **task), model=msgspec.structs.replace(about.model, **model), **changes
    )
    stored = replace(scores, provenance=about)
    cache.put(about.run_id(), HEAD_SCORES, stored)
    return about.run_id()


def scored(task: str = "ioi", pairs: int = 4):
    return fake_scores(np.random.default_rng(0).normal(size=(pairs, 2, 3)), task=task)


def test_a_page_of_stored_runs_needs_no_torch(planted) -> None:
    code = WITHOUT_TORCH.format(root=str(planted.store.root))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) == 4


def test_a_store_gives_the_payload_that_was_measured(planted) -> None:
    from circuitlab.explorer.payload import build_payload, payload_json

    again = build_payload(gather(planted.store, [planted.store.read(score["run"]) for score in planted.payload["scores"]]))
    for name in ("scores", "prompts", "attention", "cards", "circuits", "overlap", "roles"):
        assert json.loads(payload_json({"x": again[name]})) == json.loads(payload_json({"x": planted.payload[name]})), name


def test_the_usual_run_is_chosen_then_the_longest(tmp_path) -> None:
    cache = Cache(tmp_path)
    default = cl.methods.ActivationPatching()
    from circuitlab.execute.contract import effective_params

    params = effective_params(default)
    variant = cl.load_task("ioi").default_variant
    usual = put(cache, scored(), params=params, variant=variant)
    longer = put(cache, scored(pairs=6), params=params, variant=variant, n_pairs=6, digest="long")
    put(cache, scored(pairs=9), params={"direction": "noising"}, variant=variant, n_pairs=9, digest="other")
    put(cache, scored(pairs=9), params=params, variant="other", n_pairs=9, digest="variant")
    put(cache, scored(pairs=9), params=params, variant=variant, seed=4, n_pairs=9, digest="seed")
    put(cache, scored(pairs=9), params=params, variant=variant, n_pairs=9, digest="edited", edits="e" * 64)
    assert find_runs(cache, Wanted("fake", ("ioi",), ("activation_patching",))) == ([longer], [])
    assert find_runs(cache, Wanted("fake", ("ioi",), ("activation_patching",), n=4)) == ([usual], [])
    assert find_runs(cache, Wanted("fake", ("ioi", "successor"), ("activation_patching",)))[1] == [("successor", "activation_patching")]
    (other,), _ = find_runs(cache, Wanted("fake", ("ioi:other",), ("activation_patching",)))
    assert cache.read(other).provenance.task.variant == "other"


def test_runs_of_two_sets_of_weights_are_not_mixed(tmp_path) -> None:
    cache = Cache(tmp_path)
    put(cache, scored())
    put(cache, scored(), weights="f" * 64)
    with pytest.raises(BadParameterError, match=r"2 models that fit: fake \(weights "):
        find_runs(cache, Wanted("fake"))


def test_a_damaged_record_is_named_and_left_out(planted, tmp_path) -> None:
    import shutil

    root = tmp_path / "runs"
    shutil.copytree(planted.store.root, root)
    path = next((root / "attention").glob("*.json"))
    path.write_text(path.read_text().replace('"lacks": ""', '"lacks": "x"'))
    broken = root / "attention" / "0123456789abcdef.json"
    broken.write_text("{")
    with pytest.warns(UserWarning, match="left out"):
        left = documents_about(Cache(root), ATTENTION, lambda about: True)
    assert len(left) == 1 and path.exists()


def test_named_records_are_all_that_is_read(planted) -> None:
    runs = [planted.store.read(score["run"]) for score in planted.payload["scores"]]
    records = page_records(planted.store, runs)
    assert len(records["attention"]) == 2
    assert gather(planted.store, runs, {}).prompts == ()
    one = gather(planted.store, runs, {"attention": records["attention"][:1]})
    assert len(one.prompts) == 1 and one.roles == () and one.circuits == ()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (([3, "a"],), BadParameterError, "HeadScores, or models; got int, str"),
        ((["smollm2-135m", "gemma3-270m"],), BadParameterError, "holds no runs of smollm2-135m"),
        (("smollm2-135m",), BadParameterError, "holds no runs of smollm2-135m"),
        (("smollm2-135m", ["ioi"], ["atp"]), UnknownNameError, "atp_star"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_a_model_is_loaded(arguments, error, words, tmp_path) -> None:
    with pytest.raises(error, match=words):
        explored(*arguments, store=tmp_path)


def test_unknown_parts_and_folders_without_runs_are_refused(tmp_path) -> None:
    with pytest.raises(UnknownNameError, match="attention"):
        explored("smollm2-135m", ["ioi"], measure=["attentoin"], store=tmp_path)
    with pytest.raises(BadParameterError, match="lacks"):
        explored(tmp_path, ["ioi"], ["eap"])
    with pytest.raises(BadParameterError, match="need a model"):
        explored([scored()], measure="roles")


def test_an_edited_model_and_scores_of_another_are_not_mixed(planted) -> None:
    from circuitlab.explorer.measurements import Measure

    run = planted.store.read(planted.payload["scores"][0]["run"])
    edited = planted.model.edited(cl.interventions.Knockout("a1.h1", "zero"))
    with pytest.raises(BadParameterError, match="are not of"):
        Measure(edited, planted.store)([run], {}, ["attention"])


def test_edges_are_measured_once_and_shown_with_every_run_of_their_prompts(tmp_path) -> None:
    planted, store = build_planted("copy-gqa"), Cache(tmp_path)
    batch = planted.batch(4)
    edges = cl.score_edges(planted.model, batch, "eap")
    explorer = cl.explore(planted.model, [batch], "activation_patching", measure=["edges"], store=store)
    (circuit,) = explorer.payload["circuits"]
    assert circuit["edges_method"] == "eap" and circuit["edges_total"] == edges.layout.n_edges
    strongest = edges.top(1)[0]
    assert f"{circuit['edges'][0]['from']}->{circuit['edges'][0]['to']}" == str(strongest.edge).partition("<")[0]
    assert circuit["edges"][0]["weight"] == pytest.approx(strongest.mean, rel=1e-5)
    assert [score["method"] for score in explorer.payload["scores"]] == ["activation_patching"], "what scores edges adds no run"
    again = build_payload(sources_of_store(store, [explorer.payload["scores"][0]["run"]]))
    assert again["circuits"][0]["edges"] == circuit["edges"]
    records = page_records(store, [store.read(circuit["score"])])
    assert records["edges"] == store.list(EDGE_SCORES), "a page of a study names them"
