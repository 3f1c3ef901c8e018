"""HeadVis' data tree: what its files hold, written inside one folder and read back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from circuitlab.core.errors import BadParameterError, ScoreFileError, UnknownNameError
from circuitlab.core.nodes import Head, parse_node
from circuitlab.exports.files import read_json, write_json

__all__ = ["HeadVisHead", "HeadVisSequence", "HeadVisTree", "read_headvis", "require_own_folder", "write_tree"]

_CONFIG, _SCATTER, _HEADS = "config.json", "scatter_data.json", "heads"
_EMPTY = ("server_config.json", "attributions/manifest.json")
"""Files that hold ``{}``: nothing but static reading."""


class HeadVisSequence(msgspec.Struct, frozen=True):
    """One passage in a head's file; attention is sparse, with flat indices ``query * seq_len + key``."""

    sequence_id: int
    interval: int
    tokens: list[str]
    attention_indices: list[int]
    attention_values: list[float]
    seq_len: int
    max_activation: float


class HeadVisHead(msgspec.Struct, frozen=True):
    """A head's file."""

    sequences: list[HeadVisSequence]
    qk_distance_histogram: dict[str, list[int]]
    top_query_tokens: list[dict[str, str | float]]
    top_key_tokens: list[dict[str, str | float]]
    histogram: dict[str, list[float]]
    statistics: dict[str, float]


@dataclass(frozen=True, eq=False)
class HeadVisTree:
    """A folder that HeadVis reads.

    Parameters
    ----------
    folder : Path
        Where.
    config : dict
        ``config.json``.
    rows : list of dict
        ``scatter_data.json``: layer, head, and one number or None for every metric.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> rows = [[3, 1, 5, 2, 4, 0, 1, 5, 2, 4, 0, 3]] * 5 + [[0, 2, 1, 4, 3, 5, 2, 1, 4, 3, 5, 0]] * 5
    >>> tree = cl.exports.write_headvis(build_planted("induction-gqa").model, "data", rows)
    >>> isinstance(tree, cl.exports.HeadVisTree), tree.head("a1.h2").sequences[-1].interval
    (True, 10)
    """

    folder: Path
    config: dict[str, Any]
    rows: list[dict[str, Any]]

    def head(self, head: Head | str) -> HeadVisHead:
        """The file of a head, checked.

        Raises
        ------
        UnknownNameError
            If the tree does not have it.
        ScoreFileError
            If the file is damaged.
        """
        node = parse_node(head) if isinstance(head, str) else head
        known = [str(Head(*at)) for at in self.config["heads"]]
        if not isinstance(node, Head) or str(node) not in known:
            raise UnknownNameError("head of the tree", str(node), known)
        path = _head_file(self.folder, node.layer, node.head)
        found: HeadVisHead = read_json(path, HeadVisHead)
        for one in found.sequences:
            _require_sequence(path, one, self.config["n_intervals"])
        return found


def write_tree(
    folder: Path, config: Mapping[str, Any], rows: list[dict[str, Any]], heads: Iterable[tuple[tuple[int, int], HeadVisHead]]
) -> HeadVisTree:
    """Write every file in one step each, the configuration last, and read the tree back.

    Raises
    ------
    StoreError
        If the folder cannot be written.
    """
    for name in _EMPTY:
        write_json(folder / name, {})
    for (layer, head), one in heads:
        write_json(_head_file(folder, layer, head), one)
    write_json(folder / _SCATTER, rows)
    write_json(folder / _CONFIG, dict(config), indent=2)
    return read_headvis(folder)


def read_headvis(folder: str | Path) -> HeadVisTree:
    """Read a tree: every head has its row with every metric, and its file; files of heads are read when they are asked for.

    Raises
    ------
    BadParameterError
        If a file is missing.
    ScoreFileError
        If configuration and rows do not fit each other.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> rows = [[3, 1, 5, 2, 4, 0, 1, 5, 2, 4, 0, 3]] * 10
    >>> _ = cl.exports.write_headvis(build_planted("induction-gqa").model, "data", rows)
    >>> len(cl.exports.read_headvis("data").rows)
    8
    """
    where = Path(folder)
    config, rows = read_json(where / _CONFIG, dict[str, Any]), read_json(where / _SCATTER, list[dict[str, Any]])
    if lacks := {"heads", "metrics", "n_intervals", "model_name", "head_data_pattern"} - set(config):
        raise ScoreFileError(f"{where / _CONFIG} lacks {', '.join(sorted(lacks))}.", "Write the export again.")
    heads = [tuple(at) for at in config["heads"]]
    if [(row.get("layer"), row.get("head")) for row in rows] != heads:
        raise ScoreFileError(f"{where / _SCATTER} does not have the heads of {_CONFIG}, in its order.", "Write the export again.")
    for row in rows:
        if lacks := set(config["metrics"]) - set(row):
            what = f"{where / _SCATTER} lacks {', '.join(sorted(lacks))} for L{row['layer']}H{row['head']}."
            raise ScoreFileError(what, "Write the export again.")
    for layer, head in heads:
        if not _head_file(where, layer, head).is_file():
            raise BadParameterError(f"There is no file {_head_file(where, layer, head)}.", "Write the export again.")
    return HeadVisTree(where, config, rows)


def require_own_folder(folder: Path, model: str) -> None:
    """Raise `BadParameterError` unless a folder is new or empty, or holds a tree of this model, and its parts lie inside it."""
    if folder.exists() and not folder.is_dir():
        raise BadParameterError(f"{folder} is a file.", "Name a folder.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    config = read_json(folder / _CONFIG, dict[str, Any]) if (folder / _CONFIG).is_file() else {}
    if config.get("model_name") != model or "heads" not in config:
        raise BadParameterError(f"{folder} holds something else than a HeadVis tree of {model}.", "Name a new folder.")
    for part in (_HEADS, "attributions"):
        if not (folder / part).resolve().is_relative_to(folder.resolve()):
            raise BadParameterError(f"{folder / part} leads out of {folder}.", "Name a new folder.")


def _head_file(folder: Path, layer: int, head: int) -> Path:
    return folder / _HEADS / f"L{layer}H{head}.json"


def _require_sequence(path: Path, one: HeadVisSequence, n_intervals: int) -> None:
    inside = all(0 <= index < one.seq_len**2 and index % one.seq_len <= index // one.seq_len for index in one.attention_indices)
    shapes = len(one.tokens) == one.seq_len and len(one.attention_indices) == len(one.attention_values)
    if not (inside and shapes and 1 <= one.interval <= n_intervals):
        raise ScoreFileError(f"Sequence {one.sequence_id} of {path} does not fit its {one.seq_len} tokens.", "Write the export again.")
