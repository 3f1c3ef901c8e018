"""Path patching obeys the laws, finds the planted circuit, adds up where it should, and refuses misuse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from circuitlab.core.errors import BadParameterError, ModelError, UnknownNameError
from circuitlab.core.progress import report_progress
from circuitlab.execute.paths import path_effect
from circuitlab.execute.routes import parse_receiver
from circuitlab.methods.activation_patching import ActivationPatching
from circuitlab.methods.path_patching import PathPatching
from circuitlab.metrics import KLDivergence, LogitDiff
from circuitlab.model.toy import planted_model
from circuitlab.testing.method_laws import LAW_FAMILIES, check_method
from circuitlab.testing.tiny import tiny_batch, tiny_model

METRIC = LogitDiff()
EVERY = ("heads", "mlps", "embed")


@pytest.fixture(scope="module")
def llama():
    return tiny_model("llama")


@pytest.mark.some(direction=2)
@pytest.mark.parametrize("family", LAW_FAMILIES)
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_every_law_holds(family, direction) -> None:
    assert len(check_method(PathPatching(direction=direction), families=(family,))) > 8


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_the_planted_circuit(direction) -> None:
    planted = planted_model()
    scores = PathPatching(direction=direction, senders=EVERY)(planted.model, planted.batch(), METRIC)
    assert {one.node for one in scores.top(2)} == planted.helpers | planted.hinderers
    heads = scores.values("heads")
    for head in planted.distractors:
        assert np.abs(heads[:, head.layer, head.head]).max() < 1e-6
    assert (scores.values("embed") == 0).all(), "the query token is the same in both prompts"
    # The helper reads the content token's value; its query does not depend on it.
    kv = path_effect(planted.model, planted.batch(), METRIC, "embed->a1.kv0<v>->logits", direction=direction)
    assert kv.values.min() > 0.1
    query = path_effect(planted.model, planted.batch(), METRIC, "embed->a1.h1<q>->logits", direction=direction)
    assert (query.values == 0).all()


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_the_last_layer_has_only_direct_paths(llama, direction) -> None:
    """From the last layer nothing else can respond: path and total effect are the same."""
    batch = tiny_batch(llama, 3, unequal=True)
    paths = PathPatching(direction=direction)(llama, batch, METRIC)
    total = ActivationPatching(direction=direction)(llama, batch, METRIC)
    np.testing.assert_allclose(paths.values("heads")[:, -1], total.values("heads")[:, -1], atol=1e-5)
    np.testing.assert_allclose(paths.values("mlps")[:, -1], total.values("mlps")[:, -1], atol=1e-5)
    np.testing.assert_allclose(paths.dataset["total"].values, total.dataset["total"].values, atol=1e-5)


def test_senders_after_every_receiver_score_exactly_zero(llama) -> None:
    scores = PathPatching(senders=EVERY, receivers=("a1.h0<q>", "a1.kv1<k>"))(llama, tiny_batch(llama), METRIC)
    assert (scores.values("heads")[:, 1:] == 0).all()
    assert (scores.values("mlps")[:, 1:] == 0).all()
    assert (scores.values("heads")[:, 0] != 0).all()


def test_equal_pairs_among_others_score_exactly_zero(llama) -> None:
    batch = tiny_batch(llama, 3)
    corrupt = batch.corrupt.clone()
    corrupt[1] = batch.clean[1]
    scores = PathPatching(senders=EVERY, receivers=("r1.post",))(llama, replace(batch, corrupt=corrupt), METRIC)
    for part in scores.parts:
        assert (scores.values(part)[1] == 0).all()
        assert (scores.values(part)[[0, 2]] != 0).any()


def test_by_mark(llama) -> None:
    batch = tiny_batch(llama, 3)
    scores = PathPatching(senders=EVERY, positions=("CHANGE", "END"))(llama, batch, METRIC)
    assert scores.marks == ("CHANGE", "END")
    everywhere = PathPatching(senders=EVERY)(llama, batch, METRIC)
    for part in scores.parts:
        assert (scores.values(part, mark="CHANGE") == 0).all(), "only the answer position reaches the logits directly"
        np.testing.assert_array_equal(scores.values(part, mark="END"), everywhere.values(part))


def test_a_path_of_several_names_equals_the_field_via(llama) -> None:
    batch = tiny_batch(llama, 3, unequal=True)
    scores = PathPatching(via=("a1.kv1<v>", "m1"), receivers=("a2.kv0<k>",))(llama, batch, METRIC)
    for head in range(4):
        single = path_effect(llama, batch, METRIC, (f"a0.h{head}", "a1.kv1<v>", "m1", "a2.kv0<k>"))
        np.testing.assert_allclose(scores.values("heads")[:, 0, head], single.values, atol=1e-5)
    assert np.abs(scores.values("heads")[:, 0]).max() > 1e-2
    assert (scores.values("heads")[:, 1:] == 0).all()


def test_chunks_change_cost_and_not_results(llama) -> None:
    batch = tiny_batch(llama, 4, unequal=True)
    for receiver in ("logits", "a2.kv0<k>"):
        small, large = (
            PathPatching(receivers=(receiver,), pairs_per_pass=pairs, rows_per_block=rows)(llama, batch, METRIC)
            for pairs, rows in ((1, 3), (64, 4096))
        )
        np.testing.assert_allclose(small.values("heads"), large.values("heads"), atol=1e-5)
        assert small.provenance.run_id() == large.provenance.run_id()


def test_a_metric_that_compares_with_the_clean_run(llama) -> None:
    scores = PathPatching(receivers=("a2.h1<q>",))(llama, tiny_batch(llama), KLDivergence())
    assert np.isfinite(scores.values("heads")).all() and np.abs(scores.values("heads")).max() > 0


def test_progress_reaches_the_end(llama) -> None:
    seen: list[tuple[int, int]] = []
    with report_progress(lambda done, total: seen.append((done, total))):
        PathPatching(pairs_per_pass=2)(llama, tiny_batch(llama), METRIC)
    assert seen == [(2, 4), (4, 4)]


@pytest.mark.parametrize("name", ["a2.h1<q>", "a1.kv0<k>", "a1.kv0<v>", "m2", "r0.pre", "r1.mid", "r2.post", "logits"])
def test_names_of_receivers_round_trip(name) -> None:
    assert str(parse_receiver(f" {name} ")) == name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a2.h1", "lacks its input: a2.h1<q>"),
        ("a2.kv1", "lacks its input: a2.kv1<k> or a2.kv1<v>"),
        ("a2.h1<k>", "keys and values belong to key/value heads, such as a2.kv0<k>"),
        ("a2.kv1<q>", "no input 'q'"),
        ("a2.h1<z>", "no input 'z'"),
        ("m1<q>", "no input 'q'"),
        ("a2", "cannot receive"),
        ("embed", "cannot receive"),
        ("h2", "not a node name"),
        ("a2.h1<q", "not the name of a receiver"),
    ],
)
def test_wrong_names_are_explained(name, said) -> None:
    with pytest.raises(BadParameterError, match=said):
        PathPatching(receivers=(name,))


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"receivers": ()}, "has no receiver"),
        ({"receivers": ("logits", "m2")}, "cannot be combined"),
        ({"via": ("r1.pre",)}, "cannot lead via r1.pre"),
        ({"senders": ()}, "cannot be patched"),
        ({"positions": ("all", "END")}, "cannot be patched"),
        ({"pairs_per_pass": 0}, "is less than 1"),
    ],
)
def test_parameters_that_make_no_sense(params, said) -> None:
    with pytest.raises(BadParameterError, match=said):
        PathPatching(**params)


def test_near_names_are_suggested() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'heads'"):
        PathPatching(senders=("head",))
    with pytest.raises(UnknownNameError, match="Did you mean 'denoising'"):
        PathPatching(direction="denoise")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="frozen"):
        PathPatching(mlps="froze")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"senders": ("heads",), "receivers": ("a0.h1<q>",)}, "No sender comes before a0.h1<q>"),
        ({"receivers": ("a3.h0<q>",)}, "a3.h0 lie outside tiny-llama, which has 3 layers"),
        ({"receivers": ("a2.h4<q>",)}, "4 heads and 2 key/value heads"),
        ({"receivers": ("a2.kv2<k>",)}, "a2.kv2 lie outside"),
        ({"receivers": ("m7",)}, "m7 lie outside"),
        ({"via": ("a2.h0<q>",), "receivers": ("a2.h1<q>",)}, "from a2.h0<q> to a2.h1<q> runs backwards"),
        ({"via": ("m1", "a1.h1<q>")}, "from m1 to a1.h1<q> runs backwards"),
        ({"positions": ("END+1",)}, "outside some prompts"),
    ],
)
def test_what_a_model_cannot_do(llama, params, said) -> None:
    with pytest.raises(BadParameterError, match=said):
        PathPatching(**params)(llama, tiny_batch(llama), METRIC)


def test_marks_and_points_that_are_missing(llama) -> None:
    with pytest.raises(UnknownNameError, match="mark 'S3'"):
        PathPatching(positions=("S3",))(llama, tiny_batch(llama), METRIC)
    parallel = tiny_model("gpt_neox")
    with pytest.raises(ModelError, match=r"has no r1\.mid"):
        PathPatching(receivers=("r1.mid",))(parallel, tiny_batch(parallel), METRIC)
    with pytest.raises(BadParameterError, match=r"from a1\.h1 to m1 runs backwards"):
        path_effect(parallel, tiny_batch(parallel), METRIC, "a1.h1->m1")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("a1.h1->a1.h2<q>", "from a1.h1 to a1.h2<q> runs backwards"),
        ("m1->m0->logits", "from m1 to m0 runs backwards"),
        ("a9.h1->logits", "a9.h1 lie outside"),
        ("logits", "is not a path"),
        ("r1.pre->logits", "cannot send"),
        ("a1.kv1->logits", "cannot send"),
        ("a1.h1->a2.h1->logits", "lacks its input"),
    ],
)
def test_paths_that_cannot_be(llama, path, said) -> None:
    with pytest.raises(BadParameterError, match=said):
        path_effect(llama, tiny_batch(llama), METRIC, path)


@pytest.mark.real_model
def test_on_smollm2(smollm2) -> None:
    """The last layer has only direct paths, whatever the model."""
    from circuitlab.model.prepare import prepare_batch

    batch = prepare_batch(smollm2, "ioi", 2)
    paths = PathPatching(senders=("heads",))(smollm2, batch, METRIC)
    last = smollm2.spec.n_layers - 1
    single = [path_effect(smollm2, batch, METRIC, f"a{last}.h{head}->r{last}.post").values for head in range(2)]
    np.testing.assert_allclose(paths.values("heads")[:, last, :2].T, single, atol=1e-3)
    assert np.abs(paths.values("heads")).max() > 0.1
