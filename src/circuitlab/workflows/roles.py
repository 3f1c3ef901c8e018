"""Roles of heads: measure them, or find them in the store; what a model cannot be asked for is said with its reason."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from circuitlab.core.errors import AlignmentError, BadParameterError, ModelError, TaskFileError, TokenizationError, UnknownNameError
from circuitlab.core.files import require_writable
from circuitlab.core.progress import progress_part
from circuitlab.core.provenance import digest
from circuitlab.execute.contract import effective_params
from circuitlab.execute.needs import refusal
from circuitlab.methods.roles import Role, default_roles, get_role, role_classes
from circuitlab.methods.roles.contract import role_provenance
from circuitlab.methods.roles.reading import PatternRole, ReadsPatterns, read_together
from circuitlab.methods.roles.top_tokens import TopTokens
from circuitlab.model.sites import Site
from circuitlab.scores.role_scores import RoleScores
from circuitlab.scores.role_table import RoleTable
from circuitlab.store import Cache
from circuitlab.store.codecs import Document, Documents
from circuitlab.texts import Passage, read_texts
from circuitlab.workflows.score import as_cache
from circuitlab.workflows.terminal import CellProgress, announce

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["ROLES", "RoleLike", "TextsLike", "built_roles", "roles"]

ROLES = Documents("roles")
"""Where roles are kept: one JSON file each."""

RoleLike: TypeAlias = "str | Role | type[Role]"
TextsLike: TypeAlias = "str | Path | Iterable[str | Passage]"
"""A file of passages, or passages."""

_REFUSALS = (ModelError, BadParameterError, TokenizationError, AlignmentError, TaskFileError, UnknownNameError)
"""Why one role cannot be measured while others can: what the model lacks, and a task or word list that the task folder does not hold."""
_UNKNOWN = 5.0
"""Seconds of a role that does not say what it takes."""
_ROWS, _COLUMNS = 512, 8192
"""Of the product that is timed."""

_VERSION = 2
"""Counted up where a role gives other numbers than before, or is stored in another form."""


def roles(
    model: Model,
    roles: Iterable[RoleLike] | RoleLike | None = None,
    texts: TextsLike | None = None,
    store: Cache | str | Path | None = None,
) -> RoleTable:
    """Measure what the heads of a model do, with intervals and what chance gives.

    Parameters
    ----------
    model : Model
        From `circuitlab.load_model`.
    roles : iterable of str, Role or type, optional
        Names, classes, or instances with their parameters set. Otherwise every role but those that take minutes on a small
        model, such as ``"retrieval"``, which are measured only where they are named.
    texts : str, Path, or iterable of str or Passage, optional
        For roles on natural text: a file (see `circuitlab.texts.read_texts`) or passages; those that circuitlab ships otherwise.
    store : Cache, str or Path, optional
        Where to look for each role first and to keep it after; nothing is kept otherwise.

    Returns
    -------
    RoleTable
        Roles that the model lacks something for are in its ``refused``, with the reason; so are those whose task, relation or word list
        is not in the task folder.

    Raises
    ------
    UnknownNameError
        If there is no such role.
    BadParameterError
        If a role is named twice, or the texts cannot be used.
    StoreError
        If the store cannot be written.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> table = cl.roles(build_planted("induction-mha").model, ["previous_token", "induction"])
    >>> [str(one.node) for role in table.scores for one in table.earners(role)]
    ['a0.h1', 'a1.h2']
    >>> model = cl.load_model("smollm2-135m")  # doctest: +SKIP
    >>> cl.roles(model, texts="mine.txt")  # doctest: +SKIP
    """
    asked, cache = built_roles(roles, texts), as_cache(store)
    if cache is not None:
        require_writable(cache.root)
    measuring = _Measuring(model, cache)
    with CellProgress(f"roles of {model.spec.name}"):
        measuring.run(asked)
    measured = {role.name: measuring.scores[role.name] for role in asked if role.name in measuring.scores}
    return RoleTable(model.spec, measured, {role.name: measuring.refused[role.name] for role in asked if role.name in measuring.refused})


def built_roles(given: Iterable[RoleLike] | RoleLike | None, texts: TextsLike | None = None) -> list[Role]:
    """Roles with their parameters; those on natural text that were given by name or class read ``texts``.

    Raises
    ------
    UnknownNameError
        If there is no such role.
    BadParameterError
        If a role is named twice, or the texts cannot be used.
    """
    listed = default_roles() if given is None else [given] if isinstance(given, str | type | Role) else list(given)
    passages = None if texts is None else _texts(texts)
    classes, built = role_classes(), []
    for one in cast("list[RoleLike]", listed):
        cls = classes.get(one) if isinstance(one, str) else one if isinstance(one, type) else None
        reads = passages is not None and cls is not None and "texts" in getattr(cls, "__dataclass_fields__", {})
        built.append(get_role(one, {"texts": passages} if reads else None))
    names = [role.name for role in built]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadParameterError(f"{', '.join(twice)} is asked for twice.", "Name every role once; measure other parameters by themselves.")
    return built


def _texts(given: TextsLike) -> tuple[str, ...]:
    passages: Iterable[str | Passage] = read_texts(given) if isinstance(given, str | Path) else given
    texts = tuple(one.text if isinstance(one, Passage) else one for one in passages)
    if not texts:
        raise BadParameterError("No text was given.", "Give at least two passages, or leave texts out for those that circuitlab ships.")
    return texts


@dataclass(frozen=True)
class _Wanted:
    """A role that is to be measured, with what its result is kept under."""

    role: Role
    identity: dict[str, Any]
    inputs: object


class _Measuring:
    """Roles of one model: found in the store, refused, or measured; roles on attention patterns of the same prompts together."""

    def __init__(self, model: Model, cache: Cache | None) -> None:
        self.model, self.cache = model, cache
        self.scores: dict[str, RoleScores] = {}
        self.refused: dict[str, str] = {}

    def run(self, asked: Sequence[Role]) -> None:
        """Measure what is not stored."""
        self.model.refresh()
        groups: dict[object, list[_Wanted]] = {}
        for role in asked:
            wanted = self._wanted(role)
            if wanted is not None and not self._find(wanted):
                groups.setdefault(_together(wanted), []).append(wanted)
        costs = self._costs(list(groups.values()))
        done = 0.0
        for group, cost in zip(groups.values(), costs, strict=True):
            with progress_part(done / sum(costs), (done + cost) / sum(costs)):
                self._measure(group)
            done += cost

    def _wanted(self, role: Role) -> _Wanted | None:
        """What is to be measured; None where the model cannot be asked for it."""
        try:
            reason = refusal(role, self.model)
            inputs = getattr(role, "inputs", lambda _model: None)(self.model) if not reason else None
        except _REFUSALS as error:
            reason = str(error)
        if reason:
            self.refused[role.name] = reason
            return None
        identity = {"role": role.name, "params": effective_params(role), "model": self.model.spec.identity(), "version": _VERSION}
        return _Wanted(role, identity | {"inputs": "" if inputs is None else digest(inputs)}, inputs)

    def _find(self, wanted: _Wanted) -> bool:
        codec = ROLES.checked(partial(_read, wanted, self.model))
        kept = None if self.cache is None else self.cache.find(wanted.identity, codec)
        if kept is not None:
            self.scores[wanted.role.name] = _read(wanted, self.model, kept)
        return kept is not None

    def _measure(self, group: Sequence[_Wanted]) -> None:
        started = time.perf_counter()
        try:
            if isinstance(group[0].role, ReadsPatterns):
                measured = read_together(self.model, [cast("PatternRole", one.role) for one in group])
            else:
                measured = [one.role(self.model) for one in group]
        except _REFUSALS as error:
            self.refused |= {one.role.name: str(error) for one in group}
            return
        seconds = (time.perf_counter() - started) / len(group)
        for wanted, scores in zip(group, measured, strict=True):
            self.scores[wanted.role.name] = scores
            if self.cache is not None:
                self.cache.put(wanted.identity, ROLES, scores.to_plain(), seconds=seconds)

    def _costs(self, groups: Sequence[Sequence[_Wanted]]) -> list[float]:
        """Seconds of each group, which are announced; a role that cannot say what it takes counts as a few seconds, for the bar only."""
        seconds = [float("nan")] * len(groups)
        per_token = per_product = 0.0
        for i, group in enumerate(groups):
            if isinstance(group[0].role, ReadsPatterns):
                tokens = _tokens(group[0])
                per_token = per_token or self._per_token(tokens[:1])
                seconds[i] = per_token * tokens.size * _passes(group)
            elif (work := getattr(group[0].role, "work", None)) is not None:
                per_product = per_product or self._per_product()
                seconds[i] = per_product * work(self.model)
        announce(f"Roles of {self.model.spec.name}", float(np.nansum(seconds)))
        return [_UNKNOWN if np.isnan(one) else one for one in seconds]

    def _per_token(self, first: np.ndarray) -> float:
        """Seconds that a token takes in a run that reads patterns."""
        import torch  # noqa: PLC0415 - only work needs it

        started = time.perf_counter()
        self.model.capture(torch.tensor(first), [Site.PATTERN])
        return (time.perf_counter() - started) / first.size

    def _per_product(self) -> float:
        """Seconds that one multiplication takes in a product with a matrix of the size of a part of the unembedding."""
        import torch  # noqa: PLC0415

        spec, first = self.model.spec, torch.zeros(1, dtype=torch.long)
        device = self.model.logits(first[None], first).device  # where its products run
        columns, rows = (torch.ones(n, spec.d_model, device=device) for n in (min(_COLUMNS, spec.d_vocab), _ROWS))
        started = time.perf_counter()
        float((rows @ columns.T)[0, 0])
        return (time.perf_counter() - started) / (len(rows) * columns.numel())


def _together(wanted: _Wanted) -> object:
    """Roles with the same key are measured in one run, or one after the other where one's work serves the next."""
    if isinstance(wanted.role, ReadsPatterns):
        return digest(_tokens(wanted).tolist())
    return digest([wanted.inputs, wanted.role.top, wanted.role.reads]) if isinstance(wanted.role, TopTokens) else wanted.role.name


def _tokens(wanted: _Wanted) -> np.ndarray:
    return np.array(cast("dict[str, Any]", wanted.inputs)["tokens"])


def _passes(group: Sequence[_Wanted]) -> int:
    """How often a group's prompts are run."""
    return max(one.role.passes for one in group if isinstance(one.role, ReadsPatterns))


def _read(wanted: _Wanted, model: Model, kept: Document) -> RoleScores:
    return RoleScores.from_plain(kept.result, role_provenance(wanted.role, model, kept.result["sample"], wanted.inputs))
