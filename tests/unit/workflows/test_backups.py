"""Backups: an OR pair is found by joint knock-outs and by no knock-out of one head; effects equal those of plain hooks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from circuitlab.circuits import TopK
from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.nodes import Head, Mlp, Universe
from circuitlab.methods import get_method
from circuitlab.methods.activation_patching import ActivationPatching
from circuitlab.metrics import LogitDiff
from circuitlab.model import load_model
from circuitlab.model.batch import ContrastBatch
from circuitlab.model.toy import build_planted
from circuitlab.scores.intervals import Interval
from circuitlab.testing.tiny import tiny_batch, tiny_hf
from circuitlab.workflows.backup_groups import KnockOuts, held_groups
from circuitlab.workflows.backups import BackupFinder, BackupPair

METRIC = LogitDiff()
D_HEAD, QUERY, FIRST, CONTENTS, OUT = 8, 1, 2, 8, 16
CONTENT_FLAG, QUERY_FLAG, SLOWEST = 12, 13, 3
EITHER = (Head(1, 1), Head(1, 2))


@torch.no_grad()
def or_hf(heads=EITHER, loud: float = 100):
    """Every head of layer 1 in ``heads`` copies the content token to its logit, so loudly that the final norm sees only which token.

    One of them is then enough: the norm divides by the size of what they write. Where they are less loud, each further head still adds,
    and less than the one before it. The others write nothing.
    """
    hf = tiny_hf_of(vocab=FIRST + CONTENTS, width=32)
    for name, value in hf.named_parameters():
        value.fill_(1.0 if "norm" in name else 0.0)
    embed = hf.model.embed_tokens.weight
    for token in range(FIRST + CONTENTS):
        embed[token, token] = hf.lm_head.weight[token, OUT + token] = 1.0
    embed[FIRST:, CONTENT_FLAG] = embed[QUERY, QUERY_FLAG] = 1.0
    for layer in hf.model.layers:
        for head in range(4):
            layer.self_attn.q_proj.weight[head * D_HEAD + SLOWEST, QUERY_FLAG] = 3.0
        for group in range(2):
            layer.self_attn.k_proj.weight[group * D_HEAD + SLOWEST, CONTENT_FLAG] = 3.0
            layer.self_attn.v_proj.weight[group * D_HEAD : (group + 1) * D_HEAD, FIRST : FIRST + CONTENTS] = torch.eye(D_HEAD)
    for head in heads:
        columns = slice(head.head * D_HEAD, (head.head + 1) * D_HEAD)
        hf.model.layers[head.layer].self_attn.o_proj.weight[OUT + FIRST : OUT + FIRST + CONTENTS, columns] = loud * torch.eye(D_HEAD)
    return hf


def or_model(heads=EITHER, loud: float = 100):
    """The same, wrapped."""
    return load_model(or_hf(heads, loud), name="either-of-some")


def tiny_hf_of(vocab: int, width: int):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=D_HEAD,
        intermediate_size=8,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 1e8},
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config).float().eval()


def content_batch(n: int = 6) -> ContrastBatch:
    """Fillers with one content token, which the corrupt prompt lacks; the answer is the content token."""
    clean, corrupt, answers, foils = [], [], [], []
    for i in range(n):
        row = [0] * 5 + [QUERY]
        corrupt.append(list(row))
        row[1 + i % 3] = FIRST + i % CONTENTS
        clean.append(row)
        answers.append(FIRST + i % CONTENTS)
        foils.append(FIRST + (i + 1) % CONTENTS)
    return ContrastBatch.from_tokens(clean, corrupt, answers, foils)


@pytest.fixture(scope="module")
def either():
    return or_model()


def test_no_knock_out_of_one_head_sees_the_pair(either) -> None:
    scores = ActivationPatching(direction="noising")(either, content_batch(), METRIC)
    gap = scores.dataset["total"].values.mean()
    assert gap > 5
    for part in ("heads", "mlps"):
        assert np.abs(scores.values(part)).max() < 1e-3 * gap


@pytest.mark.parametrize("seeds", [[EITHER[0]], [EITHER[1]], [*EITHER, Mlp(0), Head(0, 0)], None])
def test_the_pair_is_found_from_either_of_its_heads(either, seeds) -> None:
    batch = content_batch()
    found = BackupFinder()(either, batch, METRIC, seeds)
    (group,) = found.groups
    gap = ActivationPatching()(either, batch, METRIC).dataset["total"].values.mean()
    assert group.heads == EITHER
    assert group.effect.mean == pytest.approx(gap, rel=1e-3), "both together carry everything"
    assert group.excess.mean == pytest.approx(gap, rel=1e-3) and group.excess.low > 0
    assert [pair.heads for pair in group.pairs] == [EITHER]
    assert all(abs(one.mean) < 1e-3 * gap for one in found.single.values())
    assert found.pairs[0].heads == EITHER and all(abs(pair.excess.mean) < 1e-3 * gap for pair in found.pairs[1:])


def test_seeds_come_from_denoising_where_each_head_alone_restores_the_answer(either) -> None:
    batch = content_batch()
    seeds = TopK(1, by="positive")(ActivationPatching(direction="denoising")(either, batch, METRIC))
    assert seeds.nodes <= set(EITHER)
    assert [group.heads for group in BackupFinder()(either, batch, METRIC, seeds).groups] == [EITHER]


@pytest.mark.parametrize("name", ["backup-gqa", "backup-mha"])
def test_the_planted_pair_is_found_and_no_single_node_method_sees_it(name) -> None:
    """Here a third head has to be restored with the pair, so that denoising misses it too: all pairs of heads are searched."""
    planted = build_planted(name)
    batch, pair = planted.batch(8), (Head(0, 0), Head(0, 2))
    assert set(pair) <= planted.helpers
    (group,) = BackupFinder()(planted.model, batch, METRIC).groups
    gap = ActivationPatching()(planted.model, batch, METRIC).dataset["total"].values.mean()
    assert group.heads == pair and group.excess.low > 0.9 * gap
    single = ("attribution_patching", "atp_star", "path_patching", "relp", "logit_attribution")
    methods = [ActivationPatching(direction="denoising"), ActivationPatching(direction="noising"), *map(get_method, single)]
    for method in methods:
        mean = method(planted.model, batch, METRIC).mean()
        assert max(abs(mean[head.layer, head.head]) for head in pair) < 0.01 * gap, method.name


def test_a_head_without_a_backup_makes_no_group() -> None:
    found = BackupFinder()(or_model(heads=EITHER[:1]), content_batch(), METRIC, [EITHER[0]])
    assert found.groups == ()
    assert found.single[EITHER[0]].mean > 5
    assert found.pairs[0].excess.mean == pytest.approx(0, abs=1e-4)


def test_three_heads_of_which_one_is_enough_show_in_no_pair() -> None:
    assert BackupFinder()(or_model(heads=THREE), content_batch(), METRIC, THREE).groups == ()


def test_the_hook_engine_finds_the_same(either) -> None:
    batch = content_batch(3)
    exact, hooks = (BackupFinder(engine=engine)(either, batch, METRIC, [EITHER[0]]) for engine in ("exact", "hooks"))
    assert [group.heads for group in exact.groups] == [group.heads for group in hooks.groups] == [EITHER]
    assert exact.groups[0].effect.mean == pytest.approx(hooks.groups[0].effect.mean, rel=1e-5)


def by_hooks(hf, batch, heads) -> np.ndarray:
    """Metric of the clean prompts with heads taken from the corrupt ones, with hooks on the plain model, (pair,)."""
    values: dict[int, torch.Tensor] = {}

    def keep(layer):
        return lambda _module, inputs: values.update({layer: inputs[0].clone()})

    def replace(layer):
        def hook(_module, inputs):
            z = inputs[0].clone()
            for head in heads:
                if head.layer == layer:
                    columns = slice(head.head * D_HEAD, (head.head + 1) * D_HEAD)
                    z[..., columns] = values[layer][..., columns]
            return (z,)

        return hook

    with torch.no_grad():
        for tokens, hook in ((batch.corrupt, keep), (batch.clean, replace)):
            handles = [layer.self_attn.o_proj.register_forward_pre_hook(hook(i)) for i, layer in enumerate(hf.model.layers)]
            logits = hf(tokens).logits[range(batch.n_pairs), batch.end]
            for handle in handles:
                handle.remove()
    rows = range(batch.n_pairs)
    return (logits[rows, batch.answers[:, 0]] - logits[rows, batch.foils[:, 0]]).numpy()


def test_effects_and_excess_equal_those_of_plain_hooks() -> None:
    hf = tiny_hf("llama", seed=3)
    model = load_model(tiny_hf("llama", seed=3))
    batch = tiny_batch(model, 4, unequal=True)
    found = BackupFinder(rate=0.5, least=0)(model, batch, METRIC, [Head(0, 1), Head(1, 2)])
    clean = by_hooks(hf, batch, ())
    alone = {head: clean - by_hooks(hf, batch, [head]) for head in found.single}
    seen = set()
    for pair in found.pairs:
        joint = clean - by_hooks(hf, batch, pair.heads)
        excess = joint - alone[pair.heads[0]] - alone[pair.heads[1]]
        assert pair.effect.mean == pytest.approx(joint.mean(), abs=1e-5)
        assert pair.excess.mean == pytest.approx(excess.mean(), abs=1e-5)
        seen.add(pair.heads)
    assert len({round(float(pair.effect.mean), 4) for pair in found.pairs}) > 0.9 * len(seen), "another pair would not pass"
    wanted = {tuple(sorted((seed, head))) for seed in (Head(0, 1), Head(1, 2)) for head in later(seed)} | {(Head(0, 1), Head(1, 2))}
    assert seen == wanted
    for head, one in found.single.items():
        assert one.mean == pytest.approx(alone[head].mean(), abs=1e-5)
    assert found.runs == 4 * (len(found.single) + len(found.pairs))


def later(seed: Head) -> list[Head]:
    return [head for head in Universe(3, 4, 2).heads() if head.layer >= seed.layer and head != seed]


THREE = (*EITHER, Head(1, 3))


def test_three_heads_that_are_super_additive_as_a_whole_are_a_group() -> None:
    batch, hf = content_batch(), or_hf(THREE, loud=0.5)
    found = BackupFinder()(load_model(or_hf(THREE, loud=0.5)), batch, METRIC, [THREE[0]])
    (group,) = found.groups
    assert group.heads == THREE
    assert [pair.heads for pair in group.pairs] == [THREE[:2], (THREE[0], THREE[2])], "the third pair was not asked for"
    clean = by_hooks(hf, batch, ())
    alone = {head: clean - by_hooks(hf, batch, [head]) for head in THREE}
    whole = clean - by_hooks(hf, batch, THREE)
    assert group.effect.mean == pytest.approx(whole.mean(), abs=1e-4)
    assert group.excess.mean == pytest.approx((whole - sum(alone.values())).mean(), abs=1e-4)
    assert group.excess.mean > 3 * max(pair.excess.mean for pair in group.pairs)
    assert found.runs == 6 * (len(found.single) + len(found.pairs) + 2), "all three, and the pair that was not asked for"
    data = found.to_dict()
    assert (data["tested"], data["runs"]) == (len(found.pairs), found.runs)
    assert data["groups"][0]["heads"] == list(map(str, THREE))
    assert set(data["groups"][0]["excess"]) == {"mean", "low", "high"}
    assert list(found.pairs) == sorted(found.pairs, key=lambda pair: -pair.excess.mean)


def test_an_excess_that_is_small_beside_the_gap_makes_no_group() -> None:
    model, batch = or_model(THREE, loud=0.5), content_batch()
    gap = np.abs(ActivationPatching()(model, batch, METRIC).dataset["total"].values).mean()
    every = BackupFinder(least=0)(model, batch, METRIC, EITHER)
    (share,) = {round(float(pair.excess.mean / gap), 4) for group in every.groups for pair in group.pairs}
    for least, n_groups in ((0.9 * share, 1), (1.1 * share, 0)):
        found = BackupFinder(least=least)(model, batch, METRIC, EITHER)
        assert len(found.groups) == n_groups
        assert len(found.pairs) == len(every.pairs), "all are reported as tested"


@pytest.mark.parametrize("name", ["names-gqa", "names-mha"])
def test_a_head_that_falls_silent_with_the_one_it_reads_is_no_backup(name) -> None:
    """The negative mover does nothing without the heads it reads: super-additive with each of them, and no stand-in for any."""
    planted = build_planted(name)
    found = BackupFinder()(planted.model, planted.batch(8), METRIC)
    (hinderer,) = planted.hinderers
    assert hinderer in found.pairs[0].heads and found.pairs[0].excess.low > 2
    assert found.groups == ()


def made_up(effects: dict[tuple[Head, ...], float], n: int = 8) -> KnockOuts:
    """Knock-outs whose effects are known, with a little noise; sets that are not given fail."""
    noise = np.random.default_rng(0).normal(scale=1e-3, size=(len(effects), n))
    return KnockOuts({heads: mean + row for (heads, mean), row in zip(effects.items(), noise, strict=True)}, _unknown, 1e-6)


def _unknown(sets) -> np.ndarray:
    raise AssertionError(sets)


def test_a_set_holds_only_if_every_head_adds_to_it() -> None:
    a, b, c = THREE
    singles = {(a,): 0.0, (b,): 0.0, (c,): 0.0}
    pairs = {(a, b): 2.0, (a, c): 1.0, (b, c): 0.0}
    assert made_up(singles | pairs | {(a, b, c): 3.0}).holds(THREE, 0.01, 0.05)
    assert not made_up(singles | pairs | {(a, b, c): 2.0}).holds(THREE, 0.01, 0.05), "the third adds nothing to the pair"
    assert not made_up(singles | {(a,): 4.0} | pairs | {(a, b, c): 3.0}).holds(THREE, 0.01, 0.05), "less than the sum"
    assert not made_up(singles | pairs | {(a, b, c): 3.0}).holds(THREE, 1.5, 0.05), "more than the third adds is asked for"


def test_a_set_that_does_not_hold_loses_its_weakest_pair() -> None:
    heads = [Head(0, i) for i in range(6)]
    linked = [BackupPair((heads[i], heads[j]), *[Interval(1.0, 1.0, 1.0)] * 2, 0.0) for i, j in ((0, 1), (4, 5), (1, 2), (2, 3))]
    asked = []

    def holds(some) -> bool:
        asked.append(some)
        return len(some) <= 3

    found = held_groups(linked, holds)
    assert [[pair.heads for pair in group] for group in found] == [[linked[1].heads], [linked[0].heads, linked[2].heads]]
    assert asked == [tuple(heads[:4]), tuple(heads[:3])], "single pairs were tested before"
    assert held_groups([], holds) == []


def test_p_values_are_calibrated_where_effects_add_up() -> None:
    """No interaction, each head with an effect of its own: a p-value below a level turns up as often as the level says."""
    rng, a, b = np.random.default_rng(2), *EITHER
    found = []
    for _ in range(1500):
        one, other, noise = rng.normal(1.0, 0.3, size=(3, 12)) - [[0.0], [0.0], [1.0]]
        known = KnockOuts({(a,): one, (b,): other, (a, b): one + other + noise}, _unknown, 1e-6)
        found.append(known.p((a, b)))
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(found) <= level) == pytest.approx(level, abs=0.03)


def test_equal_prompts_have_no_backups() -> None:
    model = load_model(tiny_hf("llama"))
    batch = tiny_batch(model, 3)
    same = replace(batch, corrupt=batch.clean)
    found = BackupFinder()(model, same, METRIC, [Head(0, 0)])
    assert found.groups == () and all(pair.effect.mean == 0 and pair.q == 1 for pair in found.pairs)


def test_candidates_and_cost_are_stated() -> None:
    space = Universe(3, 4, 2)
    assert len(BackupFinder().pairs([Head(2, 0)], space)) == 3
    assert len(BackupFinder().pairs([Head(0, 0)], space)) == 11
    assert len(BackupFinder().pairs(None, space)) == 12 * 11 / 2
    assert BackupFinder(others=(Head(0, 1),)).pairs([Head(2, 0), Mlp(1)], space) == [(Head(0, 1), Head(2, 0))]
    with pytest.raises(BadParameterError, match=r"12 seeds make 66 pairs of heads; a search takes 1 to 50\."):
        BackupFinder(max_pairs=50).pairs(space.heads(), space)
    with pytest.raises(BadParameterError, match="0 seeds make 0 pairs"):
        BackupFinder().pairs([Mlp(0)], space)
    with pytest.raises(BadParameterError, match=r"a7\.h0 lie outside"):
        BackupFinder().pairs([Head(7, 0)], space)


def test_misuse_is_refused(either) -> None:
    with pytest.raises(BadParameterError, match="With one prompt pair"):
        BackupFinder()(either, content_batch(1), METRIC, EITHER)
    with pytest.raises(BadParameterError, match="false-discovery rate"):
        BackupFinder(rate=1.5)
    with pytest.raises(BadParameterError, match="share of the gap"):
        BackupFinder(least=-0.1)
    with pytest.raises(UnknownNameError, match="engine"):
        BackupFinder(engine="fast")  # type: ignore[arg-type]
