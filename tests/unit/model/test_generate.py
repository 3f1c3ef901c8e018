"""Generation: greedy text is Hugging Face's, a cache changes nothing, edits act where they say, and neighbours do not matter."""

from __future__ import annotations

import math

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from circuitlab.core.errors import BadParameterError, ModelError, TokenizationError
from circuitlab.model import load_model
from circuitlab.model.batch import ContrastBatch
from circuitlab.model.generate import Decoding, Writer
from circuitlab.model.hooks import HookedRun
from circuitlab.model.interventions import Add, EditPattern, Knockout, Scale
from circuitlab.model.prompts import read_prompts
from circuitlab.testing.tiny import FAMILIES, shared_tiny_model, tiny_hf, tiny_model

NEW = 14
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"]


def prompts(lengths=(5, 7, 5, 9, 3)) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(1, 48, (length,), generator=generator).tolist() for length in lengths]


def hugging_face(root, prompt, new, **named) -> list[int]:
    ids = torch.tensor([prompt])
    with torch.no_grad():
        out = root.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new, **named)
    return out[0, len(prompt) :].tolist()


def likeliest(root, prompts, ids) -> list[list[int]]:
    """What Hugging Face's model would write in place of every token of ``ids``, from one run: ``ids`` if greedy text is the same.

    Prompts have one length, and so have their ``ids``.
    """
    with torch.no_grad():
        logits = root(torch.tensor([[*prompt, *own] for prompt, own in zip(prompts, ids, strict=True)])).logits
    return logits[:, len(prompts[0]) - 1 : -1].argmax(-1).tolist()


def one_by_one(model, prompt, new) -> list[int]:
    """The likeliest token each time, from runs of the whole text."""
    ids = list(prompt)
    for _ in range(new):
        ids.append(int(model.logits(torch.tensor([ids]), torch.tensor([len(ids) - 1])).argmax()))
        if ids[-1] == 0:
            break
    return ids[len(prompt) :]


def written(model, given, new, *, cached):
    writer = Writer(HookedRun(model.root, model.parts), model.spec, None, model._standing, cached)
    return writer.write(read_prompts(given, None, model.spec), Decoding(new))


def numbers(found) -> list[float]:
    """Log-probabilities of every token of several texts: they differ where the texts of a model that repeats itself do not."""
    return [value for one in found for value in one.logprobs]


@pytest.fixture(scope="module")
def llama():
    return tiny_model("llama")


@pytest.fixture(scope="module")
def worded():
    """A model with one token per word; EOS is token 47, which no word is."""
    words = [*WORDS, *(f"w{i}" for i in range(len(WORDS), 47))]
    vocab = {"zero": 0, "</s>": 47} | {f"▁{word}": i for i, word in enumerate(words) if i}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="zero"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="zero", eos_token="</s>")
    root = tiny_hf("llama")
    root.generation_config.eos_token_id = None
    return load_model(root, tokenizer=tokenizer)


@pytest.mark.laws
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_text_is_hugging_faces(family) -> None:
    model = shared_tiny_model(family)
    found = model.generate(prompts(), NEW)
    assert model._loaded.cache_exact[frozenset()] is True
    assert [list(one.ids) for one in found] == [hugging_face(tiny_hf(family), prompt, NEW) for prompt in prompts()]
    assert len({one.ids for one in found}) == 5


@pytest.mark.laws
@pytest.mark.parametrize("family", FAMILIES)
def test_edits_do_the_same_with_a_cache_as_without(family) -> None:
    plain = shared_tiny_model(family)
    edits = [
        Knockout("a1.h1"),
        Scale("a0.h2", 2.0, positions="generated"),
        Scale("m0", 0.5, positions="prompt"),
        Add("r1.post", torch.linspace(-1, 1, 32), positions="last"),
        Scale("a0.kv0", -1.0, site="v"),
        Scale("a2.kv1", 0.5, site="k", positions="generated"),
        EditPattern("a2.h0", "block", keys=0),
        EditPattern("a1.h3", "uniform", positions="generated"),
    ]
    model = plain.edited(*edits)
    found, whole = (written(model, prompts(), NEW, cached=cached) for cached in (True, False))
    assert found == model.generate(prompts(), NEW)
    assert [one.ids for one in found] == [one.ids for one in whole]
    assert numbers(found) == pytest.approx(numbers(whole), abs=2e-5)
    assert numbers(found) != pytest.approx(numbers(plain.generate(prompts(), NEW)), abs=1e-2)


@pytest.mark.laws
@pytest.mark.parametrize("family", FAMILIES)
def test_each_token_is_the_likeliest_of_the_edited_model(family) -> None:
    model = shared_tiny_model(family).edited(Knockout(["a0.h0", "a2.h3"]), Scale("a1.kv1", -1.0, site="k"), EditPattern("a1.h0", "uniform"))
    assert [list(one.ids) for one in model.generate(prompts(), NEW)] == [one_by_one(model, prompt, NEW) for prompt in prompts()]


def test_an_edit_at_generated_positions_leaves_the_first_token_alone(llama) -> None:
    plain, late = llama.generate(prompts(), NEW), llama.edited(Scale("r2.post", -1.0, positions="generated")).generate(prompts(), NEW)
    assert [one.ids[0] for one in plain] == [one.ids[0] for one in late]
    assert [one.logprobs[0] for one in plain] == [one.logprobs[0] for one in late]
    assert all(a.ids[1:] != b.ids[1:] for a, b in zip(plain, late, strict=True))
    once = llama.edited(Scale("r2.post", -1.0, positions="generated")).generate(prompts()[0], 1)  # nothing generated is run
    assert once.ids == plain[0].ids[:1]


def test_the_last_position_of_the_prompt_stays_where_it_is(llama) -> None:
    offset = torch.linspace(-3, 3, 32)
    by_number = llama.edited(Add("r0.pre", offset, positions=4)).generate(prompts()[0], NEW)
    assert by_number == llama.edited(Add("r0.pre", offset, positions="last")).generate(prompts()[0], NEW)
    assert by_number != llama.edited(Add("r0.pre", offset)).generate(prompts()[0], NEW)


def test_a_batch_stands_for_its_clean_prompts_with_their_marks(llama) -> None:
    few = prompts((6, 8))
    batch = ContrastBatch.from_tokens(few, [[*row[:-1], 0] for row in few], [1, 1], [2, 2], marks={"S": [1, 3]})
    edited = llama.edited(Add("r0.pre", torch.linspace(-3, 3, 32), positions="S"))
    expected = [
        llama.edited(Add("r0.pre", torch.linspace(-3, 3, 32), positions=at)).generate(row, NEW) for at, row in zip((1, 3), few, strict=True)
    ]
    assert [one.ids for one in edited.generate(batch, NEW)] == [one.ids for one in expected]
    with pytest.raises(BadParameterError, match="'S' cannot be found: these prompts have no marks"):
        edited.generate(few, NEW)


def test_neighbours_do_not_matter(llama) -> None:
    for temperature in (0.0, 1.3):
        together = llama.generate([*prompts((6,) * 20), *prompts()], NEW, temperature, seed=3)[-5:]
        alone = [llama.generate(prompt, NEW, temperature, seed=3) for prompt in prompts()]
        assert [one.ids for one in together] == [one.ids for one in alone]
        for one, other in zip(together, alone, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


def test_log_probabilities_are_those_of_the_model_itself(llama) -> None:
    prompt = prompts()[0]
    for temperature in (0.0, 2.0):
        one = llama.generate(prompt, NEW, temperature)
        ids, expected = list(prompt), []
        for token in one.ids:
            logits = llama.logits(torch.tensor([ids]), torch.tensor([len(ids) - 1]))[0]
            expected.append(float(logits.log_softmax(-1)[token]))
            ids.append(token)
        assert one.logprobs == pytest.approx(expected, abs=1e-5)


def test_tokens_are_drawn_from_the_tempered_distribution(llama) -> None:
    prompt, copies = prompts()[0], 1500
    logits = llama.logits(torch.tensor([prompt]), torch.tensor([len(prompt) - 1]))[0]
    for temperature in (0.7, 2.0):
        drawn = [one.ids[0] for one in llama.generate([prompt] * copies, 1, temperature)]
        shares = torch.bincount(torch.tensor(drawn), minlength=48) / copies
        right, wrong = ((logits / t).softmax(-1) for t in (temperature, 2.7 - temperature))
        assert float((shares - right).abs().sum()) < 0.15 < float((shares - wrong).abs().sum())


def test_the_seed_says_what_is_drawn(llama) -> None:
    first, again, other = (llama.generate(prompts(), NEW, 1.5, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert all(a.ids != b.ids for a, b in zip(first, other, strict=True))
    twice = llama.generate([prompts()[0]] * 2, NEW, 1.5)
    assert twice[0].ids == first[0].ids
    assert twice[1].ids != twice[0].ids
    assert llama.generate(prompts(), NEW, 1e-300) == llama.generate(prompts(), NEW)


def test_eos_ends_a_row_and_the_others_go_on(llama) -> None:
    plain = llama.generate(prompts(), NEW)
    stop_at = plain[0].ids[3]
    root = tiny_hf("llama")
    root.generation_config.eos_token_id = [stop_at, 0]
    found = load_model(root).generate(prompts(), NEW)
    for one, long in zip(found, plain, strict=True):
        place = long.ids.index(stop_at) + 1 if stop_at in long.ids else len(long.ids)
        assert one.ids == long.ids[:place]
        assert one.stopped == ("eos" if one.ids[-1] in {stop_at, 0} else "length")
        assert len(one.logprobs) == len(one.ids)
    assert {one.stopped for one in found} == {"eos", "length"}


def test_text_is_the_new_text_only(worded) -> None:
    prompt = "one two three four"
    one = worded.generate(prompt, 8)
    assert one.text == " " + " ".join(worded.tokenizer.convert_ids_to_tokens(list(one.ids))).replace("▁", "")
    assert str(one) == one.text
    assert worded.generate([1, 2, 3, 4], 8) == one
    assert worded.generate([prompt], 8) == (one,)
    assert worded.generate(torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1]]), 8)[0].ids == one.ids
    assert tiny_model("llama").generate([1, 2, 3, 4], 8).text is None


def test_a_stop_string_is_cut_off_the_text(worded) -> None:
    whole = worded.generate("one two three four", 8)
    words = whole.text.split()
    stop = next(word for word in words[1:] if words.index(word) > 0)
    place = words.index(stop)
    one = worded.generate("one two three four", 8, stop=["never", f" {stop}"])
    assert one.stopped == "stop"
    assert one.text == "".join(f" {word}" for word in words[:place])
    assert one.ids == whole.ids[: place + 1]
    assert worded.generate("one two three four", 8, stop="one two") == whole  # of the prompt
    assert worded.generate("one two three four", 8, stop=words[0][:2]).text == " "


def test_special_tokens_that_a_tokenizer_puts_behind_a_prompt_are_left_out(worded) -> None:
    ending = transformers.PreTrainedTokenizerFast(tokenizer_object=worded.tokenizer.backend_tokenizer, unk_token="zero", eos_token="</s>")
    ending.backend_tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 47)])
    assert list(ending("one two")["input_ids"]) == [1, 2, 47]
    assert read_prompts("one two", ending, worded.spec).ids == ((1, 2),)
    assert read_prompts("one two</s>", ending, worded.spec).ids == ((1, 2, 47),)


@pytest.mark.parametrize(
    ("rope", "positions"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, 8),
        ({"rope_type": "longrope", "factor": 2.0, "short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 4.0, 5.0]}, 64),
    ],
)
def test_a_model_whose_angles_depend_on_the_length_runs_the_whole_text(rope, positions) -> None:
    config = tiny_hf("llama").config
    config.max_position_embeddings = positions
    config.rope_parameters = {"rope_theta": 10000.0, "original_max_position_embeddings": 8, **rope}
    torch.manual_seed(0)
    root = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for value in root.parameters():
        value.data += torch.randn_like(value) * 0.3
    model = load_model(root)
    found = [list(one.ids) for one in model.generate(prompts(), NEW)]
    assert model._loaded.cache_exact[frozenset()] is False
    assert found == [one_by_one(model, prompt, NEW) for prompt in prompts()]
    edited = model.edited(Knockout("a1.h1"))
    assert [list(one.ids) for one in edited.generate(prompts(), NEW)] == [one_by_one(edited, prompt, NEW) for prompt in prompts()]


def test_values_that_are_computed_anew_for_every_token_are_edited_in_whole_runs() -> None:
    """DeepSeek caches latents: with a cache, an edit of values would be shown those of all positions at every step."""
    shapes = {"vocab_size": 48, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40}
    latent = {"q_lora_rank": 16, "kv_lora_rank": 12, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 6}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "moe_intermediate_size": 24}
    config = transformers.DeepseekV3Config(**shapes, **latent, **experts, num_key_value_heads=4, first_k_dense_replace=1, eos_token_id=0)
    torch.manual_seed(0)
    root = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for value in root.parameters():
        value.data += torch.randn_like(value) * 0.2
    model = load_model(root)
    for edit, cached in ((Knockout("a1.h1"), True), (Scale("a0.kv0", -3.0, site="v"), False)):
        edited = model.edited(edit)
        found = edited.generate(prompts(), NEW)
        assert model._loaded.cache_exact[edited._standing.targets] is cached
        assert [list(one.ids) for one in found] == [one_by_one(edited, prompt, NEW) for prompt in prompts()]
        assert numbers(found) != pytest.approx(numbers(model.generate(prompts(), NEW)), abs=1e-2)


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5"),
        ({"max_new_tokens": True}, "max_new_tokens is True"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"stop": ""}, "'' was given as a stop string"),
        ({"stop": ["a", 3]}, "3 was given as a stop string"),
        ({"prompts": []}, "No prompt was given"),
        ({"prompts": [[]]}, "Prompt 0 is empty"),
        ({"prompts": [[1, 2], []]}, "Prompt 1 is empty"),
        ({"prompts": ""}, "A prompt is empty"),
        ({"prompts": ["one", ""]}, "A prompt is empty"),
        ({"prompts": [[1, 48]]}, "Prompt 0 holds token id 48; .* ids 0 to 47"),
        ({"prompts": [1, -1]}, "token id -1"),
        ({"prompts": [[1, 2.0]]}, r"2.0 \(float\)"),
        ({"prompts": [[1, True]]}, r"True \(bool\)"),
        ({"prompts": [[[1]]]}, r"\[1\] \(list\)"),
        ({"prompts": [[1, 2], 3]}, "Prompt 1 is the number 3"),
        ({"prompts": {"a": 1}}, "Prompts cannot be of type dict"),
        ({"prompts": 7}, "Prompts cannot be of type int"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(worded, monkeypatch, named, says) -> None:
    monkeypatch.setattr(HookedRun, "logits", lambda *_: pytest.fail("the model was run"))
    with pytest.raises(BadParameterError, match=says):
        worded.generate(**({"prompts": [1, 2], "max_new_tokens": 2} | named))


def test_padded_prompts_and_two_bos_are_refused(worded) -> None:
    backend = worded.tokenizer.backend_tokenizer
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="▁ten", bos_token="▁one", unk_token="zero")
    for row, says in (([10, 2, 3], "padded on the left"), ([2, 3, 10], "padded on the right"), ([1, 1, 2], "begins with '▁one' .* twice")):
        with pytest.raises(BadParameterError, match=f"Prompt 1 .*{says}|Prompt 1 is {says}"):
            read_prompts([[2, 3, 4], row], tokenizer, worded.spec)


def test_a_model_without_a_tokenizer_takes_no_text(llama) -> None:
    with pytest.raises(TokenizationError, match="no tokenizer, but a prompt is text"):
        llama.generate("one", 2)
    with pytest.raises(TokenizationError, match="no tokenizer, and a stop string"):
        llama.generate([1, 2], 2, stop="x")


def test_text_that_cannot_fit_a_table_of_positions_is_refused_before_anything_runs(monkeypatch) -> None:
    model = tiny_model("gpt2")
    assert len(model.generate([1] * 60, 4).ids) <= 4
    monkeypatch.setattr(HookedRun, "logits", lambda *_: pytest.fail("the model was run"))
    with pytest.raises(BadParameterError, match=r"64 positions, for a prompt of 60 tokens and 5 new ones.*max_new_tokens=4"):
        model.generate([[1], [1] * 60], 5)


def test_logits_that_are_not_finite_are_an_error(llama) -> None:
    with pytest.raises(ModelError, match=r"edited \(scale by 1e\+38 .*not finite after 5 tokens"):
        llama.edited(Scale("r2.post", 1e38), Scale("r1.post", 1e38)).generate(prompts()[0], 2)


def test_modes_and_hooks_are_as_before_also_when_interrupted(monkeypatch) -> None:
    root = tiny_hf("llama")
    model = load_model(root).edited(Knockout("a1.h1"))
    expected = model.generate(prompts()[0], 6)
    root.train()
    root.model.layers[1].eval()
    before = [module.training for module in root.modules()]
    with torch.inference_mode():
        assert model.generate(torch.tensor(prompts()[0]), 6) == expected
    assert [module.training for module in root.modules()] == before
    calls, forward = [], HookedRun.logits

    def interrupted(self, *given):
        calls.append(1)
        if len(calls) == 3:
            root.model.norm.register_forward_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        return forward(self, *given)

    monkeypatch.setattr(HookedRun, "logits", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.generate(prompts()[0], 6)
    root.model.norm._forward_hooks.clear()
    assert [module.training for module in root.modules()] == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in root.modules())
    assert all(value.requires_grad for value in root.parameters())
    assert torch.is_grad_enabled()
    monkeypatch.undo()
    assert model.generate(prompts()[0], 6) == expected


@pytest.mark.real_model
def test_twenty_prompts_of_unequal_length_are_hugging_faces(smollm2) -> None:
    names = ["Mary", "John", "Anna", "Tom", "Paul"]
    openings = ["When {0} went to the store", "{0} said: 1, 2, 3,", "The capital of France is {0}", "def add(a, b):  # {0} is"]
    texts = [opening.format(name) for opening in openings for name in names]
    found = smollm2.generate(texts, 30)
    root, tokenizer = smollm2.root, smollm2.tokenizer
    given = [tokenizer(text)["input_ids"] for text in texts]
    assert len({len(prompt) for prompt in given}) >= 3
    wanted = {}
    for size in {(len(prompt), len(one.ids)) for prompt, one in zip(given, found, strict=True)}:
        rows = [i for i, one in enumerate(found) if (len(given[i]), len(one.ids)) == size]
        wanted |= dict(zip(rows, likeliest(root, [given[i] for i in rows], [list(found[i].ids) for i in rows]), strict=True))
    for number, (text, prompt, one) in enumerate(zip(texts, given, found, strict=True)):
        assert len(one.ids) == 30 or one.ids[-1] == tokenizer.eos_token_id
        assert list(one.ids) == wanted[number]
        if number == 13:
            assert list(one.ids) == hugging_face(root, prompt, 30, pad_token_id=0)
        assert one.text == tokenizer.decode([*prompt, *one.ids], skip_special_tokens=True)[len(text) :]
