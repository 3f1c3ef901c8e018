"""Circuits of nodes and edges equal slow runs with plain hooks on Hugging Face models; CPR and CMD equal those of the slow runs."""

from __future__ import annotations

import numpy as np
import pytest
from test_patching_parity import assert_parity
from tolerances import TINY_FLOAT32

from circuitlab.circuits import Circuit
from circuitlab.circuits.curves import FRACTIONS
from circuitlab.core.nodes import Head, Mlp, Universe, parse_edge
from circuitlab.evaluation import EdgeCircuitRunner, Evaluate, NodeCircuitRunner
from circuitlab.methods.activation_patching import ActivationPatching
from circuitlab.methods.eap import EdgeAttributionPatching
from circuitlab.metrics import LogitDiff, LogProb
from circuitlab.model import load_model
from circuitlab.model.batch import ContrastBatch
from circuitlab.testing.tiny import tiny_batch, tiny_hf
from reference.ablation import areas, edge_logits, edge_names, kind_outputs, mean_outputs, node_logits, zero_outputs
from reference.eap import outputs

METRIC = LogitDiff()
FAMILIES = ("gpt2", "llama", "gpt_neox", "gemma3")


@pytest.fixture(scope="module", params=FAMILIES)
def both(request):
    """The model as circuitlab wraps it, and another copy for plain hooks."""
    return load_model(tiny_hf(request.param)), tiny_hf(request.param)


def given(hf, batch, ablation) -> list:
    """What ablated nodes get, prompt by prompt."""
    runs = [outputs(hf, batch.select([i]).corrupt) for i in range(batch.n_pairs)]
    if ablation == "resample":
        return runs
    if ablation == "zero":
        return [zero_outputs(run) for run in runs]
    lengths = (batch.end + 1).tolist()
    if ablation in {"mean_by_mark", "mean_by_template"}:
        kinds = kinds_of(batch, ablation)
        return [kind_outputs(runs, kinds, i) for i in range(batch.n_pairs)]
    return [mean_outputs(runs, length, by_position=len(set(lengths)) == 1) for length in lengths]


def kinds_of(batch, ablation) -> list[list]:
    """What each position of each prompt is averaged with: those of the same name."""
    marked = []
    for i, length in enumerate((batch.end + 1).tolist()):
        names = {int(places[i]): mark for mark, places in sorted(batch.marks.items(), reverse=True)}
        marked.append([names.get(at) for at in range(length)])
    if ablation == "mean_by_mark":
        return marked
    lengths = {}
    for template, kinds in zip(batch.templates, marked, strict=True):
        lengths.setdefault(template, set()).add(len(kinds))
    one_length = {template for template, found in lengths.items() if len(found) == 1}
    return [
        [(template, at if template in one_length else kind) for at, kind in enumerate(kinds)]
        for template, kinds in zip(batch.templates, marked, strict=True)
    ]


def slow(hf, batch, masks, names, ablation="resample", *, edges=False, parallel=False, metric=METRIC) -> np.ndarray:
    """(circuit, pair) of circuits given as masks over names."""
    out = np.zeros((len(masks), batch.n_pairs))
    for i, values in enumerate(given(hf, batch, ablation)):
        one = batch.select([i])
        for j, mask in enumerate(masks):
            if edges:
                kept = {name for name, inside in zip(names, mask, strict=True) if inside}
                logits = edge_logits(hf, one.clean, values, kept, parallel=parallel)
            else:
                logits = node_logits(hf, one.clean, [name for name, inside in zip(names, mask, strict=True) if not inside], values)
            out[j, i] = metric(logits[None], one).item()
    return out


def random_circuits(n: int, size: int, seed: int = 0) -> np.ndarray:
    """Circuits from nearly empty to nearly full, and both ends."""
    rng = np.random.default_rng(seed)
    masks = rng.random((n, size)) < np.linspace(0.05, 0.95, n)[:, None]
    return np.concatenate([masks, np.zeros((1, size), bool), np.ones((1, size), bool)])


@pytest.mark.some(both=1, ablation=2, parts=2)
@pytest.mark.parametrize("ablation", ["resample", "zero", "mean"])
@pytest.mark.parametrize("parts", [("heads",), ("heads", "mlps")])
def test_circuits_of_nodes(both, parts, ablation) -> None:
    model, hf = both
    for unequal in (True, False):
        batch = tiny_batch(model, 3, unequal=unequal)
        runs = NodeCircuitRunner(model, batch, METRIC, parts, ablation)
        names = list(map(str, runs.elements))
        masks = random_circuits(4, len(names))
        assert_parity(runs.metric_of(masks), slow(hf, batch, masks, names, ablation), TINY_FLOAT32)


@pytest.mark.parametrize("ablation", ["mean_by_mark", "mean_by_template"])
@pytest.mark.parametrize("edges", [False, True])
def test_means_of_kinds_of_positions(edges, ablation) -> None:
    """Two templates: prompts of one length, and prompts of two lengths."""
    model, hf = load_model(tiny_hf("llama")), tiny_hf("llama")
    batch = with_templates(model)
    runs = (
        EdgeCircuitRunner(model, batch, METRIC, ablation) if edges else NodeCircuitRunner(model, batch, METRIC, ("heads", "mlps"), ablation)
    )
    names = list(map(str, runs.elements))
    masks = random_circuits(4, len(names))
    found = runs.metric_of(masks)
    assert_parity(found, slow(hf, batch, masks, names, ablation, edges=edges), TINY_FLOAT32)
    other = "mean_by_mark" if ablation == "mean_by_template" else "mean_by_template"
    with pytest.raises(AssertionError):
        assert_parity(found, slow(hf, batch, masks, names, other, edges=edges), TINY_FLOAT32)


def with_templates(model):
    """Pairs of 9, 9, 10 and 8 tokens; the first two are of one template, the others of another."""
    same, longer = tiny_batch(model, 2), tiny_batch(model, 4, unequal=True)
    rows = [(same, 0), (same, 1), (longer, 3), (longer, 1)]

    def tokens(part: str) -> list:
        return [getattr(of, part)[i, : int(of.end[i]) + 1].tolist() for of, i in rows]

    marks = {"CHANGE": [int(of.mark("CHANGE")[i]) for of, i in rows]}
    sides = [[getattr(of, part)[i].tolist() for of, i in rows] for part in ("answers", "foils")]
    return ContrastBatch.from_tokens(tokens("clean"), tokens("corrupt"), *sides, marks=marks).with_templates(["b", "b", "a", "a"])


@pytest.mark.parametrize("ablation", ["resample", "mean"])
def test_circuits_of_nodes_at_marks(ablation) -> None:
    model, hf = load_model(tiny_hf("llama")), tiny_hf("llama")
    batch = tiny_batch(model, 3, unequal=True)
    keep_at = {Head(0, 2): ("CHANGE",), Head(2, 1): ("END",), Mlp(1): ("CHANGE", "END"), Head(1, 1): ("CHANGE+1",)}
    runs = NodeCircuitRunner(model, batch, METRIC, ("heads", "mlps"), ablation, keep_at)
    names = list(map(str, runs.elements))
    masks = random_circuits(4, len(names), seed=3)[:-1]
    masks[3, :] = [node in keep_at for node in runs.elements]
    expected = np.zeros((len(masks), batch.n_pairs))
    for i, values in enumerate(given(hf, batch, ablation)):
        one = batch.select([i])
        limited = {str(node): [int(one.mark(mark)) for mark in marks] for node, marks in keep_at.items()}
        for j, mask in enumerate(masks):
            ablated = [name for name, inside in zip(names, mask, strict=True) if not inside]
            expected[j, i] = METRIC(node_logits(hf, one.clean, ablated, values, limited)[None], one).item()
    assert_parity(runs.metric_of(masks), expected, TINY_FLOAT32)
    with pytest.raises(AssertionError):
        assert_parity(NodeCircuitRunner(model, batch, METRIC, ("heads", "mlps"), ablation).metric_of(masks), expected, TINY_FLOAT32)


@pytest.mark.some(both=1, ablation=1)
@pytest.mark.parametrize("ablation", ["resample", "zero", "mean"])
def test_circuits_of_edges(both, ablation) -> None:
    model, hf = both
    batch = tiny_batch(model, 3, unequal=ablation != "mean")
    runs = EdgeCircuitRunner(model, batch, METRIC, ablation, pairs_per_pass=2)
    names = edge_names(hf, parallel=model.spec.parallel)
    assert names == list(map(str, runs.elements))
    masks = random_circuits(5, len(names))
    expected = slow(hf, batch, masks, names, ablation, edges=True, parallel=model.spec.parallel)
    assert_parity(runs.metric_of(masks), expected, TINY_FLOAT32)


@pytest.mark.parametrize("ablation", ["resample", "mean"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_circuits_of_edges_at_marks(family, ablation) -> None:
    """Every port and the logits; edges kept at one mark, at two, beside one, and where the answer is read or not."""
    model, hf = load_model(tiny_hf(family)), tiny_hf(family)
    parallel, batch = model.spec.parallel, tiny_batch(model, 3, unequal=ablation != "mean")
    names = edge_names(hf, parallel=parallel)
    ends = [
        "embed->a0.h0<q>",
        "a0.h1->a1.kv0<k>",
        "a0.h2->a2.kv1<v>",
        "a0.h3->m1",
        "m0->m2",
        "a1.h0->logits",
        "m1->logits",
        "embed->a0.kv1<v>",
    ]
    marks = [("CHANGE",), ("END",), ("CHANGE", "END"), ("CHANGE+1",), ("CHANGE",), ("END",), ("CHANGE",), ("CHANGE", "CHANGE+1")]
    keep_at = {parse_edge(name): at for name, at in zip(ends, marks, strict=True)}
    runs = EdgeCircuitRunner(model, batch, METRIC, ablation, keep_at, pairs_per_pass=2)
    masks = random_circuits(3, len(names), seed=4)[:-1]
    masks[:, [names.index(name) for name in ends]] = True
    masks[-1] = True
    masks[-1, names.index("m0->logits")] = False
    expected = np.zeros((len(masks), batch.n_pairs))
    for i, values in enumerate(given(hf, batch, ablation)):
        one = batch.select([i])
        limited = {str(edge): [int(one.mark(mark)) for mark in at] for edge, at in keep_at.items()}
        for j, mask in enumerate(masks):
            kept = {name for name, inside in zip(names, mask, strict=True) if inside}
            expected[j, i] = METRIC(edge_logits(hf, one.clean, values, kept, parallel=parallel, limited=limited)[None], one).item()
    assert_parity(runs.metric_of(masks), expected, TINY_FLOAT32)
    with pytest.raises(AssertionError):
        assert_parity(EdgeCircuitRunner(model, batch, METRIC, ablation).metric_of(masks), expected, TINY_FLOAT32)


def test_a_metric_over_the_whole_vocabulary() -> None:
    model, hf = load_model(tiny_hf("llama")), tiny_hf("llama")
    batch, metric = tiny_batch(model, 2, unequal=True), LogProb()
    nodes, edges = NodeCircuitRunner(model, batch, metric), EdgeCircuitRunner(model, batch, metric)
    for runs, kind in ((nodes, False), (edges, True)):
        masks = random_circuits(2, len(runs.elements))
        expected = slow(hf, batch, masks, list(map(str, runs.elements)), edges=kind, metric=metric)
        assert_parity(runs.metric_of(masks), expected, TINY_FLOAT32)


def slow_areas(values, full, empty, *, log=False):
    """CPR and CMD of metric values (size, pair)."""
    gap = full.mean() - empty.mean()
    return areas(list(FRACTIONS), [(value.mean() - empty.mean()) / gap for value in values], log=log)


@pytest.mark.some(family=1, level=1)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("level", ["nodes", "edges"])
def test_cpr_and_cmd(family, level) -> None:
    model, hf = load_model(tiny_hf(family)), tiny_hf(family)
    batch = tiny_batch(model, 4, unequal=True)
    universe = Universe(model.spec.n_layers, model.spec.n_heads, model.spec.n_kv_heads)
    if level == "nodes":
        scores = ActivationPatching(parts=("heads",))(model, batch, METRIC)
        names = [str(head) for head in universe.heads()]
        mean = scores.values("heads").mean(0).ravel()
        circuit = Circuit(frozenset(list(universe.heads())[:3]), universe)
    else:
        scores = EdgeAttributionPatching().edges(model, batch, METRIC)
        names = edge_names(hf)
        mean = np.array([scores.values(name).mean(dtype=np.float64) for name in names])
        circuit = Circuit(frozenset(), universe, frozenset(edge.edge for edge in scores.top(5)))
    found = Evaluate(n_random=2, n_subsets=1)(circuit, model, batch, METRIC, scores).to_dict()
    for ranking, key in (("absolute", lambda i: -abs(mean[i])), ("signed", lambda i: -mean[i])):
        order = sorted(range(len(names)), key=key)
        masks = np.zeros((len(FRACTIONS) + 1, len(names)), dtype=bool)
        for row, fraction in zip(masks, FRACTIONS, strict=False):
            row[order[: int(fraction * len(names))]] = True
        values = slow(hf, batch, masks, names, edges=level == "edges")
        for axis in ("linear", "log"):
            cpr, cmd = slow_areas(values[:-1], values[-2], values[-1], log=axis == "log")
            assert found["cpr"][ranking][axis]["mean"] == pytest.approx(cpr, abs=TINY_FLOAT32)
            assert found["cmd"][ranking][axis]["mean"] == pytest.approx(cmd, abs=TINY_FLOAT32)
    assert found["cpr"]["mean"] == found["cpr"]["absolute"]["linear"]["mean"]


@pytest.mark.parametrize("level", ["nodes", "edges"])
@pytest.mark.parametrize("wrong", ["ablation", "one more", "pairs"])
def test_the_check_can_fail(level, wrong) -> None:
    model, hf = load_model(tiny_hf("llama")), tiny_hf("llama")
    batch = tiny_batch(model, 2)
    build = NodeCircuitRunner if level == "nodes" else EdgeCircuitRunner
    right = build(model, batch, METRIC)
    names = list(map(str, right.elements))
    masks = random_circuits(4, len(names))[:-2]
    expected = slow(hf, batch, masks, names, edges=level == "edges")
    assert_parity(right.metric_of(masks), expected, TINY_FLOAT32)
    found = right.metric_of(masks)
    if wrong == "ablation":
        found = build(model, batch, METRIC, ablation="mean").metric_of(masks)
    elif wrong == "one more":
        grown = masks.copy()
        grown[:, -1] ^= True
        found = right.metric_of(grown)
    else:
        found = found[:, ::-1]
    with pytest.raises(AssertionError):
        assert_parity(found, expected, TINY_FLOAT32)
