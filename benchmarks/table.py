"""Rewrite the README's table of speed from benchmarks/results/patching.jsonl and scaling.jsonl: `.venv/bin/python benchmarks/table.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from marked_table import MarkedTable

__all__ = ["PLACE", "page", "scaling", "table"]

ROOT = Path(__file__).parents[1]
PLACE = MarkedTable("speed", "table.py")
RESULTS = ROOT / "benchmarks/results"
_AXES = {
    "pairs": "pairs",
    "length": "prompt length, prompts that differ near their end",
    "length_early": "prompt length, prompts that differ from their beginning",
    "layers": "layers",
    "heads": "heads",
}
_WORDS = {
    "heads_s2": "all 270 heads, 16 pairs that differ late",
    "heads_abc": "all 270 heads, 8 pairs that differ early",
    "heads_long": "all 270 heads, 8 prompts of 105 tokens",
    "heads_by_position": "every head at every position, 16 pairs",
    "resid_by_position": "residual stream by position, 16 pairs",
    "attn_by_position": "attention output by position, 16 pairs",
    "mlp_by_position": "MLP output by position, 16 pairs",
    "q": "queries of all heads, 8 pairs",
    "k": "keys of all key/value heads, 8 pairs",
    "v": "values of all key/value heads, 8 pairs",
    "pattern": "attention patterns of all heads, 8 pairs",
    "path_to_logits": "paths from all heads to the logits, 8 pairs",
    "atp": "attribution patching, heads and MLPs, 16 pairs",
    "atp_star": "AtP*, 16 pairs",
    "relp": "RelP, 16 pairs",
    "eap": "edge attribution, all typed edges, 16 pairs",
    "eap_ig": "the same with integrated gradients, 5 steps",
    "heads_s2_bf16": "all 270 heads, 16 pairs, differences in bf16",
}


def table(lines: list[dict[str, Any]]) -> str:
    """The table in Markdown."""
    names = ("sweep", "seconds", "TransformerLens", "ratio", "of GEMM rate", "peak memory (theirs)", "max difference", "rank correlation")
    rows = ["| " + " | ".join(names) + " |", "|---|---|---|---|---|---|---|---|"]
    for line in lines:
        cells = [
            _WORDS[line["sweep"]],
            f"{line['seconds']:.1f}",
            _or_dash(line["peer_seconds"], "{:.0f}"),
            _or_dash(line["ratio"], "**{:.1f}**"),
            _or_dash(line["efficiency"], "{:.0%}"),
            f"{line['peak_mb'] / 1024:.1f} GB ({_or_dash(line['peer_peak_mb'] and line['peer_peak_mb'] / 1024, '{:.1f} GB')})",
            _or_dash(line["max_abs_diff"], "{:.0e}"),
            _or_dash(line.get("rank_correlation"), "{:.3f}"),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def scaling(lines: list[dict[str, Any]]) -> str:
    """One sentence: the measured exponent of every axis."""
    found = "; ".join(f"{_AXES[line['axis']]} ({line['sizes'][0]} to {line['sizes'][-1]}): {line['exponent']:.1f}" for line in lines)
    return f"Patching every head, seconds grow as a power of {found}."


def page() -> str:
    """What stands between the two marks, from the stored lines."""
    return f"{table(_lines('patching.jsonl'))}\n\n{scaling(_lines('scaling.jsonl'))}"


def _lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RESULTS / name).read_text(encoding="utf-8").splitlines()]


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def main() -> None:
    """Rewrite the README."""
    PLACE.write(page())


if __name__ == "__main__":
    main()
