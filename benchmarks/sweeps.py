"""What each line of the patching benchmark runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["EXACT", "SWEEPS", "Sweep"]


@dataclass(frozen=True)
class Sweep:
    """One line: prompts, method, and the peer's kind of sweep (None where TransformerLens has none for grouped-query models)."""

    prompts: tuple[str, int]
    method: str
    params: dict[str, Any]
    part: str = "heads"
    peer: str | None = None

    @property
    def by_position(self) -> bool:
        """Whether every position is patched alone."""
        return self.params.get("positions") == ("each",)


def _patch(prompts: tuple[str, int], peer: str | None, part: str = "heads", params: dict[str, Any] | None = None) -> Sweep:
    shared = part == "kv_heads"
    return Sweep(prompts, "activation_patching", {"parts": ("heads" if shared else part,), **(params or {})}, part, peer)


_EACH = {"positions": ("each",)}
SWEEPS: dict[str, Sweep] = {
    "heads_s2": _patch(("s2", 16), "heads"),
    "heads_abc": _patch(("abc", 8), "heads"),
    "heads_long": _patch(("long", 8), "heads"),
    "heads_by_position": _patch(("s2", 16), "heads_by_position", params=_EACH),
    "resid_by_position": _patch(("s2", 16), "resid_by_position", "resid_pre", _EACH),
    "attn_by_position": _patch(("s2", 16), "attn_by_position", "attns", _EACH),
    "mlp_by_position": _patch(("s2", 16), "mlp_by_position", "mlps", _EACH),
    "q": _patch(("s2", 8), "q", params={"site": "q"}),
    "k": _patch(("s2", 8), "k", "kv_heads", {"site": "k"}),
    "v": _patch(("s2", 8), "v", "kv_heads", {"site": "v"}),
    "pattern": _patch(("s2", 8), "pattern", params={"site": "pattern"}),
    "path_to_logits": Sweep(("s2", 8), "path_patching", {"senders": ("heads",)}),
    "atp": Sweep(("s2", 16), "attribution_patching", {"parts": ("heads", "mlps")}, peer="attribution"),
    "atp_star": Sweep(("s2", 16), "atp_star", {}),
    "relp": Sweep(("s2", 16), "relp", {}),
    "eap": Sweep(("s2", 16), "eap", {}),
    "eap_ig": Sweep(("s2", 16), "eap_ig", {"steps": 5}),
    "heads_s2_bf16": _patch(("s2", 16), "heads", params={"precision": "bf16_difference"}),
}
"""Every line by name."""

EXACT: dict[str, Sweep] = {
    "denoising": SWEEPS["heads_s2"],
    "noising": _patch(("s2", 16), None, params={"direction": "noising"}),
}
"""Exact patching of the same prompts, by direction: what estimates are ranked against."""
