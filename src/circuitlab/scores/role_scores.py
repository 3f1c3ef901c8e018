"""RoleScores: how far every head plays a role, with an interval, what chance gives, and whether the role is earned."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from circuitlab.core.errors import BadParameterError, ScoreFileError
from circuitlab.core.nodes import Head, KVHead, Node
from circuitlab.core.provenance import ModelSpec
from circuitlab.scores.intervals import Interval, mean_interval

__all__ = ["LEVEL", "Null", "RoleProvenance", "RoleScores"]

LEVEL = 0.05
"""False discovery rate over the heads of a role, and the tail of the null that a head must leave."""

_ROUNDING = 1e-4
"""By how much rounding may carry a value beyond the smallest or the largest possible one."""

Per: TypeAlias = Literal["head", "kv_head"]


@dataclass(frozen=True, kw_only=True)
class RoleProvenance:
    """Where a role's values come from.

    Parameters
    ----------
    role : str
        Name of the role, as in ``circuitlab heads roles --roles NAME``.
    params : dict
        Every effective parameter, defaults included.
    estimand : str
        In words, what the value estimates.
    units : str
        Of the value, for example ``"share of attention"``.
    threshold : float
        The least value that earns the role, if it also stands clear of chance.
    null : str
        In words, what chance is: the control or the permutation that values are compared with.
    sample : str
        What a sample is, in the plural (``"random sequences"``, ``"passages"``); empty for a role read off the weights alone.
    digest : str
        SHA-256 of what was run (token ids), empty for weights alone.
    model : ModelSpec
        The model.
    cite : tuple of str
        BibTeX keys.
    kind : str
        ``"attention"``, ``"weights"`` or ``"behaviour"``: what it is read from.
    within : tuple of float or None
        The smallest and the largest possible value; None where there are none.
    """

    role: str
    params: dict[str, Any]
    estimand: str
    units: str
    threshold: float
    null: str
    sample: str
    digest: str
    model: ModelSpec
    cite: tuple[str, ...] = ()
    kind: str = ""
    within: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Null:
    """What is kept of thousands of draws under a null hypothesis.

    Parameters
    ----------
    chance : ndarray, shape (layer, head)
        The 95th percentile of the draws.
    reached : ndarray of int, shape (layer, head)
        How many draws reach the head's value.
    n : int
        Draws.
    """

    chance: np.ndarray
    reached: np.ndarray
    n: int

    @classmethod
    def of(cls, draws: np.ndarray, value: np.ndarray) -> Null:
        """From draws (draw, layer, head) and values (layer, head)."""
        return cls(np.asarray(np.quantile(draws, 1 - LEVEL, axis=0)), np.asarray((draws >= value - 1e-12).sum(axis=0)), len(draws))


@dataclass(frozen=True, eq=False)
class RoleScores:
    """One role's value of every head, and what chance gives.

    Parameters
    ----------
    values : ndarray, shape (sample, layer, head)
        Larger is more of the role. One sample where the role is read off the weights alone.
    provenance : RoleProvenance
        What was measured, and on what.
    reference : ndarray of shape (sample, layer, head), or Null
        What values are compared with: the same quantity of the same samples where the role cannot be (other positions, other tokens),
        whose mean is what chance gives; or a summary of draws of the head's value under a null hypothesis (permuted tokens).
    per : {"head", "kv_head"}
        Whether the last axis counts query heads or key/value heads.

    Raises
    ------
    BadParameterError
        If shapes do not fit, a value is not finite or not possible (by the provenance's ``within``), or a control has not one value per
        sample.
    """

    values: np.ndarray
    provenance: RoleProvenance
    reference: np.ndarray | Null
    per: Per = "head"

    def __post_init__(self) -> None:
        spec = self.provenance.model
        heads = (spec.n_layers, spec.n_heads if self.per == "head" else spec.n_kv_heads)
        fix = "Return one value per sample, layer and head."
        against = {"control": self.reference} if isinstance(self.reference, np.ndarray) else {"null": self.reference.chance[None]}
        if "control" in against and against["control"].shape != self.values.shape:
            raise BadParameterError(f"The control has shape {against['control'].shape}, the values {self.values.shape}.", fix)
        for name, array in ({"values": self.values} | against).items():
            if array.ndim != len(heads) + 1 or array.shape[1:] != heads or not len(array):
                raise BadParameterError(f"{name} of {self.provenance.role!r} has shape {array.shape}; heads are {heads}.", fix)
            if not np.isfinite(array).all():
                raise BadParameterError(f"{name} of {self.provenance.role!r} holds values that are not finite.", "Check the model's dtype.")
        least, most = self.provenance.within or (-np.inf, np.inf)
        if not (self.values.min() >= least - _ROUNDING and self.values.max() <= most + _ROUNDING):
            lowest, highest = self.values.min(), self.values.max()
            what = f"Values of {self.provenance.role!r} lie between {lowest:g} and {highest:g}; possible are {least:g} to {most:g}."
            raise BadParameterError(what, "Compute them in float32 or better, or declare other limits.")
        if self.weights_only and len(self.values) != 1:
            raise BadParameterError(f"{len(self.values)} samples of {self.provenance.role!r}, which has none.", "Name what a sample is.")

    @property
    def weights_only(self) -> bool:
        """Whether the role was read off the weights alone: there are no samples, and no interval."""
        return not self.provenance.sample

    @property
    def n_samples(self) -> int:
        """Number of samples; 0 for weights alone."""
        return 0 if self.weights_only else len(self.values)

    @property
    def value(self) -> np.ndarray:
        """Mean over samples, shape (layer, head)."""
        return np.asarray(self.values.mean(axis=0))

    def to_plain(self) -> dict[str, Any]:
        """Values and what they are compared with as plain data, numbers exactly as they are; `from_plain` reads it."""
        against = self.reference
        if isinstance(against, Null):
            compared: dict[str, Any] = {"chance": _packed(against.chance), "reached": _packed(against.reached), "draws": against.n}
        else:
            compared = {"control": _packed(against)}
        return {"values": _packed(self.values), "per": self.per, "sample": self.provenance.sample} | compared

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], provenance: RoleProvenance) -> RoleScores:
        """Scores from what `to_plain` gave.

        Raises
        ------
        ScoreFileError
            If the data are anything else.
        """
        try:
            per, against = plain["per"], _reference(plain)
            if per not in get_args(Per):
                raise ValueError(f"values are given per {per!r}")
            return cls(_unpacked(plain["values"]), provenance, against, per)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, zlib.error) as error:
            what = f"The stored values of role {provenance.role!r} cannot be read ({type(error).__name__}: {error})."
            raise ScoreFileError(what, "Remove the role's file from the store, and measure it again.") from error

    def interval(self) -> Interval:
        """Mean with its 95 % t-interval over samples, each (layer, head), cut at the smallest and the largest possible value.

        Limits are NaN for weights alone or a single sample.
        """
        within = self.provenance.within
        return mean_interval(self.values if within is None else self.values.clip(*within), within=within)

    def chance(self) -> np.ndarray:
        """The 95th percentile of what chance gives, shape (layer, head).

        From the null's draws; or the mean of the control plus the one-sided 95 % quantile of the error of value minus control;
        NaN for a single sample.
        """
        if isinstance(self.reference, Null):
            return self.reference.chance
        from scipy import stats  # noqa: PLC0415 - scipy.stats is slow to import

        n = len(self.values)
        if n == 1:
            return np.full(self.values.shape[1:], np.nan)
        error = (self.values - self.reference).std(axis=0, ddof=1) / np.sqrt(n)
        return np.asarray(self.reference.mean(axis=0) + stats.t.ppf(1 - LEVEL, n - 1) * error)

    def p_values(self) -> np.ndarray:
        """One-sided p-value that a head's value is what chance gives, shape (layer, head).

        With a control: paired t-test over samples (1 where value and control are the same on every sample). With a null: the share of
        draws that reach the value, counting the value itself.
        """
        if isinstance(self.reference, Null):
            return np.asarray((1 + self.reference.reached) / (1 + self.reference.n))
        from scipy import stats  # noqa: PLC0415

        difference = self.values - self.reference
        n, mean = len(difference), difference.mean(axis=0)
        if n == 1:
            return np.ones(difference.shape[1:])
        spread = difference.std(axis=0, ddof=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(np.ptp(difference, axis=0) == 0, np.sign(mean) * np.inf, mean / (spread / np.sqrt(n)))
        return np.asarray(np.where(mean == 0, 1.0, stats.t.sf(np.where(mean == 0, 0.0, t), n - 1)))

    def q_values(self) -> np.ndarray:
        """P-values corrected over all heads of the role (Benjamini-Hochberg), shape (layer, head)."""
        from scipy import stats  # noqa: PLC0415

        p = self.p_values()
        return np.asarray(stats.false_discovery_control(p.ravel(), method="bh")).reshape(p.shape)

    def earned(self) -> np.ndarray:
        """Whether a head earns the role: its value reaches the threshold and q is at most 0.05, shape (layer, head)."""
        return np.asarray((self.value >= self.provenance.threshold) & (self.q_values() <= LEVEL))

    def node(self, layer: int, head: int) -> Node:
        """The node of an entry."""
        return Head(layer, head) if self.per == "head" else KVHead(layer, head)

    def __repr__(self) -> str:
        spec, n = self.provenance.model, int(self.earned().sum())
        where = f"{self.n_samples} {self.provenance.sample}" if self.n_samples else "weights alone"
        return f"RoleScores({self.provenance.role}, {spec.name}, {where}: {n} of {self.value.size} heads earn it)"


def _packed(array: np.ndarray) -> dict[str, Any]:
    """An array as compressed text."""
    data = base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes())).decode()
    return {"shape": list(array.shape), "dtype": array.dtype.str, "data": data}


def _unpacked(plain: Mapping[str, Any]) -> np.ndarray:
    """The array that was packed; text that holds more than the shape says is not decompressed."""
    shape, dtype = tuple(plain["shape"]), np.dtype(plain["dtype"])
    if dtype.kind not in "fiu" or not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError(f"an array of shape {shape} and type {dtype}")
    size = math.prod(shape) * dtype.itemsize
    data = zlib.decompressobj().decompress(base64.b64decode(plain["data"], validate=True), size + 1)
    if len(data) != size:
        raise ValueError(f"the data of an array of shape {shape} are cut short, or too long")
    return np.frombuffer(data, dtype).reshape(shape).copy()


def _reference(plain: Mapping[str, Any]) -> np.ndarray | Null:
    """What values are compared with."""
    if "draws" not in plain:
        return _unpacked(plain["control"])
    if type(plain["draws"]) is not int or plain["draws"] < 1:
        raise ValueError(f"{plain['draws']!r} draws")
    return Null(_unpacked(plain["chance"]), _unpacked(plain["reached"]), plain["draws"])
