"""Every error in the FAQ's table is raised, with the words of the table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from transformers import BertConfig, BertModel

import circuitlab as cl
from circuitlab.core.errors import CircuitlabError
from circuitlab.model.toy import build_planted
from circuitlab.testing.tiny import tiny_model

PAGE = (Path(__file__).parents[2] / "docs" / "faq.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(.+?)` \| .+ \| .+ \|$", PAGE.partition("## From error to fix")[2], flags=re.MULTILINE)


def planted():
    model = build_planted("copy-gqa")
    return model.model, model.batch(4)


def tiny_batch(clean=((1, 2, 3, 4), (5, 6, 7, 8)), corrupt=((1, 2, 9, 4), (5, 6, 9, 8))) -> cl.ContrastBatch:
    return cl.ContrastBatch.from_tokens([list(row) for row in clean], [list(row) for row in corrupt], answers=[5, 9], foils=[7, 2])


def pairs(*rows: tuple[str, str, str, str]) -> cl.Task:
    return cl.Task.from_pairs([dict(zip(("clean", "corrupt", "answer", "foil"), row, strict=True)) for row in rows])


def uneven() -> cl.ContrastBatch:
    return tiny_batch(((1, 2, 3), (5, 6, 7, 8)), ((1, 2, 9), (5, 6, 9, 8)))


def damaged(name: str) -> str:
    Path(name).write_text("no", encoding="utf-8")
    return name


def of_two_models() -> float:
    other = tiny_model("llama")
    scores = [cl.score(model, batch, cl.methods.AttributionPatching()) for model, batch in (planted(), (other, tiny_batch()))]
    return cl.comparison.jaccard(*map(cl.TopK(2), scores))


def outside() -> object:
    batch = tiny_batch()
    return tiny_model("llama").edited(cl.interventions.Knockout(["a0.h0"], "zero", positions=(50,))).logits(batch.clean, batch.end)


MISTAKES = {
    "Unknown task": lambda: cl.load_task("ioo"),
    "Unknown parameter of": lambda: cl.methods.get_method("eap_ig", {"step": 3}),
    "Unknown mark": lambda: cl.score(*planted(), cl.methods.ActivationPatching(positions=("S9",))),
    "do not align": lambda: cl.ContrastBatch.from_tokens([[1, 2]], [[1, 2, 3]], answers=[1], foils=[2]),
    "has no tokenizer": lambda: cl.check_task(tiny_model("llama"), "ioi"),
    "lacks": lambda: cl.Task.from_pairs([{"clean": "a", "corrupt": "b", "answer": "c"}]),
    "repeats row": lambda: pairs(*[("a b", "a c", "d", "e")] * 2),
    "both as an answer and as a foil": lambda: pairs(("a b", "a c", "d", "d")),
    "it may be 0": lambda: cl.score(tiny_model("llama"), tiny_batch(), cl.methods.LogitAttribution()).fraction(),
    "cannot be combined": of_two_models,
    "needs a metric that is linear": lambda: cl.score(*planted(), cl.methods.LogitAttribution(), metric="kl"),
    "has zero gradient": lambda: cl.score(*planted(), cl.methods.AttributionPatching(direction="noising"), metric="kl"),
    "come from weights alone": lambda: cl.score(planted()[0], method="copying_score").fraction(),
    "runs prompts, and none are given": lambda: cl.score(planted()[0], method="eap"),
    "cannot run on this model": lambda: cl.score(tiny_model("gptj"), tiny_batch(), "eap"),
    "have no positions in common": lambda: cl.score(tiny_model("llama"), uneven(), cl.methods.ActivationPatching(positions=("each",))),
    "lies outside prompts": outside,
    "is in layer": lambda: tiny_model("llama").edited(cl.interventions.Knockout(["a99.h0"], "zero")),
    "is not a node name": lambda: cl.score(*planted(), cl.methods.AttributionPatching())["head 3"],
    "There is no score file": lambda: cl.HeadScores.load("nowhere.nc"),
    "is not a netCDF 4 file": lambda: cl.HeadScores.load(damaged("foreign.nc")),
    "does not exist": lambda: cl.load_model("./nowhere"),
    "is not a GGUF file": lambda: cl.load_model(damaged("x.gguf")),
    "has no output embeddings": lambda: cl.load_model(
        BertModel(BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20))
    ),
}
"""By words of the row: what raises it on a tiny model."""

ON_REAL_WORDS = {
    "were requested; it has": ("The capital of France is", "The capital of Liechtenstein is", "Paris", "Vaduz"),
}


def says(row: str, error: CircuitlabError) -> bool:
    """Whether a message begins with the words of a row, whatever stands for its dots."""
    return re.match(".+?".join(map(re.escape, row.split("…"))), error.what, flags=re.DOTALL) is not None


def row_with(words: str) -> str:
    (row,) = [row for row in ROWS if words in row]
    return row


def test_every_row_has_a_mistake_that_raises_it() -> None:
    assert len(ROWS) >= 20
    assert sorted(map(row_with, [*MISTAKES, *ON_REAL_WORDS])) == sorted(ROWS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_gives_the_message_of_its_row(words, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CircuitlabError) as caught:
        MISTAKES[words]()
    assert says(row_with(words), caught.value), caught.value
    assert caught.value.fix


@pytest.mark.real_model
@pytest.mark.parametrize("words", ON_REAL_WORDS)
def test_pairs_that_a_tokenizer_cannot_use(words, smollm2) -> None:
    with pytest.raises(CircuitlabError) as caught:
        cl.check_task(smollm2, pairs(ON_REAL_WORDS[words]))
    assert says(row_with(words), caught.value), caught.value


def test_other_words_would_be_noticed() -> None:
    error = cl.errors.BadParameterError("Row 2 of the list repeats row 1.")
    assert says("Row … repeats row …", error)
    assert not says("Row … repeats line …", error)
