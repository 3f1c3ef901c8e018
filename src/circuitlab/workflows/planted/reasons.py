"""Where a method cannot see a planted circuit, and why: one sentence each. A test checks that each of these is still needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from circuitlab.model.toy import PlantedModel

__all__ = ["REASONS", "why_invisible"]

_DIRECT = "It measures direct effects on the logits only, and {} act only through a later node."
_SATURATED = "The attention of {} is saturated in both prompts: its slope, which is all that relevance passes on there, is next to nothing."
_FLAT = (
    "The attention of {} is saturated in both prompts: its slope is next to nothing, and what is left is the slope of the norms' scale, "
    "which has nothing to do with the effect of a swap."
)
_SCALE = "To first order the loud head changes the scale of the final norm, although swapped as a whole it leaves the scale as it was."
_DROPPED = "Of two layers the only gradient in the mean drops the second, through which alone a node of the first acts."

_WRITTEN = "It sees what heads write and not what is read: heads that write other tokens' features on clean prompts score, too."

_COPIES = "It sees which heads copy the tokens that they read, and {} do other work."

_BY_QUERY_OR_KEY = {
    "induction": ("the induction head", "the previous-token head's writes"),
    "names": ("the movers", "the duplicate-token and inhibition heads"),
    "blocker": ("the blocked head", "the blocker's writes"),
}

REASONS: dict[tuple[str, str], str] = {
    ("random", "*"): "It knows nothing of the model: the baseline.",
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
"""By method and circuit, or model where the forms differ; ``"*"`` stands for every circuit."""

_SEES_BACKUPS = frozenset({"eap_ig"})
"""Methods that find two heads that back each other up: gradients on the way between the prompts meet the place where both still count."""


def why_invisible(method: str, planted: PlantedModel) -> str:
    """Why a method cannot find every true node of a planted model; empty where it can.

    Parameters
    ----------
    method : str
        Name of the method.
    planted : PlantedModel
        What it is run on.
    """
    for place in (planted.name, planted.circuit, "*"):
        if reason := REASONS.get((method, place)):
            return reason
    return "" if method in _SEES_BACKUPS else planted.reason
