"""``circuitlab lens``: what it prints is what Python says, and what it refuses."""

from __future__ import annotations

import pytest

import circuitlab as cl

from .conftest import command

PROMPT = "Say red again"


@pytest.fixture(scope="module")
def plain(checkpoint):
    return cl.load_model(checkpoint)


def test_the_json_is_the_python_result(checkpoint, plain) -> None:
    found = command("lens", PROMPT, "--model", str(checkpoint), "--token", " red", "--token", " blue", "-k", "3", "--json")
    assert found.code == 0, found.err
    wanted = cl.logit_lens(plain, PROMPT, tokens=[" red", " blue"], k=3).to_dict()
    assert found.json.keys() == wanted.keys()
    for name in ("tokens", "positions", "rows", "top_ids", "asked", "asked_ids", "ranks", "units", "site"):
        assert found.json[name] == wanted[name], name
    for mine, own in zip(found.json["values"][-1], wanted["values"][-1], strict=True):
        assert mine == pytest.approx(own, abs=1e-5)
    assert len(found.json["top_tokens"][0][0]) == 3 and found.json["rows"][0] == "r0.pre"


def test_text_is_a_table_of_one_position(checkpoint, plain, tmp_path) -> None:
    page = tmp_path / "lens.html"
    given = ["lens", PROMPT, "--model", str(checkpoint), "--at", "heads", "--token", " red", "--figure", str(page)]
    found = command(*given)
    assert found.code == 0, found.err
    lines = found.out.splitlines()
    last = cl.logit_lens(plain, PROMPT, "heads", tokens=" red", positions=-1)
    assert lines[0].startswith(f"At 2 {last.tokens[2]!r} of ")
    assert lines[2].split()[0] == last.table(-1, 20)[1][0][0] and len(lines) == 2 + 12
    assert "Logit lens of head outputs" in page.read_text()
    early = command(*given[:4], "--position", "0", "--position", "-2")
    assert early.code == 0 and early.out.startswith("At 1 ")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--at", "neurons"], "Unknown place to read 'neurons'"),
        (["--token", " red blue"], "' red blue' is 2 tokens"),
        (["--position", "9"], "Position 9 was asked for in a prompt of 3 tokens"),
    ],
)
def test_bad_input_is_one_sentence(checkpoint, more, said) -> None:
    found = command("lens", PROMPT, "--model", str(checkpoint), *more)
    assert (found.code, found.out) == (2, "")
    assert said in found.err and len(found.err.strip().splitlines()) == 1
