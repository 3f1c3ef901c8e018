"""Roles and scores of heads side by side as CSV."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitlab.core.errors import BadParameterError, IncompatibleError, ScoreFileError
from circuitlab.core.files import replace_file
from circuitlab.core.nodes import Head, KVHead, Node
from circuitlab.core.provenance import ModelSpec
from circuitlab.scores.head_scores import HeadScores
from circuitlab.scores.role_table import RoleTable

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["columns_of_heads", "read_csv", "write_csv"]

_FIRST = ["node", "layer", "head", "kv_head"]
_OF_ROLE = ("value", "low", "high", "q", "earned")
_OF_SCORE = ("mean", "low", "high")


def write_csv(path: str | Path, roles: RoleTable | None = None, scores: Mapping[str, HeadScores] | None = None) -> pd.DataFrame:
    """Write roles and scores of a model's heads, one row per head.

    Parameters
    ----------
    path : str or Path
        The file.
    roles : RoleTable, optional
        Gives ``role.<name>.value``, ``.low``, ``.high``, ``.q`` and ``.earned`` for every role.
    scores : mapping of str to HeadScores, optional
        Scores by a name for their columns: ``score.<name>.mean``, ``.low`` and ``.high``.

    Returns
    -------
    DataFrame
        What was written, as it is read back: ``node``, ``layer``, ``head``, ``kv_head`` (of the group), then those columns. Roles of
        key/value heads stand in rows of their own (``a9.kv2``), without ``head``.

    Raises
    ------
    BadParameterError
        If neither is given, or scores are resolved by mark.
    IncompatibleError
        If they are of different models.
    StoreError
        If the file cannot be written.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> table = cl.roles(build_planted("induction-gqa").model, ["induction"])
    >>> frame = cl.exports.write_csv("heads.csv", table)
    >>> frame.set_index("node").loc["a1.h2", "role.induction.earned"].item()
    True
    """
    import pandas as pd  # noqa: PLC0415 - pandas is slow to import

    spec, columns = columns_of_heads(roles, scores)
    group = spec.n_heads // spec.n_kv_heads
    nodes: list[Node] = [Head(layer, head) for layer in range(spec.n_layers) for head in range(spec.n_heads)]
    shared = {node for by_node in columns.values() for node in by_node if isinstance(node, KVHead)}
    in_order: list[KVHead] = sorted(shared, key=lambda node: (node.layer, node.head))
    nodes += in_order
    rows = []
    for node in nodes:
        assert isinstance(node, Head | KVHead)  # noqa: S101 - heads have no other nodes
        of_group = node.head if isinstance(node, KVHead) else node.head // group
        row: dict[str, Any] = dict(
            zip(_FIRST, (str(node), node.layer, None if isinstance(node, KVHead) else node.head, of_group), strict=True)
        )
        rows.append(row | {name: by_node.get(node) for name, by_node in columns.items()})
    frame = pd.DataFrame(rows).astype({"head": "Int64"})
    replace_file(Path(path), lambda target: frame.to_csv(target, index=False))
    return read_csv(path)


def columns_of_heads(
    roles: RoleTable | None, scores: Mapping[str, HeadScores] | None
) -> tuple[ModelSpec, dict[str, dict[Node, float | bool | None]]]:
    """The model, and what is known of its heads by column.

    Raises
    ------
    BadParameterError
        If neither is given, or scores are resolved by mark.
    IncompatibleError
        If they are of different models.
    """
    named = dict(scores or {})
    specs = ([roles.model] if roles is not None else []) + [one.provenance.model for one in named.values()]
    if not specs:
        raise BadParameterError("Neither roles nor scores were given.", "Give one of them.")
    if others := [spec.name for spec in specs if spec.identity() != specs[0].identity()]:
        raise IncompatibleError(f"Roles and scores are of {specs[0].name} and of another model, {others[0]}.", "Give those of one model.")
    columns: dict[str, dict[Node, float | bool | None]] = {}
    for role in roles.scores if roles is not None else ():
        assert roles is not None  # noqa: S101 - it has scores
        for one in roles.entries(role):
            for part in _OF_ROLE:
                columns.setdefault(f"role.{role}.{part}", {})[one.node] = getattr(one, part)
    for name, of_name in named.items():
        for node in of_name.nodes("heads"):
            for part in _OF_SCORE:
                columns.setdefault(f"score.{name}.{part}", {})[node.node] = getattr(node, part)
    return specs[0], columns


def read_csv(path: str | Path) -> pd.DataFrame:
    """Read a table of heads, with the numbers that were written.

    Raises
    ------
    BadParameterError
        If there is no such file.
    ScoreFileError
        If it is no table of heads.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> written = cl.exports.write_csv("heads.csv", cl.roles(build_planted("induction-gqa").model, ["echo"]))
    >>> cl.exports.read_csv("heads.csv").equals(written)
    True
    """
    import pandas as pd  # noqa: PLC0415

    file = Path(path)
    if not file.is_file():
        raise BadParameterError(f"There is no file {file}.", "Check the name, or write the export again.")
    try:
        frame = pd.read_csv(file, float_precision="round_trip")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ScoreFileError(f"{file} is no table: {error}.", "Write the export again.") from error
    if list(frame.columns[: len(_FIRST)]) != _FIRST:
        raise ScoreFileError(
            f"{file} begins with the columns {', '.join(frame.columns[:4])}.", f"A table of heads has {', '.join(_FIRST)}."
        )
    return frame.astype({"head": "Int64"})
