"""Interventions as pure functions of tensors: what they change, where, and what they refuse."""

from __future__ import annotations

import re

import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

from circuitlab.core.errors import BadParameterError, CircuitlabError, EditDidNotFireError, ModelError, UnknownNameError
from circuitlab.model import load_model
from circuitlab.model.batch import ContrastBatch
from circuitlab.model.interventions import Add, EditPattern, Knockout, Project, Replace, Scale, Standing, compose
from circuitlab.model.places import Places
from circuitlab.model.sites import Site
from circuitlab.testing.tiny import tiny_batch, tiny_model


@pytest.fixture
def batch() -> ContrastBatch:
    rows = [[1, 2, 3, 4, 5], [6, 7, 8]]
    return ContrastBatch.from_tokens(rows, [[1, 9, 3, 4, 5], [6, 7, 9]], [1, 1], [2, 2], marks={"S": [1, 2]})


@pytest.fixture
def places(batch) -> Places:
    return Places.of(batch)


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


def value(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def pattern() -> torch.Tensor:
    """(prompt, head, query, key), causal; query 4 of head 1 sees only the last three keys."""
    scores = value(2, 2, 5, 5).masked_fill(~torch.ones(5, 5, dtype=torch.bool).tril(), float("-inf"))
    scores[:, 1, 4, :2] = float("-inf")
    return scores.softmax(-1)


@pytest.mark.parametrize(
    ("positions", "where"),
    [
        ("all", [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1]]),
        ("prompt", [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
        ("last", [[0, 0, 0, 0, 1], [0, 0, 1, 0, 0]]),
        ("END", [[0, 0, 0, 0, 1], [0, 0, 1, 0, 0]]),
        ("generated", [[0, 0, 0, 0, 0], [0, 0, 0, 1, 1]]),
        ("S", [[0, 1, 0, 0, 0], [0, 0, 1, 0, 0]]),
        ("S-1", [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0]]),
        (0, [[1, 0, 0, 0, 0], [1, 0, 0, 0, 0]]),
        (-2, [[0, 0, 0, 1, 0], [0, 1, 0, 0, 0]]),
        (["S", 0], [[1, 1, 0, 0, 0], [1, 0, 1, 0, 0]]),
    ],
)
def test_only_the_named_positions_change(places, positions, where) -> None:
    given = value(2, 5, 3, 4)
    made = Scale("a1.h2", 0.0, positions=positions).tap(places)(Site.Z, 1, given)
    assert torch.equal((made != given)[:, :, 2].any(-1), torch.tensor(where).bool())
    assert torch.equal(made[:, :, :2], given[:, :, :2])


def test_windows_and_single_positions_are_parts_of_the_whole(places) -> None:
    whole = value(3, 2, 5, 4)
    edit = Replace("r1.post", value(5, 4), positions=["S", "last"])
    made = edit.tap(places)(Site.RESID_POST, 1, whole)
    window = edit.tap(places.window(1, 4))(Site.RESID_POST, 1, whole[:, :, 1:4])
    assert torch.equal(window, made[:, :, 1:4])
    only = edit.tap(places.window(0, 5, places.end))(Site.RESID_POST, 1, whole[:, [0, 1], places.end][:, :, None])
    assert torch.equal(only[:, :, 0], made[:, [0, 1], places.end])


@pytest.mark.parametrize(
    "edit", [Scale("a1.h0", 0.0, positions="S"), Knockout("a1.h0"), Add("a1.h0", 1.0), Project("a1.h0", torch.ones(4))]
)
def test_the_given_tensor_stays_and_other_sites_come_back_as_they_are(places, edit) -> None:
    given = value(2, 5, 3, 4)
    kept = given.clone()
    tap = edit.tap(places)
    assert tap(Site.Z, 1, given) is not given
    assert torch.equal(given, kept)
    assert tap(Site.Z, 0, given) is given
    assert tap(Site.Q, 1, given) is given


def test_settings_that_change_nothing_give_the_very_values(places) -> None:
    given = value(2, 5, 3, 4)
    for off in (Scale("a1.h0", 1.0), Project("a1.h0", torch.eye(4)), Project("a1.h0", torch.zeros(0, 4), keep=False)):
        assert off.tap(places)(Site.Z, 1, given) is given
    for off in (Add("a1.h0", 0.0), Scale("a1.h0", torch.tensor(1.0)), Replace("a1.h0", given[:1, :, 0])):
        assert torch.equal(off.tap(places.select([0]))(Site.Z, 1, given[:1]), given[:1])


def test_factors_by_component_scale_each_number_and_ones_change_nothing(places) -> None:
    given, factors = value(2, 5, 3, 4), torch.stack([torch.arange(4.0), torch.ones(4)])
    scaled = Scale(["a1.h0", "a1.h2"], factors).tap(places)(Site.Z, 1, given)
    assert torch.equal(scaled[:, :, 0], given[:, :, 0] * torch.arange(4.0))
    assert torch.equal(scaled[:, :, 1:], given[:, :, 1:])


@pytest.mark.parametrize("shape", [(3, 4), (2, 3), (2, 4, 1)])
def test_factors_that_fit_neither_nodes_nor_width_are_refused(model, shape) -> None:
    with pytest.raises(BadParameterError, match=re.escape(str(shape))):
        model.edited(Scale(["a1.h0", "a1.h2"], torch.ones(shape)))


def test_projections_split_a_value_in_two(places) -> None:
    given, basis = value(2, 5, 3, 4), value(2, 4)
    onto, off = (Project("a1.h0", basis, keep=keep).tap(places)(Site.Z, 1, given)[:, :, 0] for keep in (True, False))
    assert torch.allclose(onto + off, given[:, :, 0])
    assert float((off @ basis.T).abs().max()) < 1e-12
    assert torch.linalg.matrix_rank(onto.reshape(-1, 4)) == 2


def test_order_counts(places) -> None:
    given = value(2, 5, 3, 4)
    double, one = Scale("a1.h0", 2.0), Add("a1.h0", 1.0)
    first, second = (compose(order).tap(places)(Site.Z, 1, given)[:, :, 0] for order in ([double, one], [one, double]))
    assert torch.equal(first, given[:, :, 0] * 2 + 1)
    assert torch.equal(second, (given[:, :, 0] + 1) * 2)
    assert Standing([double, one]).digest() != Standing([one, double]).digest()


def test_gradients_flow_to_parameters(places) -> None:
    offset, factor = torch.nn.Parameter(torch.zeros(2, 4)), torch.nn.Parameter(torch.ones(2))
    edit = compose([Scale(["a1.h0", "a1.h2"], factor), Add(["a1.h0", "a1.h2"], offset, positions="last")])
    before = edit.identity()
    edit.tap(places)(Site.Z, 1, value(2, 5, 3, 4).float()).sum().backward()
    assert torch.equal(offset.grad, torch.full((2, 4), 2.0))
    assert bool(factor.grad.all())
    with torch.no_grad():
        offset += 1
    assert edit.identity() != before, "a parameter that has trained is another edit"


def test_uniform_rows_leave_masked_keys_alone(places) -> None:
    made = EditPattern("a0.h1", "uniform").tap(places)(Site.PATTERN, 0, pattern())
    assert torch.allclose(made[0, 1, 4], torch.tensor([0, 0, 1 / 3, 1 / 3, 1 / 3], dtype=made.dtype), atol=1e-7)
    assert torch.allclose(made[0, 1, 1, :2], torch.tensor([0.5, 0.5], dtype=made.dtype))
    assert torch.equal(made[:, 0], pattern()[:, 0])


def test_uniform_rows_of_a_model_count_keys_whose_weight_underflowed(model, places) -> None:
    hard = torch.zeros(2, 4, 5, 5)
    hard[..., 0] = 1.0
    made = EditPattern("a0.h1", "uniform").resolved(model).tap(places)(Site.PATTERN, 0, hard)
    assert torch.allclose(made[0, 1, 4], torch.full((5,), 0.2))


def test_weight_moves_between_tokens_and_its_sum_stays(places) -> None:
    before = pattern()
    made = EditPattern("a0.h0", "move", keys=0, to="S", positions="last").tap(places)(Site.PATTERN, 0, before)
    assert torch.allclose(made.sum(-1), before.sum(-1))
    assert torch.allclose(made[0, 0, 4, 1], before[0, 0, 4, :2].sum()) and made[0, 0, 4, 0] == 0
    assert torch.allclose(made[1, 0, 2, 2], before[1, 0, 2, [0, 2]].sum())
    assert torch.equal(made[0, 0, :4], before[0, 0, :4])


def test_blocked_keys_weigh_nothing(places) -> None:
    before = pattern()
    kept, dropped = (
        EditPattern("a0.h0", "block", keys="S", rest=rest).tap(places)(Site.PATTERN, 0, before)[0, 0] for rest in ("renormalise", "drop")
    )
    assert not bool(kept[:, 1].any() or dropped[:, 1].any())
    assert torch.allclose(kept.sum(-1), torch.ones(5, dtype=kept.dtype))
    assert torch.equal(dropped[4, [0, 2, 3, 4]], before[0, 0, 4, [0, 2, 3, 4]])
    assert torch.equal(kept[0], before[0, 0, 0]), "a row that loses nothing is not touched"


def test_scaled_keys_and_what_becomes_of_the_rest_of_a_row(places) -> None:
    before = pattern()

    def scaled(factor, rest: str = "renormalise"):
        return EditPattern("a0.h0", "scale", keys="S", factor=factor, rest=rest).tap(places)(Site.PATTERN, 0, before)[0, 0]

    row, raised, given, dropped = before[0, 0, 4], scaled(3.0), scaled(0.4, "others"), scaled(0.4, "drop")
    as_scores = (row.log() + torch.tensor([0, 3.0, 1, 1, 1]).clamp(min=1).log()).softmax(-1)
    assert torch.allclose(raised[4], as_scores, atol=1e-6), "scaling and renormalising adds log(factor) to the score"
    assert torch.allclose(given[4, 1], 0.4 * row[1]) and torch.allclose(given.sum(-1), torch.ones(5, dtype=given.dtype))
    assert torch.allclose(given[4, 3] / given[4, 4], row[3] / row[4]), "the other keys get more in proportion to what they have"
    assert torch.equal(dropped[4, [0, 2, 3, 4]], row[[0, 2, 3, 4]]) and torch.allclose(dropped[4, 1], 0.4 * row[1])
    for rest in ("renormalise", "others", "drop"):
        assert torch.equal(scaled(1.0, rest), before[0, 0]), rest


def test_a_row_without_other_keys_keeps_its_weights(places) -> None:
    alone = torch.zeros(2, 4, 5, 5)
    alone[..., 1] = 1.0
    made = EditPattern("a0.h0", "scale", keys=1, factor=0.4, rest="others").tap(places)(Site.PATTERN, 0, alone)
    assert torch.equal(made, alone)


def test_the_factor_of_a_pattern_trains(places) -> None:
    factor = torch.nn.Parameter(torch.ones(2))
    before = pattern().float()
    made = EditPattern(["a0.h0", "a0.h1"], "scale", keys=0, factor=factor).tap(places)(Site.PATTERN, 0, before)
    assert torch.equal(made, before), "a factor of 1 that trains changes no bit"
    made[0, :, 3, 0].sum().backward()
    first = before[0, :, 3, 0]
    assert torch.allclose(factor.grad, first * (1 - first), atol=1e-6), "the slope of a softmax weight in its own score"


def test_given_rows_must_fit_their_queries(places) -> None:
    before = pattern()
    weights = torch.zeros(5)
    weights[1] = 1.0
    assert torch.equal(
        EditPattern("a0.h0", "replace", weights=weights, positions="last").tap(places)(Site.PATTERN, 0, before)[1, 0, 2], weights.double()
    )
    with pytest.raises(BadParameterError, match="after their query"):
        EditPattern("a0.h0", "replace", weights=weights).tap(places)(Site.PATTERN, 0, before)
    with pytest.raises(BadParameterError, match="Weights of shape"):
        EditPattern("a0.h0", "replace", weights=torch.eye(3)).tap(places)(Site.PATTERN, 0, before)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Scale("a0.h0", 1.0, site="k"), "has no value at 'k'"),
        (lambda: Scale("a0.kv0", 1.0), "has a key and a value"),
        (lambda: Scale("m0", 1.0, site="z"), "has no value at 'z'"),
        (lambda: Scale("logits", 1.0), "logits"),
        (lambda: Scale([], 1.0), "no node"),
        (lambda: Scale(["a0.h0", "0.0"], 1.0), "named twice"),
        (lambda: Scale("a0.h0", float("nan")), "not a finite number"),
        (lambda: Scale("a0.h0", 1.0, positions=[]), "Positions"),
        (lambda: Scale("a0.h0", 1.0, positions=1.5), "neither names nor integers"),
        (lambda: Scale(3, 1.0), "is not a node"),
        (lambda: Scale("a0.h0", "much"), "not a finite number"),
        (lambda: Add("a0.h0", torch.tensor([float("inf")])), "not finite"),
        (lambda: Add(["a0.h0", "a0.h1"], torch.zeros(3, 4)), "given to 2 nodes"),
        (lambda: Replace("a0.h0", torch.zeros(2, 5, 4)), "differs between prompts"),
        (lambda: Project("a0.h0", torch.ones(2, 4)), "span 1 dimensions"),
        (lambda: EditPattern("m0", "uniform"), "no attention pattern"),
        (lambda: EditPattern("a0.h0", "move", keys=0), "it needs"),
        (lambda: EditPattern("a0.h0", "scale", keys=0), "it needs"),
        (lambda: EditPattern("a0.h0", "scale", keys=0, factor=-1.0), "no weight may become negative"),
        (lambda: EditPattern("a0.h0", "scale", keys=0, factor=2.0, rest="others"), "from 0 to 1"),
        (lambda: EditPattern("a0.h0", "scale", keys=0, factor=[1.0, 2.0]), "to 1 heads"),
        (lambda: EditPattern("a0.h0", "block", keys=0, rest="others"), "Only 'scale'"),
        (lambda: EditPattern("a0.h0", "soften"), "Unknown pattern edit"),
        (lambda: Knockout("a0.h0", "mean"), "no batch"),
        (lambda: Knockout("a0.h0", "median"), "Unknown knockout"),
        (lambda: compose([]), "No intervention was given"),
    ],
)
def test_what_cannot_be_meant_is_refused_when_it_is_said(make, said) -> None:
    with pytest.raises(CircuitlabError, match=said):
        make()


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        (Scale("a9.h0", 1.0), BadParameterError),
        (Scale("a0.h4", 1.0), BadParameterError),
        (Scale("a0.kv2", 1.0, site="v"), BadParameterError),
        (Add("a0.h0", torch.zeros(7)), BadParameterError),
        (Project("m0", torch.ones(8)), BadParameterError),
        (EditPattern("a0.h4", "uniform"), BadParameterError),
    ],
)
def test_what_a_model_does_not_have_is_refused_before_a_run(model, edit, error) -> None:
    with pytest.raises(error):
        model.edited(edit)


def test_a_site_that_a_model_lacks_is_refused_with_its_reason() -> None:
    with pytest.raises(ModelError, match="no site 'resid_mid': attention and MLP of layer 0 read the same stream"):
        tiny_model("gpt_neox").edited(Scale("r0.mid", 1.0))


def test_what_is_no_intervention_is_refused(model) -> None:
    with pytest.raises(BadParameterError, match="is not an intervention"):
        model.edited("a0.h1")


def test_vectors_have_the_width_of_their_site() -> None:
    """Queries of DeepSeek-V3 are wider than what its heads mix, and the stream of an OPT may be wider than its embedding."""
    deepseek, opt = tiny_model("deepseek_v3"), tiny_model("opt_post")
    assert [deepseek.width(site) for site in (Site.Q, Site.V, Site.Z)] == [12, 6, 6]
    deepseek.edited(Project("a1.h1", torch.ones(12), site="q"))
    with pytest.raises(BadParameterError, match="width 12 at 'q'"):
        deepseek.edited(Project("a1.h1", torch.ones(6), site="q"))
    assert opt.spec.d_model == opt.width(Site.RESID_PRE) == 32
    with pytest.raises(BadParameterError, match="width 32"):
        opt.edited(Add("r1.pre", torch.ones(16)))


@pytest.mark.parametrize(
    "edit",
    [EditPattern("a1.h1", "uniform"), EditPattern("a1.h1", "move", keys=0, to=1), Scale("a0.h0", 2.0)],
    ids=["uniform", "move", "scale"],
)
def test_what_queries_see_must_be_known_before_a_run(edit) -> None:
    """The functional forward knows it; GPT-J has none, and edits that ask for nothing of it are made all the same."""
    gptj = tiny_model("gptj")
    if isinstance(edit, Scale):
        gptj.edited(edit)
        return
    with pytest.raises(ModelError, match=r"needs the model's mask.* its attention is of a kind that circuitlab does not know"):
        gptj.edited(edit)


@pytest.mark.parametrize(
    ("positions", "error"), [(3, EditDidNotFireError), (-4, EditDidNotFireError), ("S+1", EditDidNotFireError), ("T", UnknownNameError)]
)
def test_positions_outside_a_prompt_are_refused(places, positions, error) -> None:
    with pytest.raises(error):
        Scale("a0.h0", 0.0, positions=positions).tap(places)


def test_interventions_that_never_meet_their_site_are_named(places) -> None:
    standing = Standing([Scale("a0.h0", 0.0), Scale("m1", 0.0)])
    with pytest.raises(EditDidNotFireError, match=r"scale by 0 m1: mlp_out of layer 1"), standing.watched() as applied:
        standing(places)(Site.Z, 0, value(2, 5, 3, 4))
    assert applied.changed == [{(Site.Z, 0)}, set()]


def test_knockouts_give_the_means_and_the_corrupt_values(model) -> None:
    batch = tiny_batch(model, 4)
    corrupt = model.capture(batch.corrupt, [Site.Z], layers=[1])[Site.Z][:, 0, :, 2]
    given = model.capture(batch.clean, [Site.Z], layers=[1])[Site.Z][:, 0]

    def made(how: str) -> torch.Tensor:
        return Knockout("a1.h2", how, batch).resolved(model).tap(Places.of(batch))(Site.Z, 1, given)[:, :, 2]

    assert torch.allclose(made("corrupt"), corrupt)
    assert torch.allclose(made("mean"), corrupt.mean(0).expand_as(corrupt), atol=1e-6)
    assert torch.allclose(made("mean_over_positions"), corrupt.mean((0, 1)).expand_as(corrupt), atol=1e-6)
    at, rows = batch.marks["CHANGE"], torch.arange(4)
    assert torch.allclose(made("mean_by_mark")[rows, at], corrupt[rows, at].mean(0).expand(4, -1), atol=1e-6)


def test_values_by_prompt_follow_their_prompts_and_strangers_are_refused(model) -> None:
    batch = tiny_batch(model, 4, unequal=True)
    held = value(4, 10, 8).float()
    given = value(2, 9, 4, 8).float()
    edit = Replace("a1.h2", held, batch)
    assert torch.equal(edit.tap(Places.of(batch.select([2, 0])))(Site.Z, 1, given)[1, :7, 2], held[0, :7])
    for one in (edit, Knockout("a1.h2", "corrupt", batch).resolved(model)):
        with pytest.raises(BadParameterError, match=r"Prompt 0 of the run .* is not among the"):
            one.tap(Places.of(tiny_batch(model, 2, seed=5)))


def test_an_edit_is_part_of_the_identity(model) -> None:
    batch = tiny_batch(model, 4)
    edits = [
        Scale("a1.h0", 0.5),
        Scale("a1.h0", 0.25),
        Scale("a1.h1", 0.5),
        Scale("a1.h0", 0.5, positions="last"),
        Scale("a1.h0", 0.5, site="q"),
    ]
    edits += [Knockout("a1.h0"), Knockout("a1.h0", "mean", batch), Knockout("a1.h0", "mean", batch.select([0, 1]))]
    edits += [EditPattern("a1.h0", "scale", keys=0, factor=factor, rest=rest) for factor in (0.5, 0.25) for rest in ("drop", "others")]
    edits += [EditPattern("a1.h0", "block", keys=0), EditPattern("a1.h0", "block", keys=0, rest="drop")]
    assert len({model.edited(one).spec.edits for one in edits}) == len(edits)
    assert model.edited(edits[0]).spec.edits == model.edited(Scale(["a1.h0"], 0.5)).spec.edits


def test_vectors_have_the_width_of_the_stream_where_embeddings_are_narrower() -> None:
    torch.manual_seed(0)
    shape = {"vocab_size": 48, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 40}
    projected = load_model(OPTForCausalLM(OPTConfig(**shape, max_position_embeddings=64, word_embed_proj_dim=16)))
    prompts = tiny_batch(projected, 2)
    assert projected.spec.d_model == 32
    plain = projected.logits(prompts.clean, prompts.end)
    for node in ("embed", "m1"):
        moved = projected.edited(Add(node, torch.arange(32.0))).logits(prompts.clean, prompts.end)
        assert (moved - plain).abs().max() > 1e-4
        with pytest.raises(BadParameterError, match="has values of width 32"):
            projected.edited(Add(node, torch.ones(16)))
