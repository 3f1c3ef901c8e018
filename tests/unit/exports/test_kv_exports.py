"""DuoAttention's table and RazorAttention's list: round trips, the layout of other readers, and refusals by name."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

import circuitlab as cl
from circuitlab.core.errors import BadParameterError, IncompatibleError, ScoreFileError, UnknownNameError
from circuitlab.exports.kv_heads import kv_values
from circuitlab.model.toy import build_planted
from circuitlab.scores.role_table import RoleTable
from circuitlab.testing.tiny import tiny_model


@pytest.fixture(scope="module")
def table():
    return cl.roles(build_planted("induction-gqa").model, ["echo", "induction", "k_composition"])


def test_a_key_value_head_has_the_largest_value_of_its_group(table) -> None:
    values, own = kv_values(table, "induction"), table.scores["induction"].value
    assert values.shape == (2, 2) and values[1, 1] == max(own[1, 2], own[1, 3]) and values[0, 0] == max(own[0, 0], own[0, 1])
    both = kv_values(table, ["echo", "induction"])
    np.testing.assert_array_equal(both, np.maximum(values, kv_values(table, "echo")))
    assert table.scores["k_composition"].per == "kv_head"
    np.testing.assert_array_equal(kv_values(table, "k_composition"), table.scores["k_composition"].value)


def test_duo_attention_is_read_as_its_own_reader_does(table, tmp_path) -> None:
    gates = cl.exports.write_duo_attention(table, tmp_path / "duo", full=0.25)
    theirs = np.clip(np.loadtxt(tmp_path / "duo" / "full_attention_heads.tsv", dtype=float, delimiter="\t"), 0, 1)
    config = json.loads((tmp_path / "duo" / "config.json").read_text(encoding="utf-8"))
    np.testing.assert_array_equal(theirs, gates.values)
    np.testing.assert_array_equal(theirs, [[0, 0], [0, 1]])
    assert (config["sink_size"], config["recent_size"]) == (gates.sink_size, gates.recent_size) == (64, 256)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.json", "duo", "full_attention_heads.tsv"]


@pytest.mark.parametrize(("full", "heads"), [(1.0, 4), (0.5, 2), (0.25, 1), (0.01, 1)])
def test_so_many_heads_have_full_attention(table, tmp_path, full, heads) -> None:
    gates = cl.exports.write_duo_attention(table, tmp_path, full=full)
    least = np.sort(kv_values(table, "induction"), axis=None)[-heads]
    np.testing.assert_array_equal(gates.values == 1, kv_values(table, "induction") >= least)
    assert len(gates.full()) == heads


def test_values_themselves_are_exact_and_refused_where_they_are_no_gates(table, tmp_path) -> None:
    gates = cl.exports.write_duo_attention(table, tmp_path, roles=["echo", "induction"], full=None)
    np.testing.assert_array_equal(gates.values, kv_values(table, ["echo", "induction"]))
    induction = table.scores["induction"]
    about = dataclasses.replace(induction.provenance, within=None)
    large = dataclasses.replace(induction, values=induction.values * 3, provenance=about)
    with pytest.raises(BadParameterError, match=r"gates lie in \[0, 1\]"):
        cl.exports.write_duo_attention(RoleTable(table.model, {"induction": large}), tmp_path, full=None)


def test_released_tables_with_numbers_just_below_zero_are_clipped(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"sink_size": 128, "recent_size": 256, "lr": 0.02}', encoding="utf-8")
    (tmp_path / "full_attention_heads.tsv").write_text("-9.5e-05\t1.000e+00\n5.5e-01\t2.0e-04\n", encoding="utf-8")
    found = cl.exports.read_duo_attention(tmp_path)
    np.testing.assert_array_equal(found.values, [[0, 1], [0.55, 0.0002]])
    assert found.full() == [(0, 1), (1, 0)] and found.sink_size == 128


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0.1\t0.2\n0.3\n", "Line 2 of .* has 1 heads, the first 2"),
        ("0.1\t0.2\n0.3\tx\n", "Line 2 of .* is no row of numbers"),
        ("0.1 0.2\n", "Line 1 of .* is no row of numbers"),
        ("0.1\t7\n", r"Line 1 of .* has numbers outside \[0, 1\]"),
        ("nan\t0.2\n", r"Line 1 of .* has numbers outside \[0, 1\]"),
        ("\n", "is empty"),
    ],
)
def test_what_is_no_table_of_gates_is_named_by_line(tmp_path, text, said) -> None:
    (tmp_path / "config.json").write_text('{"sink_size": 64, "recent_size": 256}', encoding="utf-8")
    (tmp_path / "full_attention_heads.tsv").write_text(text, encoding="utf-8")
    with pytest.raises(ScoreFileError, match=said):
        cl.exports.read_duo_attention(tmp_path)


def test_tables_of_other_models_and_missing_files_are_refused(table, tmp_path) -> None:
    cl.exports.write_duo_attention(table, tmp_path)
    with pytest.raises(IncompatibleError, match="has 2 layers of 2 key/value heads; tiny-gpt2 has 3 of 4"):
        cl.exports.read_duo_attention(tmp_path, tiny_model("gpt2").spec)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ScoreFileError, match="no sink_size or recent_size"):
        cl.exports.read_duo_attention(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(BadParameterError, match="There is no file"):
        cl.exports.read_duo_attention(tmp_path)


def test_settings_of_duo_attention_that_cannot_be_are_refused_before_anything_is_written(table, tmp_path) -> None:
    for settings, said in (
        ({"full": 0.0}, "full=0.0"),
        ({"full": 1.5}, "full=1.5"),
        ({"recent_size": 0}, "keep no recent token"),
        ({"roles": []}, "No role"),
    ):
        with pytest.raises(BadParameterError, match=said):
            cl.exports.write_duo_attention(table, tmp_path / "duo", **settings)
    with pytest.raises(UnknownNameError, match="measured role 'sink'"):
        cl.exports.write_duo_attention(table, tmp_path / "duo", roles="sink")
    assert not (tmp_path / "duo").exists()


def test_an_axis_of_length_one_would_be_dropped_by_their_reader(tmp_path, table, monkeypatch) -> None:
    monkeypatch.setattr("circuitlab.exports.duo_attention.kv_values", lambda _table, _roles: np.ones((3, 1)))
    with pytest.raises(IncompatibleError, match="drops an axis of length 1"):
        cl.exports.write_duo_attention(table, tmp_path / "duo")
    assert not (tmp_path / "duo").exists()


def test_razor_attention_takes_the_union_of_both_scores(table, tmp_path) -> None:
    written = cl.exports.write_razor_attention(table, tmp_path / "razor.json", echo=0.25, induction=0.5, compensation=False)
    assert cl.exports.read_razor_attention(tmp_path / "razor.json", table.model) == written
    for name, count in (("echo", 1), ("induction", 2)):
        values = kv_values(table, name)
        heads = getattr(written, f"{name}_heads")
        assert len(heads) == count and min(values[at] for at in heads) >= np.sort(values, axis=None)[-count]
    assert written.retrieval_heads == sorted({*written.echo_heads, *written.induction_heads})
    assert not written.compensation_token and (written.least_recent, written.compression) == (4000, 5.0)
    plain = json.loads((tmp_path / "razor.json").read_text(encoding="utf-8"))
    assert plain["format"] == "circuitlab RazorAttention" and plain["induction_share"] == 0.5


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"version": 2}, ScoreFileError, "version 2"),
        ({"n_kv_heads": 1}, ScoreFileError, "names key/value head"),
        ({"retrieval_heads": []}, ScoreFileError, "not the union"),
        ({"extra": 1}, ScoreFileError, "is not what it should be"),
        ({"n_layers": 9}, IncompatibleError, "has 9 layers of 2 key/value heads"),
    ],
)
def test_lists_that_do_not_fit_are_refused(table, tmp_path, changes, error, said) -> None:
    file = tmp_path / "razor.json"
    cl.exports.write_razor_attention(table, file, induction=0.5)
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    with pytest.raises(error, match=said):
        cl.exports.read_razor_attention(file, table.model)


def test_razor_attention_needs_both_roles_and_possible_shares(table, tmp_path) -> None:
    with pytest.raises(UnknownNameError, match="measured role 'echo'"):
        cl.exports.write_razor_attention(cl.roles(build_planted("induction-gqa").model, "induction"), tmp_path / "razor.json")
    with pytest.raises(BadParameterError, match="echo=0"):
        cl.exports.write_razor_attention(table, tmp_path / "razor.json", echo=0)
    with pytest.raises(BadParameterError, match="There is no file"):
        cl.exports.read_razor_attention(tmp_path / "razor.json")
