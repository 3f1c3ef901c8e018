"""``circuitlab compare --transfer`` runs every circuit on every task."""

from __future__ import annotations

import json

from .conftest import command


def test_the_document_and_the_text(world, checkpoint) -> None:
    shared = ("compare", "colors", "shades", "--model", str(checkpoint), "-n", "3", "-k", "3")
    plain = command(*shared, "--json")
    assert plain.code == 0, plain.err
    assert json.loads(plain.out)["transfer"] is None
    result = command(*shared, "--transfer", "--transfer-pairs", "3", "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)["transfer"]
    assert [(cell["circuit"], cell["task"]) for cell in found["cells"]] == [(a, b) for a in found["tasks"] for b in found["tasks"]]
    assert set(found["cells"][0]["faithfulness"]) == {"mean", "low", "high"} and found["cells"][0]["random"]["n"] == 50
    assert len(found["per_pair"]["colors"]["circuits"]["shades"]) == 3
    assert found["dissociation"]["pairs"][0]["verdict"] in {"double", "single", "none", "same", "no gap"}
    assert found["conventions"]["prompts of colors"].startswith("3 fresh pairs")
    assert list((world / "runs" / "circuits").glob("*.npz")), "circuits that were run are kept"
    said = command(*shared, "--transfer", "--transfer-pairs", "3").out
    assert "Faithfulness of each circuit" in said and "random (n=50)" in said and "dissociation" in said
