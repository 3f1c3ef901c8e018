"""Batches that a model cannot take are refused by value before anything runs."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import pytest

from circuitlab.circuits import Circuit
from circuitlab.core.errors import BadParameterError
from circuitlab.core.nodes import Head, Universe
from circuitlab.evaluation import Evaluate
from circuitlab.methods import get_method
from circuitlab.metrics import LogitDiff
from circuitlab.model.batch import ContrastBatch
from circuitlab.model.inside import require_fit, require_inside, require_no_padding
from circuitlab.testing.fakes import fake_scores
from circuitlab.testing.tiny import tiny_batch, tiny_model
from circuitlab.workflows.score import score_batch

GIVEN = {"clean": [[1, 2, 3], [4, 5]], "corrupt": [[1, 9, 3], [4, 6]], "answers": [7, 8], "foils": [1, 2]}


def spec(**changes):
    return msgspec.structs.replace(fake_scores([[[0.0]]]).provenance.model, **changes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"answers": [7, 10]}, r"answers holds 1 token ids outside the vocabulary of .*, 0 to 9 \(row 1: 10\)"),
        ({"foils": [11, 2]}, "foils .*row 0: 11"),
        ({"distractors": [[], [12]]}, "distractors .*row 1: 12"),
        ({"clean": [[1, 2, 3], [4, 50]]}, "clean .*row 1: 50"),
        ({"corrupt": [[1, 99, 3], [4, 6]]}, "corrupt .*row 0: 99"),
    ],
)
def test_ids_outside_the_vocabulary_are_named(change, says) -> None:
    require_inside(spec(d_vocab=10), ContrastBatch.from_tokens(**GIVEN))
    with pytest.raises(BadParameterError, match=says):
        require_inside(spec(d_vocab=10), ContrastBatch.from_tokens(**(GIVEN | change)))


def test_prompts_beyond_the_context_are_named() -> None:
    batch = ContrastBatch.from_tokens(**GIVEN)
    for fits in (None, 3, 4):
        require_inside(spec(d_vocab=10, n_ctx=fits), batch)
    with pytest.raises(BadParameterError, match=r"1 of 2 prompts are longer than the context of .*, 2 tokens \(row 0: 3 tokens\)"):
        require_inside(spec(d_vocab=10, n_ctx=2), batch)


def test_the_context_is_no_part_of_the_identity() -> None:
    assert spec(n_ctx=4).identity() == spec().identity()


def test_work_does_not_begin_on_a_batch_that_does_not_fit(monkeypatch) -> None:
    model = tiny_model("gpt2")
    good = tiny_batch(model, 2)
    bad = ContrastBatch.from_tokens(good.clean, good.corrupt, [1, model.spec.d_vocab], [2, 3])
    monkeypatch.setattr(model, "logits", lambda *_: pytest.fail("a forward pass ran"))
    with pytest.raises(BadParameterError, match="outside the vocabulary"):
        score_batch(model, bad, get_method("logit_attribution"), LogitDiff())
    space = Universe(model.spec.n_layers, model.spec.n_heads, model.spec.n_kv_heads)
    with pytest.raises(BadParameterError, match="outside the vocabulary"):
        Evaluate()(Circuit(frozenset({Head(0, 0)}), space), model, bad, LogitDiff())
    require_fit(model, good)


def tokens(pad=None, bos=None, eos=None):
    return SimpleNamespace(pad_token_id=pad, bos_token_id=bos, eos_token_id=eos, pad_token="<pad>", bos_token="<s>")


@pytest.mark.parametrize(
    ("tokenizer", "row", "says"),
    [
        (tokens(pad=0, bos=1), [0, 1, 5, 6], "padded on the left with '<pad>' .token 0"),
        (tokens(pad=0, bos=1), [1, 5, 6, 0], "padded on the right"),
        (tokens(pad=9, bos=9, eos=9), [5, 6, 9, 9], "padded on the right"),
        (tokens(pad=9, eos=9), [9, 9, 5, 6], "padded on the left"),
        (tokens(pad=9, bos=9, eos=9), [9, 9, 5, 6], "begins with '<s>' .token 9. twice"),
        (tokens(bos=1), [1, 1, 5, 6], "begins with '<s>' .token 1. twice"),
        (tokens(pad=0, bos=1), [1, 5, 1, 6], None),
        (tokens(pad=9, bos=9, eos=9), [9, 5, 9, 9, 6], None),
        (tokens(pad=9, eos=9), [9, 5, 6, 9], None),
        (tokens(), [5, 5, 6, 6], None),
    ],
)
def test_the_tokenizer_says_what_is_padding(tokenizer, row, says) -> None:
    other = [*row[:-2], *([7, row[-1]] if row[-2] == 5 or row[-2] == 6 else row[-2:])]
    if other == row:
        place = row.index(5)
        other = [*row[:place], 7, *row[place + 1 :]]
    batch = ContrastBatch.from_tokens([row], [other], [3], [4])
    if says is None:
        require_no_padding(tokenizer, batch)
        return
    with pytest.raises(BadParameterError, match=f"rows .0.: .*{says}"):
        require_no_padding(tokenizer, batch)
