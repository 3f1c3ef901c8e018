"""HeadVis' tree: the numbers in it equal attention patterns, it is read back and checked, and nothing is written outside its folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import circuitlab as cl
from circuitlab.core.errors import BadParameterError, IncompatibleError, ModelError, ScoreFileError, UnknownNameError
from circuitlab.model.toy import build_planted
from circuitlab.testing.fakes import fake_scores
from circuitlab.testing.tiny import tiny_model

ROWS = [[3, 1, 5, 2, 4, 0, 1, 5, 2, 4, 0, 3], [0, 2, 1, 4, 3, 5, 2, 1, 4, 3, 5, 0]] * 5


def random_rows(vocab: int, n: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, vocab, (6 + i % 3,), generator=generator).tolist() for i in range(n)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    model = tiny_model("llama")
    rows = random_rows(model.spec.d_vocab, 23)
    return model, rows, cl.exports.write_headvis(model, tmp_path_factory.mktemp("tree") / "data", rows)


def test_metrics_and_sequences_equal_the_attention_of_the_head(written) -> None:
    model, rows, tree = written
    patterns = [model.attention("a1.h2", row).values.astype(float) for row in rows]
    row = next(row for row in tree.rows if (row["layer"], row["head"]) == (1, 2))
    tokens = sum(map(len, rows))
    assert row["self_attention_score"] == pytest.approx(sum(np.trace(one) for one in patterns) / tokens, abs=1e-5)
    assert row["previous_token_score"] == pytest.approx(sum(np.trace(one, -1) for one in patterns) / (tokens - len(rows)), abs=1e-5)
    induction = sum(
        one[q, j + 1] for one, ids in zip(patterns, rows, strict=True) for q in range(len(ids)) for j in range(q) if ids[j] == ids[q]
    )
    assert row["induction_score"] == pytest.approx(induction / tokens, abs=1e-5)
    distances = [(q - k, one[q, k]) for one in patterns for q in range(len(one)) for k in range(q + 1)]
    mean = sum(far * weight for far, weight in distances) / tokens
    assert row["qk_distance"] == pytest.approx(mean, abs=1e-5)
    assert row["qk_distance_variance"] == pytest.approx(sum((far - mean) ** 2 * weight for far, weight in distances) / tokens, abs=1e-4)
    entropy = -sum(weight * np.log(weight) for _, weight in distances if weight > 0) / tokens
    assert row["pattern_entropy"] == pytest.approx(entropy, abs=1e-5)
    activations = [max(one[q, k] for q in range(1, len(one)) for k in range(1, q)) for one in patterns]
    head = tree.head("a1.h2")
    assert {one.interval for one in head.sequences} == set(range(1, 11))
    for one in head.sequences:
        dense = np.zeros((one.seq_len, one.seq_len))
        dense.flat[one.attention_indices] = one.attention_values
        expected = patterns[one.sequence_id].copy()
        expected[expected < 0.005] = 0
        np.testing.assert_allclose(dense, expected, atol=1e-4)
        assert one.max_activation == pytest.approx(activations[one.sequence_id], abs=1e-4) and one.tokens == [
            *map(str, rows[one.sequence_id])
        ]
    top = [one for one in head.sequences if one.interval == 10]
    assert max(one.max_activation for one in top) == pytest.approx(max(activations), abs=1e-4)
    assert min(one.max_activation for one in head.sequences if one.interval == 1) == pytest.approx(min(activations), abs=1e-4)
    assert sum(head.histogram["bin_values"]) == 23 == head.statistics["n_samples"]
    assert sum(head.qk_distance_histogram["bin_values"]) == sum(len(one.attention_values) for one in head.sequences)
    assert len(head.qk_distance_histogram["bin_edges"]) == len(head.qk_distance_histogram["bin_values"]) + 1
    assert sum(one["weight"] for one in head.top_key_tokens) <= sum(sum(one.attention_values) for one in head.sequences) + 1e-6


def test_the_tree_is_what_the_front_end_reads(written) -> None:
    model, _, tree = written
    names = sorted(str(path.relative_to(tree.folder)) for path in tree.folder.rglob("*") if path.is_file())
    heads = [f"heads/L{layer}H{head}.json" for layer in range(3) for head in range(4)]
    assert names == sorted(["config.json", "scatter_data.json", "server_config.json", "attributions/manifest.json", *heads])
    assert [path.name for path in tree.folder.parent.iterdir()] == ["data"]
    config = json.loads((tree.folder / "config.json").read_text(encoding="utf-8"))
    assert config["heads"] == [[layer, head] for layer in range(3) for head in range(4)] and config["n_intervals"] == 10
    assert set(config["metric_descriptions"]) == set(config["metrics"]) == set(tree.rows[0]) - {"layer", "head"}
    assert config["pipeline_config"]["model_identity"] == model.spec.identity() and not config["has_umap"]
    with pytest.raises(UnknownNameError, match=r"a7\.h0"):
        tree.head("a7.h0")


def test_roles_and_scores_are_columns(tmp_path) -> None:
    model = build_planted("induction-gqa").model
    table = cl.roles(model, ["induction", "k_composition"])
    batch = build_planted("induction-gqa").batch(4)
    scores = cl.methods.LogitAttribution()(model, batch, cl.metrics.LogitDiff())
    tree = cl.exports.write_headvis(model, tmp_path / "data", ROWS, roles=table, scores={"copy": scores})
    for row in tree.rows:
        at = row["layer"], row["head"]
        assert row["role_induction"] == table.scores["induction"].value[at]
        assert row["score_copy"] == pytest.approx(scores.mean()[at])
        assert row["role_k_composition"] == table.scores["k_composition"].value[at[0], at[1] // 2]
    assert "score_copy" in tree.config["metrics"] and "logit" in tree.config["metric_descriptions"]["score_copy"]
    with pytest.raises(IncompatibleError, match="not of induction-gqa as it is"):
        cl.exports.write_headvis(model, tmp_path / "other", ROWS, scores={"x": fake_scores(np.ones((2, 2, 4)))})
    assert not (tmp_path / "other").exists()


def test_only_an_empty_folder_or_a_tree_of_this_model_is_written_to(tmp_path) -> None:
    model = build_planted("induction-gqa").model
    folder = tmp_path / "data"
    folder.mkdir()
    cl.exports.write_headvis(model, folder, ROWS)
    again = cl.exports.write_headvis(model, folder, ROWS[::-1])
    assert not list(folder.rglob("*.part")) and again.head("a0.h0").statistics["n_samples"] == 10
    with pytest.raises(BadParameterError, match="holds something else than a HeadVis tree of tiny-llama"):
        cl.exports.write_headvis(tiny_model("llama"), folder, random_rows(20, 10))
    (tmp_path / "mine.txt").write_text("keep me", encoding="utf-8")
    with pytest.raises(BadParameterError, match="holds something else"):
        cl.exports.write_headvis(model, tmp_path, ROWS)
    with pytest.raises(BadParameterError, match="is a file"):
        cl.exports.write_headvis(model, tmp_path / "mine.txt", ROWS)
    for path in (folder / "heads").iterdir():
        path.unlink()
    (folder / "heads").rmdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (folder / "heads").symlink_to(outside)
    with pytest.raises(BadParameterError, match="leads out of"):
        cl.exports.write_headvis(model, folder, ROWS)
    assert not list(outside.iterdir())


def test_what_cannot_be_written_or_read_is_refused(written, tmp_path) -> None:
    _, _, tree = written
    with pytest.raises(ModelError, match=r"the HeadVis export cannot run on this model: .*no site 'pattern'"):
        cl.exports.write_headvis(tiny_model("mamba"), tmp_path / "data", ROWS)
    with pytest.raises(BadParameterError, match="9 passages have no 10 intervals"):
        cl.exports.write_headvis(build_planted("induction-gqa").model, tmp_path / "data", ROWS[:9])
    with pytest.raises(BadParameterError, match="There is no file"):
        cl.exports.read_headvis(tmp_path / "data")
    copy = tmp_path / "copy"
    for path in tree.folder.rglob("*.json"):
        target = copy / path.relative_to(tree.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    head = json.loads((copy / "heads/L0H0.json").read_text(encoding="utf-8"))
    head["sequences"][0]["attention_indices"][0] = 10**6
    (copy / "heads/L0H0.json").write_text(json.dumps(head), encoding="utf-8")
    with pytest.raises(ScoreFileError, match="does not fit its"):
        cl.exports.read_headvis(copy).head("a0.h0")
    rows = json.loads((copy / "scatter_data.json").read_text(encoding="utf-8"))
    del rows[3]["qk_distance"]
    (copy / "scatter_data.json").write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(ScoreFileError, match="lacks qk_distance for L0H3"):
        cl.exports.read_headvis(copy)
    (copy / "scatter_data.json").write_text(json.dumps(rows[1:]), encoding="utf-8")
    with pytest.raises(ScoreFileError, match=r"does not have the heads of config\.json"):
        cl.exports.read_headvis(copy)
