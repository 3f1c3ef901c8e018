"""DuoAttention's table: which key/value heads need full attention, and which do with a sink and recent tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from circuitlab.core.errors import BadParameterError, IncompatibleError, ScoreFileError
from circuitlab.core.files import read_bytes, replace_file
from circuitlab.core.provenance import ModelSpec
from circuitlab.exports.files import read_json, require_shape, write_json
from circuitlab.exports.kv_heads import kv_values, require_share
from circuitlab.scores.role_table import RoleTable

__all__ = ["DuoAttentionGates", "read_duo_attention", "write_duo_attention"]

_TABLE, _CONFIG = "full_attention_heads.tsv", "config.json"
_OUTSIDE = 0.01
"""How far learned gates may lie outside [0, 1]; released ones do, by 0.0001."""


@dataclass(frozen=True, eq=False)
class DuoAttentionGates:
    """A folder of DuoAttention.

    Parameters
    ----------
    values : ndarray, shape (layer, kv_head)
        Gates in [0, 1]: 1 is full attention, 0 a sink and recent tokens.
    sink_size, recent_size : int
        Tokens that heads with a gate of 0 keep.
    config : dict
        Everything in ``config.json``.

    Examples
    --------
    >>> import numpy as np
    >>> from circuitlab.exports import DuoAttentionGates
    >>> DuoAttentionGates(np.array([[1.0, 0.0], [0.0, 0.0]]), 64, 256, {}).full()
    [(0, 0)]
    """

    values: np.ndarray
    sink_size: int
    recent_size: int
    config: dict[str, Any]

    def full(self, threshold: float = 0.5) -> list[tuple[int, int]]:
        """Layer and key/value head of every gate of at least the threshold."""
        return [(int(layer), int(head)) for layer, head in np.argwhere(self.values >= threshold)]


def write_duo_attention(
    table: RoleTable,
    folder: str | Path,
    *,
    roles: Sequence[str] | str = "induction",
    full: float | None = 0.5,
    sink_size: int = 64,
    recent_size: int = 256,
) -> DuoAttentionGates:
    """Write ``full_attention_heads.tsv`` and ``config.json`` as DuoAttention's ``load_attn_pattern`` reads them.

    Parameters
    ----------
    table : RoleTable
        With the roles.
    folder : str or Path
        Where the two files go.
    roles : sequence of str, or str
        The value of a key/value head is the largest of these roles' values in its group of query heads.
    full : float, optional
        Share of key/value heads that get full attention, those with the largest values: their gate is 1 and that of the others 0. More than
        that where values are equal. The paper uses 0.5 with grouped queries and 0.25 without. With None the values themselves are
        written, for a reader that chooses its own quantile.
    sink_size, recent_size : int
        Tokens that the other heads keep; the paper's settings in use.

    Returns
    -------
    DuoAttentionGates
        What was written, as it is read back.

    Raises
    ------
    UnknownNameError
        If a role was not measured.
    BadParameterError
        If a setting is impossible, or values that are to be written as they are lie outside [0, 1].
    IncompatibleError
        If the model has one layer, or one key/value head a layer: DuoAttention's reader drops an axis of length 1.
    StoreError
        If the folder cannot be written.

    Notes
    -----
    DuoAttention learns its gates; here they are read off roles, which is another estimand: a head that copies on random tokens needs the
    whole text, while others may, too. The layout was checked against mit-han-lab/duo-attention at commit 03dca84: one line per layer,
    numbers by ``numpy.savetxt`` with tabs between, read with ``numpy.loadtxt`` and clipped to [0, 1]; of ``config.json``, ``sink_size`` and
    ``recent_size`` are read. Xiao et al. (2025), DuoAttention, arXiv:2410.10819.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> table = cl.roles(build_planted("induction-gqa").model, "induction")
    >>> cl.exports.write_duo_attention(table, "duo", full=0.25).full()
    [(1, 1)]
    """
    spec, values = table.model, kv_values(table, roles)
    if min(values.shape) < 2:  # noqa: PLR2004 - an axis of length 1 is dropped
        what = (
            f"{spec.name} has {spec.n_layers} layers of {spec.n_kv_heads} key/value heads; DuoAttention's reader drops an axis of length 1."
        )
        raise IncompatibleError(what, "Use the CSV export.")
    if sink_size < 0 or recent_size < 1:
        raise BadParameterError(f"sink_size={sink_size}, recent_size={recent_size} keep no recent token.", "Use 64 and 256.")
    gates, threshold = _gates(values, full, roles)
    about = {"made_by": "circuitlab", "roles": [roles] if isinstance(roles, str) else list(roles), "full": full, "threshold": threshold}
    config = {"model_name": spec.name, "sink_size": sink_size, "recent_size": recent_size, "circuitlab": about}
    where = Path(folder)
    replace_file(where / _TABLE, lambda target: np.savetxt(target, gates, delimiter="\t"))
    write_json(where / _CONFIG, config, indent=2)
    return read_duo_attention(where, spec)


def _gates(values: np.ndarray, full: float | None, roles: Sequence[str] | str) -> tuple[np.ndarray, float | None]:
    """Gates, and the least value that gets full attention."""
    if full is None:
        if values.min() < 0 or values.max() > 1:
            what = f"Values of {roles} reach from {values.min():.3g} to {values.max():.3g}; gates lie in [0, 1]."
            raise BadParameterError(what, "Give a share of heads: full=0.5.")
        return values, None
    require_share("full", full)
    threshold = float(np.sort(values, axis=None)[-max(1, round(full * values.size))])
    return (values >= threshold).astype(float), threshold


def read_duo_attention(folder: str | Path, model: ModelSpec | None = None) -> DuoAttentionGates:
    """Read a folder of DuoAttention, of this package or a released one; gates are clipped to [0, 1], as its own reader does.

    Parameters
    ----------
    folder : str or Path
        With ``full_attention_heads.tsv`` and ``config.json``.
    model : ModelSpec, optional
        Whose layers and key/value heads it must have.

    Raises
    ------
    BadParameterError
        If a file is missing.
    ScoreFileError
        If the table is none: lines of different lengths, no numbers, or numbers far outside [0, 1].
    IncompatibleError
        If it has other layers or heads than the model.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> model = build_planted("induction-gqa").model
    >>> _ = cl.exports.write_duo_attention(cl.roles(model, "echo"), "duo", roles="echo")
    >>> cl.exports.read_duo_attention("duo", model.spec).values.shape
    (2, 2)
    """
    where = Path(folder)
    config = read_json(where / _CONFIG, dict)
    sizes = [config.get(name) for name in ("sink_size", "recent_size")]
    if not all(isinstance(size, int) for size in sizes):
        raise ScoreFileError(f"{where / _CONFIG} has no sink_size or recent_size.", "Write the export again.")
    data = read_bytes(where / _TABLE)
    if data is None:
        raise BadParameterError(f"There is no file {where / _TABLE}.", "Check the name, or write the export again.")
    values = _table(where / _TABLE, data)
    require_shape(where / _TABLE, values.shape, model)
    return DuoAttentionGates(np.clip(values, 0, 1), int(config["sink_size"]), int(config["recent_size"]), config)


def _table(path: Path, data: bytes) -> np.ndarray:
    """The numbers; problems are named by line."""
    rows: list[list[float]] = []
    for number, line in enumerate(data.decode(errors="replace").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append([float(cell) for cell in line.split("\t")])
        except ValueError as error:
            raise ScoreFileError(f"Line {number} of {path} is no row of numbers: {error}.", "Use tabs between numbers.") from error
        if len(rows[-1]) != len(rows[0]):
            what = f"Line {number} of {path} has {len(rows[-1])} heads, the first {len(rows[0])}."
            raise ScoreFileError(what, "Every layer has the same number of key/value heads.")
        if not all(-_OUTSIDE <= value <= 1 + _OUTSIDE for value in rows[-1]):
            raise ScoreFileError(f"Line {number} of {path} has numbers outside [0, 1].", "These are no gates.")
    if not rows:
        raise ScoreFileError(f"{path} is empty.", "Write the export again.")
    return np.array(rows)
