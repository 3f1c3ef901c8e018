"""RazorAttention's list: the key/value heads whose cache is kept whole, and how the others are cut."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from circuitlab.core.errors import ScoreFileError
from circuitlab.core.provenance import ModelSpec
from circuitlab.exports.files import read_json, require_shape, write_json
from circuitlab.exports.kv_heads import kv_values, require_share
from circuitlab.scores.role_table import RoleTable

__all__ = ["RazorAttentionHeads", "read_razor_attention", "write_razor_attention"]

_FORMAT = "circuitlab RazorAttention"
_SINKS, _LEAST, _COMPRESSION = 4, 4000, 5.0
"""Of the cache; the number of sinks is not given in the paper, and 4 is StreamingLLM's."""


class RazorAttentionHeads(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which caches are kept whole, and how the others are cut.

    Parameters
    ----------
    format : str
        What the file is.
    version : int
        Of this layout.
    model : str
        Name of the model.
    n_layers, n_kv_heads : int
        Its shape.
    echo_heads, induction_heads : list of (int, int)
        Layer and key/value head of those chosen by each score.
    retrieval_heads : list of (int, int)
        Their union: these keep the whole cache.
    echo_share, induction_share : float
        Shares of key/value heads that were chosen.
    sink_tokens : int
        First tokens that the others keep.
    least_recent : int
        Last tokens that they keep at least; of a text of n tokens they keep ``max(least_recent, n / compression)``.
    compression : float
        See there.
    compensation_token : bool
        Whether dropped tokens are replaced by one with their mean key and value, counted as often as there were tokens.
    scores : str
        What heads were ranked by.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> table = cl.roles(build_planted("induction-gqa").model, ["echo", "induction"])
    >>> isinstance(cl.exports.write_razor_attention(table, "razor.json"), cl.exports.RazorAttentionHeads)
    True
    """

    model: str
    n_layers: int
    n_kv_heads: int
    echo_heads: list[tuple[int, int]]
    induction_heads: list[tuple[int, int]]
    retrieval_heads: list[tuple[int, int]]
    echo_share: float
    induction_share: float
    scores: str
    sink_tokens: int = _SINKS
    least_recent: int = _LEAST
    compression: float = _COMPRESSION
    compensation_token: bool = True
    format: str = _FORMAT
    version: int = 1


def write_razor_attention(
    table: RoleTable, path: str | Path, *, echo: float = 0.01, induction: float = 0.14, compensation: bool = True
) -> RazorAttentionHeads:
    """Write the union of the key/value heads with the largest echo and induction values, as JSON.

    Parameters
    ----------
    table : RoleTable
        With the roles ``echo`` and ``induction``.
    path : str or Path
        The file.
    echo, induction : float
        Share of key/value heads taken by each score; at least one head. Equal values are taken in forward order.
    compensation : bool
        Whether readers are to put a compensation token in the place of what they drop.

    Returns
    -------
    RazorAttentionHeads
        What was written, as it is read back.

    Raises
    ------
    UnknownNameError
        If one of the roles was not measured.
    BadParameterError
        If a share is impossible.
    StoreError
        If the file cannot be written.

    Notes
    -----
    RazorAttention has no released reader and no file format: this one is our own, stated by `RazorAttentionHeads`, and was checked against
    none. Shares, the 4000 recent tokens and the factor of 5 are the paper's; the number of sink tokens is not in it. The paper averages
    attention over whole patterns of 2500 random tokens repeated four times; the roles here take the mean attention of queries that have a
    target, on shorter repetitions, of which the order of heads may differ. The score of a key/value head is the largest in its group.
    Tang et al. (2024), arXiv:2407.15891.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> table = cl.roles(build_planted("induction-gqa").model, ["echo", "induction"])
    >>> cl.exports.write_razor_attention(table, "razor.json").induction_heads
    [(1, 1)]
    """
    for name, share in (("echo", echo), ("induction", induction)):
        require_share(name, share)
    chosen = {name: _largest(kv_values(table, name), share) for name, share in (("echo", echo), ("induction", induction))}
    spec, file = table.model, Path(path)
    found = RazorAttentionHeads(
        model=spec.name,
        n_layers=spec.n_layers,
        n_kv_heads=spec.n_kv_heads,
        echo_heads=chosen["echo"],
        induction_heads=chosen["induction"],
        retrieval_heads=sorted({*chosen["echo"], *chosen["induction"]}),
        echo_share=echo,
        induction_share=induction,
        scores="; ".join(f"{name}: {table.scores[name].provenance.estimand}, the largest of the group" for name in chosen),
        compensation_token=compensation,
    )
    write_json(file, found, indent=2)
    return read_razor_attention(file, spec)


def _largest(values: np.ndarray, share: float) -> list[tuple[int, int]]:
    """Layer and head of the largest values, in forward order."""
    order = np.argsort(-values, axis=None, kind="stable")[: max(1, round(share * values.size))]
    return sorted((int(place) // values.shape[1], int(place) % values.shape[1]) for place in order)


def read_razor_attention(path: str | Path, model: ModelSpec | None = None) -> RazorAttentionHeads:
    """Read a list of heads.

    Parameters
    ----------
    path : str or Path
        The file.
    model : ModelSpec, optional
        Whose layers and key/value heads it must have.

    Raises
    ------
    BadParameterError
        If there is no such file.
    ScoreFileError
        If it is no such list, names a head that the model does not have, or its union is not that of its parts.
    IncompatibleError
        If it has other layers or heads than the model.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> table = cl.roles(build_planted("induction-gqa").model, ["echo", "induction"])
    >>> written = cl.exports.write_razor_attention(table, "razor.json")
    >>> cl.exports.read_razor_attention("razor.json") == written
    True
    """
    file = Path(path)
    found: RazorAttentionHeads = read_json(file, RazorAttentionHeads)
    if (found.format, found.version) != (_FORMAT, 1):
        raise ScoreFileError(f"{file} is {found.format!r}, version {found.version}.", f"This version reads {_FORMAT!r}, version 1.")
    heads = [*found.echo_heads, *found.induction_heads]
    if outside := [one for one in heads if not (0 <= one[0] < found.n_layers and 0 <= one[1] < found.n_kv_heads)]:
        what = f"{file} names key/value head {outside[0]} of {found.n_layers} layers of {found.n_kv_heads}."
        raise ScoreFileError(what, "Write the export again.")
    if found.retrieval_heads != sorted(set(heads)):
        raise ScoreFileError(f"retrieval_heads of {file} is not the union of echo_heads and induction_heads.", "Write the export again.")
    require_shape(file, (found.n_layers, found.n_kv_heads), model)
    return found
