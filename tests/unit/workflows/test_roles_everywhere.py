"""Every role on every tiny family: a number, or a refusal with its reason; never an error from inside the model."""

from __future__ import annotations

import string

import pytest
import torch
from tokenizers import Tokenizer, normalizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from circuitlab.core.errors import BadParameterError
from circuitlab.methods.roles import default_roles, list_roles, needles, retrieval
from circuitlab.model import load_model
from circuitlab.model.sites import Site
from circuitlab.testing.tiny import ALL_FAMILIES, FAMILIES, tiny_hf, tiny_model
from circuitlab.texts import load_texts
from circuitlab.workflows.roles import roles

TEXTS = tuple(one.text for one in load_texts(n=4))
LONGEST = {
    "gpt2": 64, "gptj": 64, "codegen": 64, "ctrl": 64, "mpt": 64, "roberta": 63, "gpt_neo": 64,
     "bert": 64, "xglm": 64, "llama": None,
}  # fmt: skip


def letters() -> PreTrainedTokenizerFast:
    """A tokenizer of 48 characters."""
    vocab = {one: i for i, one in enumerate(["_", "^", *"\n .,;:!'\"-()?0123", *string.ascii_lowercase])}
    backend = Tokenizer(BPE(vocab=vocab, merges=[], unk_token="_"))
    backend.normalizer = normalizers.Lowercase()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="_", bos_token="^")


@pytest.mark.by_turns(32)
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_every_role_is_measured_or_refused_with_a_reason(family, monkeypatch) -> None:
    monkeypatch.setattr(retrieval, "hidden_singly", lambda *given, **named: needles.hidden_singly(*given, **named)[::4])
    model = load_model(tiny_hf(family), tokenizer=letters(), name=f"tiny-{family}")
    names = list_roles() if family in {*FAMILIES, *LONGEST} else default_roles()
    table = roles(model, names, texts=TEXTS)
    assert {*table.scores} | {*table.refused} == {*names}
    assert all(reason.strip() for reason in table.refused.values())


@pytest.mark.parametrize(("family", "longest"), LONGEST.items())
def test_the_longest_prompt_of_a_family_is_known(family, longest) -> None:
    model = tiny_model(family)
    assert model.spec.n_ctx == longest
    model.capture(torch.zeros(1, longest or 80, dtype=torch.long) + 5, [Site.RESID_POST])
    if longest is not None:
        with pytest.raises(BadParameterError, match=f"{longest + 1} tokens are longer than the {longest} positions"):
            model.capture(torch.zeros(1, longest + 1, dtype=torch.long) + 5, [Site.RESID_POST])
