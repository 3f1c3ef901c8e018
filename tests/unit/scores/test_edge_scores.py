"""EdgeScores: which edges exist, what they are called, rankings, sums, tables, and files that are whole or refused."""

from __future__ import annotations

import h5py
import msgspec
import numpy as np
import pytest

from circuitlab.core.errors import BadParameterError, ForeignFileError, ScoreFileError, UnknownNameError
from circuitlab.core.nodes import Edge, Head, KVHead, Logits, Mlp, parse_edge
from circuitlab.scores import netcdf
from circuitlab.scores.edge_layout import EdgeLayout
from circuitlab.scores.edge_scores import EdgeScores
from circuitlab.scores.head_scores import HeadScores
from circuitlab.scores.intervals import mean_interval
from circuitlab.testing.fakes import fake_provenance, fake_scores

PAIRS = 5


def made_up(n_pairs: int = PAIRS, **changes) -> EdgeScores:
    about = fake_provenance(3, 4)
    model = msgspec.structs.replace(about.model, n_kv_heads=2, **changes)
    layout = EdgeLayout.of(model)
    generator = np.random.default_rng(0)
    edges = generator.normal(size=(n_pairs, *layout.shape)) * layout.mask
    clean, corrupt = generator.normal(size=(2, n_pairs))
    arrays = {"edges": edges, "clean": clean, "corrupt": corrupt, "total": clean - corrupt}
    return EdgeScores.build(arrays, msgspec.structs.replace(about, model=model))


@pytest.fixture
def scores() -> EdgeScores:
    return made_up()


@pytest.fixture
def path(scores, tmp_path):
    return scores.save(tmp_path / "edges.nc")


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize(("n_heads", "n_kv_heads"), [(4, 2), (3, 3), (4, 1)])
def test_the_mask_is_what_the_node_order_says(parallel: bool, n_heads: int, n_kv_heads: int) -> None:
    layout = EdgeLayout(3, n_heads, n_kv_heads, parallel)
    for i, sender in enumerate(layout.senders):
        for j, (receiver, port) in enumerate(layout.receivers):
            at_once = isinstance(receiver, Head | KVHead)  # every head of a layer reads the stream before any of them writes
            exists = getattr(sender, "layer", -1) < receiver.layer if at_once else sender < receiver
            if parallel and isinstance(receiver, Mlp) and isinstance(sender, Head):
                exists = sender.layer < receiver.layer
            assert layout.mask[i, j] == exists, f"{sender}->{receiver}<{port}>"
            if exists:
                edge = layout.edge(i, j)
                assert parse_edge(str(edge)) == edge
                assert layout.index(edge) == layout.index(str(edge)) == (i, j)
            else:
                with pytest.raises(BadParameterError, match="sends nothing"):
                    layout.edge(i, j)


def test_the_number_of_edges_of_known_models() -> None:
    assert EdgeLayout(30, 9, 3).n_edges == 70_651, "SmolLM2-135M"
    assert EdgeLayout(12, 12, 12).n_edges == 32_491, "GPT-2 small, as published by Hanna et al."
    assert EdgeLayout(2, 2, 1, parallel=True).n_edges == EdgeLayout(2, 2, 1).n_edges - 4


def test_slices_point_at_the_nodes_they_name() -> None:
    layout = EdgeLayout(3, 4, 2)
    for layer in range(3):
        assert layout.senders[layout.heads(layer)] == tuple(Head(layer, h) for h in range(4))
        assert layout.senders[layout.mlp(layer)] == Mlp(layer)
        names = [f"a{layer}.h{h}<q>" for h in range(4)] + [f"a{layer}.kv{h}<{p}>" for p in "kv" for h in range(2)] + [f"m{layer}"]
        assert list(layout.receiver_names[layout.inputs(layer)]) == names
    assert layout.receivers[-1] == (Logits(), None)
    listed = list(layout.edges())
    assert len(listed) == len(set(listed)) == layout.n_edges
    assert [layout.index(edge) for edge in listed] == list(zip(*layout.edge_indices, strict=True))


def test_unknown_edges_suggest_the_near_one(scores) -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean 'a0\.h3'"):
        scores.values("a0.h33->a1.h0<q>")
    with pytest.raises(UnknownNameError, match=r"Unknown receiver 'a1\.h0<k>'"):  # keys belong to shared heads
        scores.values("a0.h3->a1.h0<k>")
    with pytest.raises(BadParameterError, match="runs backwards"):
        scores.values("m2->a1.h0<q>")
    with pytest.raises(BadParameterError, match="in parallel"):
        made_up(parallel=True).values("a1.h0->m1")


def test_build_refuses_what_does_not_fit(scores) -> None:
    good = {name: scores.dataset[name].values for name in scores.dataset.data_vars}
    outside = good["edges"].copy()
    outside[0, scores.layout.mlp(2), 0] = 1
    for name, bad, match in [
        ("edges", good["edges"][:, :-1], "has shape"),
        ("edges", good["edges"] * np.nan, "not finite"),
        ("edges", outside, r"entries without an edge have a score, m2->a0\.h0<q>"),
        ("clean", good["clean"][:-1], "has shape"),
    ]:
        with pytest.raises(BadParameterError, match=match):
            EdgeScores.build(good | {name: bad}, scores.provenance)
    with pytest.raises(UnknownNameError, match="edge score array"):
        EdgeScores.build(good | {"heads": good["clean"]}, scores.provenance)
    with pytest.raises(BadParameterError, match="lack corrupt"):
        EdgeScores.build({name: good[name] for name in ("edges", "total", "clean")}, scores.provenance)


def test_means_and_intervals(scores) -> None:
    edge = "a0.h1->a1.kv0<k>"
    place = scores.layout.index(edge)
    expected = mean_interval(scores.values(edge))
    found = scores.interval()
    for part, wanted in zip(found, expected, strict=True):
        assert part[place] == pytest.approx(float(wanted))
        assert (part[~scores.layout.mask] == 0).all()
    np.testing.assert_array_equal(found.mean, scores.mean())
    assert scores.gap().mean == pytest.approx(scores.dataset["total"].values.mean())
    assert np.isnan(made_up(1).interval().low[scores.layout.mask]).all()


def test_top_ranks_edges_and_never_lists_a_place_without_one(scores) -> None:
    everything = scores.edges()
    assert len(everything) == scores.layout.n_edges
    for by, key in [("absolute", lambda e: -abs(e.mean)), ("positive", lambda e: -e.mean), ("negative", lambda e: e.mean)]:
        assert scores.top(7, by) == sorted(everything, key=key)[:7]
    assert len(scores.top(10**6)) == scores.layout.n_edges
    assert scores.top(0) == []
    with pytest.raises(UnknownNameError, match="ranking"):
        scores.top(3, "strongest")
    (first,) = scores.top(1)
    assert isinstance(first.edge, Edge)
    assert first.low < first.mean < first.high


def test_senders_sum_their_edges(scores) -> None:
    heads = scores.to_head_scores()
    assert isinstance(heads, HeadScores)
    assert heads.provenance == scores.provenance
    layout = scores.layout
    for name, value in (("embed", heads.values("embed")), ("a1.h2", heads.values("heads")[:, 1, 2]), ("m2", heads.values("mlps")[:, 2])):
        row = layout.sender_names.index(name)
        np.testing.assert_allclose(value, scores.values()[:, row].sum(1), rtol=1e-5)
    assert (heads.dataset["total"].values == scores.dataset["total"].values).all()


def test_a_subset_of_pairs(scores) -> None:
    some = scores.sel([3, 1])
    np.testing.assert_array_equal(some.values(), scores.values()[[3, 1]])
    assert scores.sel(np.arange(PAIRS) < 2).n_pairs == 2


def test_table_and_text(scores) -> None:
    frame = scores.to_frame()
    assert len(frame) == scores.layout.n_edges
    row = frame.set_index("edge").loc["a0.h1->a1.kv0<k>"]
    assert (row["sender"], row["receiver"], row["port"], row["n"]) == ("a0.h1", "a1.kv0", "k", PAIRS)
    assert row["mean"] == pytest.approx(scores.values("a0.h1->a1.kv0<k>").mean(), rel=1e-6)
    text = repr(scores)
    assert str(scores.top(1)[0].edge) in text
    assert f"{scores.layout.n_edges} edges" in text
    assert "positive helps" in text


def test_round_trip_is_exact(scores, path) -> None:
    back = EdgeScores.load(path)
    assert back.provenance == scores.provenance
    assert back.values().dtype == np.float32
    for name in scores.dataset.data_vars:
        np.testing.assert_array_equal(back.dataset[name].values, scores.dataset[name].values)
    assert back.to_frame().equals(scores.to_frame())
    EdgeScores.load(back.sel([0, 1]).save(path))


def test_damaged_foreign_and_newer_files_are_named(path, tmp_path, monkeypatch) -> None:
    whole = path.read_bytes()
    for share in (0.0, 0.1, 0.5, 0.99):
        cut = tmp_path / "cut.nc"
        cut.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ScoreFileError, match=r"cut\.nc"):
            EdgeScores.load(cut)
    monkeypatch.setattr(netcdf, "SCHEMA", 0)
    with pytest.raises(ScoreFileError, match="schema"):
        EdgeScores.load(path)
    monkeypatch.undo()
    text = tmp_path / "text.nc"
    text.write_text("hello")
    with pytest.raises(ForeignFileError, match=r"EdgeScores\.save"):
        EdgeScores.load(text)
    with h5py.File(path, "r+") as file:
        file["edges"][0, 0, 0] += 1e-3
    with pytest.raises(ScoreFileError, match="checksum"):
        EdgeScores.load(path)


def test_names_along_the_axes_are_checked(path) -> None:
    with h5py.File(path, "r+") as file:
        file["sender"][1] = "a0.h1"
    with pytest.raises(ScoreFileError, match="senders and receivers"):
        EdgeScores.load(path)


def test_each_kind_of_file_is_refused_by_the_other(path, tmp_path) -> None:
    with pytest.raises(ScoreFileError, match=r"holds EdgeScores, not HeadScores\. Read it with EdgeScores\.load"):
        HeadScores.load(path)
    heads = fake_scores(np.ones((2, 3, 4))).save(tmp_path / "heads.nc")
    with pytest.raises(ScoreFileError, match=r"holds HeadScores, not EdgeScores\. Read it with HeadScores\.load"):
        EdgeScores.load(heads)
