"""Interventions on vectors: replace, scale, add, and project."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from circuitlab.core.errors import BadParameterError
from circuitlab.model.interventions.base import Make, NodeEdit
from circuitlab.model.interventions.held import PromptTable, hash_tensor, held_positions, laid_out, of_node, read_tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.interventions.spots import Spot
    from circuitlab.model.places import Places

__all__ = ["Add", "Project", "Replace", "Scale"]


@dataclass(frozen=True, eq=False)
class _Holding(NodeEdit):
    """Base class of `Replace` and `Add`, which hold a vector for each node."""

    @property
    def _held(self) -> Tensor:
        raise NotImplementedError

    @property
    def _prompts(self) -> PromptTable | None:
        return None

    def _part(self, index: int) -> Tensor:
        return of_node(self._held, index, len(self.spots), self.kind)

    def _check_width(self, index: int, spot: Spot, width: int) -> None:
        part = self._part(index)
        if part.ndim and part.shape[-1] not in {1, width}:
            what = f"{spot.node} has values of width {width} at {spot.site.value!r}; {self.kind} was given shape {tuple(self._held.shape)}."
            raise BadParameterError(what, "Give vectors of the node's width.")

    def _chosen(self, places: Places) -> Bool[Tensor, "prompt pos"] | None:
        """The chosen positions. A value given by position does not edit generated positions beyond those that it holds."""
        chosen, length = self.where.chosen(places), held_positions(self._part(0))
        if length is None:
            return chosen
        at = places.positions
        inside = (at < length) | (at <= places.end.to(at.device)[:, None])
        return inside if chosen is None else inside & chosen

    def _laid_out(self, places: Places) -> list[Tensor]:
        chosen = self._chosen(places)
        return [laid_out(self._part(index), places, chosen, self._prompts, self.kind) for index in range(len(self.spots))]


@dataclass(frozen=True, eq=False)
class Replace(_Holding):
    """Replace the values of nodes.

    Parameters
    ----------
    nodes : str, Node, or several
        The nodes; see `NodeEdit`.
    value : Tensor or float
        A number, or a tensor of shape (width,), (pos, width) by position from 0, or (prompt, pos, width). For several nodes: one vector
        for all, or a first axis with one entry for each node. A `torch.nn.Parameter` can be trained.
    batch : ContrastBatch, optional
        For values by prompt, the batch whose clean prompts they belong to; prompts of a run are looked up by their tokens.

    Examples
    --------
    >>> from circuitlab.model.toy import build_planted
    >>> build_planted("copy-gqa").model.edited(Replace("m0", 0.0))
    HookedModel(copy-gqa: llama, 2 layers x 4 heads, edited: replace m0)
    """

    kind: ClassVar[str] = "replace"
    value: Tensor | float
    batch: ContrastBatch | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("value", read_tensor(self.value, "The value"))
        rows = self._part(0).shape[0] if self._part(0).ndim == 3 else 1  # noqa: PLR2004 - prompt, pos, width
        if rows > 1 and self.batch is None:
            what = f"A value of shape {tuple(self._held.shape)} differs between prompts, and it is not known which prompts these are."
            raise BadParameterError(what, "Give batch=, whose clean prompts the values belong to, or one value for all prompts.")
        if self.batch is not None and rows not in {1, self.batch.n_pairs}:
            what = f"{rows} values were given for a batch of {self.batch.n_pairs} prompts."
            raise BadParameterError(what, "Give one value for each clean prompt of the batch.")

    @property
    def _held(self) -> Tensor:
        return self.value  # type: ignore[return-value]

    @cached_property
    def _prompts(self) -> PromptTable | None:  # type: ignore[override]
        return None if self.batch is None else PromptTable.of(self.batch)

    def _make(self, places: Places) -> Make:
        values = self._laid_out(places)
        return lambda index, old: values[index].to(old)

    def _settings(self) -> dict[str, Any]:
        return {"value": hash_tensor(self._held), "prompts": None if self.batch is None else self.batch.task.digest}

    def describe(self) -> str:
        """What it does, in few words."""
        return self._named("replace")


@dataclass(frozen=True, eq=False)
class Add(_Holding):
    """Add a vector to the values of nodes: to a head's z, to the output of attention or an MLP, or to the residual stream.

    Parameters
    ----------
    nodes : str, Node, or several
        The nodes; see `NodeEdit`.
    offset : Tensor or float
        A number, or a tensor of shape (width,), or (pos, width) by position from 0. For several nodes: one vector for all, or a first
        axis with one entry for each node. A `torch.nn.Parameter` can be trained. Zero changes nothing.

    Examples
    --------
    >>> from circuitlab.model.toy import build_planted
    >>> model = build_planted("copy-gqa").model
    >>> steering = torch.zeros(model.spec.d_model)
    >>> model.edited(Add("m1", steering, positions="last"))
    HookedModel(copy-gqa: llama, 2 layers x 4 heads, edited: add to m1@last)
    """

    kind: ClassVar[str] = "add"
    offset: Tensor | float

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("offset", read_tensor(self.offset, "The offset"))
        if any(self._part(index).ndim > 2 for index in range(len(self.spots))):  # noqa: PLR2004 - pos and width
            what = f"An offset of shape {tuple(self._held.shape)} differs between prompts."
            raise BadParameterError(what, "Give (width,) or (pos, width), with a first axis for the nodes if there are several.")

    @property
    def _held(self) -> Tensor:
        return self.offset  # type: ignore[return-value]

    def _make(self, places: Places) -> Make:
        offsets = self._laid_out(places)
        return lambda index, old: old + offsets[index].to(old)

    def _settings(self) -> dict[str, Any]:
        return {"offset": hash_tensor(self._held)}

    def describe(self) -> str:
        """What it does, in few words."""
        return self._named("add to")


@dataclass(frozen=True, eq=False)
class Scale(NodeEdit):
    """Multiply the values of nodes by a factor.

    Parameters
    ----------
    nodes : str, Node, or several
        The nodes; see `NodeEdit`.
    factor : float or Tensor
        One factor, one for each node, or shape (node, width) with one for each component of each node's vector. A `torch.nn.Parameter`
        can be trained. A factor of 1 is bit-exact: it changes nothing.

    Examples
    --------
    >>> from circuitlab.model.toy import build_planted
    >>> build_planted("copy-gqa").model.edited(Scale(["a1.h1", "a1.h2"], 0.5))
    HookedModel(copy-gqa: llama, 2 layers x 4 heads, edited: scale by 0.5 a1.h1,a1.h2)
    """

    kind: ClassVar[str] = "scale"
    factor: float | Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.factor, torch.Tensor):
            self._set("factor", read_tensor(self.factor, "The factor"))
            by_component = self.factor.ndim == 2 and len(self.factor) == len(self.spots)  # noqa: PLR2004 - node and width
            if not by_component and (self.factor.numel() not in {1, len(self.spots)} or self.factor.ndim > 1):
                what = f"A factor of shape {tuple(self.factor.shape)} was given to {len(self.spots)} nodes."
                raise BadParameterError(what, "Give one factor, one for each node, or shape (node, width).")
        elif isinstance(self.factor, numbers.Real) and math.isfinite(self.factor):
            self._set("factor", float(self.factor))
        else:
            raise BadParameterError(f"A factor of {self.factor!r} is not a finite number.", "Give a finite factor.")

    def _check_width(self, index: int, spot: Spot, width: int) -> None:  # noqa: ARG002 - nodes may differ in width only by site
        shape = tuple(self.factor.shape) if isinstance(self.factor, torch.Tensor) else ()
        if len(shape) == 2 and shape[1] not in {1, width}:  # noqa: PLR2004 - node and width
            what = f"{spot.node} has values of width {width} at {spot.site.value!r}; scale was given factors of shape {shape}."
            raise BadParameterError(what, "Give one factor for each component of the node's vector.")

    def _make(self, places: Places) -> Make:  # noqa: ARG002 - the same on every prompt
        factor = self.factor
        if not isinstance(factor, torch.Tensor):
            return (lambda _index, old: old) if factor == 1 else (lambda _index, old: old * factor)
        each = factor if factor.ndim == 2 else factor.reshape(-1).expand(len(self.spots))  # noqa: PLR2004 - node and width
        return lambda index, old: old * each[index].to(old)

    def _settings(self) -> dict[str, Any]:
        factor = self.factor
        return {"factor": {"hash": hash_tensor(factor)} if isinstance(factor, torch.Tensor) else factor}

    def describe(self) -> str:
        """What it does, in few words."""
        factor = self.factor
        return self._named("scale" if isinstance(factor, torch.Tensor) else f"scale by {factor:g}")


@dataclass(frozen=True, eq=False)
class Project(NodeEdit):
    """Project the values of nodes onto the span of some vectors, or onto its orthogonal complement.

    Parameters
    ----------
    nodes : str, Node, or several
        The nodes; see `NodeEdit`.
    basis : Tensor, shape (vector, width) or (width,)
        Vectors that span the subspace; they need not be orthonormal.
    keep : bool
        Whether the part inside the span is kept (True) or removed (False).

    Notes
    -----
    Two settings are bit-exact and change nothing: keeping the whole space, and removing an empty span (shape (0, width)).

    Raises
    ------
    BadParameterError
        If the vectors are linearly dependent.

    Examples
    --------
    >>> from circuitlab.model.toy import build_planted
    >>> model = build_planted("copy-gqa").model
    >>> direction = torch.ones(model.spec.d_model)
    >>> model.edited(Project("m1", direction, keep=False))
    HookedModel(copy-gqa: llama, 2 layers x 4 heads, edited: project off m1 (1 directions))
    """

    kind: ClassVar[str] = "project"
    basis: Tensor
    keep: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        basis = read_tensor(self.basis, "The basis")
        if basis.ndim not in {1, 2} or not basis.shape[-1]:
            what = f"A basis of shape {tuple(basis.shape)} is not a list of vectors."
            raise BadParameterError(what, "Give shape (vector, width), or one vector.")
        self._set("basis", basis)
        vectors = torch.atleast_2d(basis.detach()).double()
        rank = int(torch.linalg.matrix_rank(_unit(vectors))) if len(vectors) else 0
        if rank < len(vectors):
            what = f"The {len(vectors)} vectors of a basis of width {vectors.shape[1]} span {rank} dimensions."
            raise BadParameterError(what, "Leave out vectors that are zero or linear combinations of the others.")

    def _check_width(self, index: int, spot: Spot, width: int) -> None:  # noqa: ARG002 - one basis for all nodes
        if self.basis.shape[-1] != width:
            what = f"{spot.node} has values of width {width} at {spot.site.value!r}; the basis has width {self.basis.shape[-1]}."
            raise BadParameterError(what, "Give vectors of the node's width.")

    def _make(self, places: Places) -> Make:  # noqa: ARG002 - the same on every prompt
        vectors = torch.atleast_2d(self.basis)
        count, width = vectors.shape
        if count == (width if self.keep else 0):
            return lambda _index, old: old
        directions = torch.linalg.qr(_unit(vectors.double()).T)[0].T

        def make(_index: int, old: Tensor) -> Tensor:
            if old.shape[-1] != width:
                what = f"Values of width {old.shape[-1]} cannot be projected with a basis of width {width}."
                raise BadParameterError(what, "Give vectors of the node's width.")
            inside = _inside(old, directions)
            return inside.to(old) if self.keep else (old - inside).to(old)

        return make

    def _settings(self) -> dict[str, Any]:
        return {"basis": hash_tensor(self.basis), "keep": self.keep}

    def describe(self) -> str:
        """What it does, in few words."""
        return self._named("project onto" if self.keep else "project off") + f" ({len(torch.atleast_2d(self.basis))} directions)"


def _unit(vectors: Float[Tensor, "vector width"]) -> Float[Tensor, "vector width"]:
    """Vectors scaled to length 1, so that their numerical rank does not depend on scale; zero vectors stay zero."""
    size = vectors.norm(dim=-1, keepdim=True)
    return vectors / torch.where(size > 0, size, torch.ones_like(size))


def _inside(old: Float[Tensor, "*rows width"], directions: Float[Tensor, "vector width"]) -> Float[Tensor, "*rows width"]:
    """The part of a value inside the span; 16-bit values are projected in float32."""
    wide = old.to(torch.promote_types(old.dtype, torch.float32))
    along = directions.to(wide)
    return (wide @ along.T) @ along
