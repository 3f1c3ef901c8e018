"""Why a method cannot see a planted circuit, in one sentence each. A test checks that each of these is still needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from circuitlab.model.toy import PlantedModel

__all__ = ["REASONS", "why_invisible"]

_DIRECT = "It measures direct effects on the logits only, and {} act only through a later node."
_SATURATED = (
    "The attention of {} is saturated in both prompts, so its slope, the only thing that relevance passes on there, is almost zero."
)
_FLAT = (
    "The attention of {} is saturated in both prompts: its slope is almost zero, and what remains is the slope of the norms' scale, "
    "which is unrelated to the effect of a swap."
)
_SCALE = "To first order the loud head changes the scale of the final norm, although a swap does not change that scale."
_DROPPED = "With two layers the only gradient in the mean drops the second layer, and a node of the first acts only through it."

_WRITTEN = "It measures what heads write, not what is read: heads that write other tokens' features on clean prompts score, too."

_COPIES = "It measures which heads copy the tokens that they read, and {} do other work."

_BY_QUERY_OR_KEY = {
    "induction": ("the induction head", "the previous-token head's writes"),
    "names": ("the movers", "the duplicate-token and inhibition heads"),
    "blocker": ("the blocked head", "the blocker's writes"),
}

REASONS: dict[tuple[str, str], str] = {
    ("random", "*"): "It does not depend on what the model computes: the baseline.",
    ("copying_score", "induction"): _COPIES.format("previous-token heads"),
    ("copying_score", "successor"): _COPIES.format("successor heads"),
    ("copying_score", "names"): _COPIES.format("duplicate-token and inhibition heads"),
    ("copying_score", "blocker"): _COPIES.format("blockers"),
    ("logit_attribution", "successor"): _DIRECT.format("the first MLP's numbers"),
    ("logit_attribution", "backup"): _DIRECT.format("the heads below the MLP"),
    **{("logit_attribution", circuit): _DIRECT.format(nodes) for circuit, (_, nodes) in _BY_QUERY_OR_KEY.items()},
    **{("attribution_patching", circuit): _FLAT.format(heads) for circuit, (heads, _) in _BY_QUERY_OR_KEY.items()},
    **{("relp", circuit): _SATURATED.format(heads) for circuit, (heads, _) in _BY_QUERY_OR_KEY.items()},
    **{("eap", circuit): _FLAT.format(_BY_QUERY_OR_KEY[circuit][0]) for circuit in ("induction", "names")},
    ("atp_star", "names"): _FLAT.format("the movers"),
    **{("atp_star", circuit): _DROPPED for circuit in ("induction", "blocker", "successor")},
    **{(method, "distractor"): _SCALE for method in ("attribution_patching", "atp_star", "eap")},
    **{
        ("code_overlap", circuit): _WRITTEN
        for circuit in ("copy", "distractor", "shared_group", "induction", "successor", "names", "backup")
    },
}
"""By method and circuit, or method and model if the two forms differ; ``"*"`` stands for every circuit."""

_SEES_BACKUPS = frozenset({"eap_ig"})
"""Methods that find two heads that back up each other: gradients are taken along a path on which both heads still matter."""


def why_invisible(method: str, planted: PlantedModel) -> str:
    """Why a method cannot find every true node of a planted model; empty if it can.

    Parameters
    ----------
    method : str
        Name of the method.
    planted : PlantedModel
        The planted model.
    """
    for place in (planted.name, planted.circuit, "*"):
        if reason := REASONS.get((method, place)):
            return reason
    return "" if method in _SEES_BACKUPS else planted.reason
