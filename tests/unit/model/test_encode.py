"""Encoding: aligned pairs become ids with marks, everything else is named, counted or raised."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from circuitlab.core.errors import AlignmentError, BadParameterError, TokenizationError
from circuitlab.model import load_model
from circuitlab.model.encode import RejectedRow, encode_pair, need_tokenizer
from circuitlab.model.prepare import prepare_batch
from circuitlab.tasks.spec import Example
from circuitlab.testing.tiny import tiny_hf
from circuitlab.workflows.fitness import check_task

WORDS = ["?", "Say", "▁now", "▁red", "▁blue", "▁green", "▁dark", "▁then", ",", "▁red", "▁light"]


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token per listed word; longer words fall apart into letters."""
    letters = list("abcdefghijklmnopqrstuvwxyz▁")
    vocab = {word: i for i, word in enumerate(dict.fromkeys([*WORDS, *letters]))}
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        joined = word[0]
        for letter in word[1:]:
            merges.append((joined, letter))
            joined += letter
            vocab.setdefault(joined, len(vocab))
    vocab.setdefault("S", len(vocab))
    backend = Tokenizer(models.BPE(vocab=vocab, merges=list(dict.fromkeys(merges)), unk_token="?"))
    metaspace = pre_tokenizers.Metaspace(prepend_scheme="never")
    backend.pre_tokenizer = pre_tokenizers.Sequence([metaspace, pre_tokenizers.Punctuation()])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")


def example(clean: str, corrupt: str, answers=(" blue",), foils=(" green",), distractors=(), marked="red", other="blue") -> Example:
    spans = [{"COLOR": (text.index(word), text.index(word) + len(word))} for text, word in ((clean, marked), (corrupt, other))]
    return Example(0, "t", clean, corrupt, *spans, tuple(answers), tuple(foils), tuple(distractors))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer()


def test_marks_name_the_last_token_of_a_slot(tokenizer) -> None:
    found = encode_pair(tokenizer, example("Say dark red now", "Say dark blue now", marked="dark red", other="dark blue"))
    assert len(found.clean) == len(found.corrupt) == 4
    assert found.marks == {"COLOR": 2}
    assert tokenizer.decode([found.answers[0]]).strip(" ▁") == "blue"


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (example("Say red now", "Say blue then now"), "misaligned"),
        (example("Say red now now", "Say now blue now"), "mark_shift"),
        (example("Say red now", "Say blue now", answers=(" purple",)), "multi_token"),
        (example("Say red now", "Say blue now", foils=(" purple",)), "multi_token"),
        (example("Say red now", "Say blue now", foils=(" blue",)), "same_answer"),
    ],
)
def test_a_row_that_does_not_fit_is_named(tokenizer, case, reason) -> None:
    with pytest.raises(RejectedRow, match="Row 0") as caught:
        encode_pair(tokenizer, case)
    assert caught.value.reason == reason
    assert isinstance(caught.value, AlignmentError)
    assert isinstance(caught.value, TokenizationError)


def with_specials(template: str = "<s> $A", *, prepend: bool = True) -> PreTrainedTokenizerFast:
    """The same words behind a normaliser that puts a space before every text, and a post-processor that adds special tokens."""
    backend = word_tokenizer()._tokenizer
    if prepend:
        backend.pre_tokenizer = pre_tokenizers.Punctuation()
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.add_special_tokens(["<s>", "</s>"])
    pair = [(name, backend.token_to_id(name)) for name in ("<s>", "</s>")]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=pair)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?", bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("template", ["$A", "<s> $A", "$A </s>", "<s> $A </s>", "$A </s> </s>"])
def test_added_specials_and_prepended_spaces_leave_marks_and_answers_right(template) -> None:
    tokenizer = with_specials(template)
    pair = example("Say dark red now", "Say dark blue now", marked="dark red", other="dark blue", distractors=(" light",))
    found = encode_pair(tokenizer, pair)
    words = tokenizer.convert_ids_to_tokens(found.clean)
    assert words[-3:] == ["▁dark", "▁red", "▁now"]
    assert words[0] == "<s>" or not template.startswith("<s>")
    assert "</s>" not in words, "the prompt goes on with its answer"
    assert words[found.marks["COLOR"]] == "▁red"
    assert tokenizer.convert_ids_to_tokens([*found.answers, *found.foils, *found.distractors]) == ["▁blue", "▁green", "▁light"]


def test_a_prompt_that_ends_in_its_own_special_token_keeps_it() -> None:
    tokenizer = with_specials("$A </s>", prepend=False)
    found = encode_pair(tokenizer, example("Say red now</s>", "Say blue now</s>"))
    assert tokenizer.convert_ids_to_tokens(found.clean)[-2:] == ["▁now", "</s>"]


def test_a_second_bos_and_prompts_of_the_same_tokens_are_counted() -> None:
    with pytest.raises(RejectedRow, match="begins with '<s>' twice") as caught:
        encode_pair(with_specials(), example("<s>Say red now", "<s>Say blue now"))
    assert caught.value.reason == "two_bos"
    backend = word_tokenizer()._tokenizer
    backend.normalizer = normalizers.Lowercase()
    lower = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")
    with pytest.raises(RejectedRow, match="are the same tokens") as caught:
        encode_pair(lower, example("say red now", "say RED now", other="RED"))
    assert caught.value.reason == "same_prompt"


def test_distractors_that_are_no_single_token_are_left_out(tokenizer) -> None:
    found = encode_pair(tokenizer, example("Say red now", "Say blue now", distractors=(" purple", " light", " blue")))
    assert len(found.distractors) == 1


def test_a_model_without_a_tokenizer_says_what_to_do_instead() -> None:
    model = load_model(tiny_hf("llama"))
    assert model.tokenizer is None
    with pytest.raises(TokenizationError, match=r"ContrastBatch\.from_tokens"):
        prepare_batch(model, "ioi", 4)
    with pytest.raises(TokenizationError, match="no tokenizer"):
        need_tokenizer(None, "m")


TASK = """
id = "colors"
version = 1
title = "Colors"
about = "Made for this test."
cite = []
licence = "none"
answers = [" {a}"]
foils = [" {b}"]
default_variant = "swap"
pools = { words = ["red", "blue", "green", "purple"] }
checks = { known = KNOWN }
[source]
kind = "pools"
distinct = [["a", "b"]]
slots = { a = "words", b = "words" }
[[templates]]
name = "one"
text = "Say {a:A}, then"
[variants.swap]
about = "The other word."
swap = { A = "{b}" }
"""


@pytest.fixture
def colors(tmp_path):
    (tmp_path / "pools.toml").write_text("")

    def write(known: bool):
        path = tmp_path / "colors.toml"
        path.write_text(TASK.replace("KNOWN", str(known).lower()))
        return path

    return write


@pytest.fixture(scope="module")
def model():
    hf, tokenizer = tiny_hf("llama"), word_tokenizer()
    hf.resize_token_embeddings(len(tokenizer))
    return load_model(hf, tokenizer=tokenizer, name="tiny")


def test_rows_that_do_not_fit_are_dropped_and_counted_or_raised(model, colors) -> None:
    batch = prepare_batch(model, colors(known=False), 6)
    assert batch.n_pairs == batch.task.n_pairs == 6
    assert sum(batch.task.dropped.values()) > 0
    assert set(batch.task.dropped) <= {"misaligned", "multi_token"}
    assert len(batch.text) == 6
    assert batch.templates == ("one",) * 6
    assert prepare_batch(model, colors(known=False), 3).clean.tolist() == batch.clean[:3].tolist()
    with pytest.raises(RejectedRow, match="purple"):
        prepare_batch(model, colors(known=False), 6, strict=True)
    with pytest.raises(BadParameterError, match="it has 6 usable ones"):
        prepare_batch(model, colors(known=False), 50)
    with pytest.raises(BadParameterError, match="n=0"):
        prepare_batch(model, colors(known=False), 0)


def test_only_known_pairs_are_kept_where_the_task_asks(model, colors) -> None:
    from circuitlab.metrics import correct

    every = prepare_batch(model, colors(known=False), 6)
    right = correct(model.logits(every.clean, every.end), every)
    assert 0 < sum(right) < 6
    kept = prepare_batch(model, colors(known=True), sum(right))
    assert kept.clean.tolist() == every.select([i for i, ok in enumerate(right) if ok]).clean.tolist()
    with pytest.raises(BadParameterError, match=f"tiny knows {sum(right)} "):
        prepare_batch(model, colors(known=True), 6)


def test_the_report_counts_what_it_should(model, colors) -> None:
    report = check_task(model, colors(known=False), 6)
    assert report.n == 6
    assert 0 < report.single_token <= 1
    assert report.aligned <= 1
    assert report.accuracy["low"] <= report.accuracy["mean"] <= report.accuracy["high"]
    assert report.chance == 0.5
    assert not report.ready
    assert "chance" in report.reason or "gap" in report.reason


@pytest.mark.real_model
@pytest.mark.parametrize("task", ["ioi", "colored_objects", "successor", "capitals", "addition", "greater_than", "docstring"])
def test_shipped_tasks_align_on_the_default_model(smollm2, task) -> None:
    batch = prepare_batch(smollm2, task, 12)
    assert batch.n_pairs == 12
    for name, place in batch.marks.items():
        assert bool((place <= batch.end).all()), name
    changed = batch.clean != batch.corrupt
    assert bool(changed.any(1).all())
    assert not bool((changed & ~batch.mask).any())


@pytest.mark.some(1)
@pytest.mark.real_model
@pytest.mark.parametrize("task", ["ioi", "successor", "docstring", "capitals", "greater_than", "addition"])
def test_the_default_model_can_do_six_of_the_seven(smollm2, task) -> None:
    assert check_task(smollm2, task, 16).ready


@pytest.mark.real_model
def test_colored_objects_is_flagged_as_near_chance(smollm2) -> None:
    report = check_task(smollm2, "colored_objects", 8)
    assert not report.ready
    assert "chance" in report.reason
