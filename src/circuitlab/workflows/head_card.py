"""The card of one head: its scores, roles, reasons and effects, each from the call that measures it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from circuitlab.core.errors import AlignmentError, BadParameterError, TokenizationError
from circuitlab.core.files import require_writable
from circuitlab.core.nodes import Head, KVHead
from circuitlab.execute.contract import weights_only
from circuitlab.execute.needs import refusal, require_in_memory
from circuitlab.methods import MethodLike, get_method
from circuitlab.model.batch import ContrastBatch
from circuitlab.model.inside import head_in
from circuitlab.scores.head_card import CausalScore, HeadCard, HeadRole, Section, SimilarHead
from circuitlab.scores.intervals import q_values
from circuitlab.tasks.spec import Task
from circuitlab.workflows.card_codes import heads_by_code
from circuitlab.workflows.card_parts import REFUSALS, Asked, attention_of, continuations_of, knockouts_of, why_of
from circuitlab.workflows.card_weights import similar_heads, written_tokens
from circuitlab.workflows.compare import prompt_names
from circuitlab.workflows.head_on_text import stored_on_text
from circuitlab.workflows.prompts import Draws, to_batch_of
from circuitlab.workflows.roles import RoleLike
from circuitlab.workflows.roles import roles as measure_roles
from circuitlab.workflows.score import as_cache, score

if TYPE_CHECKING:
    from circuitlab.methods import Method
    from circuitlab.model.protocol import Model
    from circuitlab.scores.head_on_text import HeadOnText
    from circuitlab.scores.head_scores import HeadScores
    from circuitlab.scores.role_table import RoleEntry, RoleTable
    from circuitlab.store import Cache
    from circuitlab.workflows.prompts import Prompts

__all__ = ["CHEAP_ROLES", "METHODS", "head_card", "roles_asked"]

METHODS = ("activation_patching", "logit_attribution")
"""Methods of a card by default: what a head does in all, and what it writes to the answer itself."""

CHEAP_ROLES = (
    "copying",
    "delimiter",
    "duplicate_token",
    "echo",
    "focus",
    "induction",
    "locality",
    "negative_copying",
    "previous_token",
    "receiver",
    "sink",
    "span",
)
"""Roles of a card by default: those that share a few passes, and copying."""


def head_card(
    model: Model,
    head: Head | str,
    tasks: Sequence[Prompts] | Prompts = (),
    methods: Sequence[MethodLike] | MethodLike = METHODS,
    *,
    roles: Iterable[RoleLike] | RoleLike = "cheap",
    n: int = 16,
    pairs: int = 1,
    tokens: Sequence[str | int] = (),
    prompt: str | Sequence[int] | None = None,
    codes: bool = False,
    store: Cache | str | Path | None = None,
) -> HeadCard:
    """Gather what one head is: what it does, which roles it plays, what it writes, where and why it looks, and which heads are like it.

    Parameters
    ----------
    model : Model
        From `circuitlab.load_model`.
    head : Head or str
        A query head, ``"a9.h6"``.
    tasks : sequence of str, Path, Task or ContrastBatch, or one of them
        As for `circuitlab.score`.
    methods : sequence of str, Method or type, or one of them
        Each scores every task.
    roles : "cheap", "all", or as for `circuitlab.roles`
        Roles to measure; "cheap" are those of `CHEAP_ROLES`.
    n : int
        Pairs of each task, from the start of its stream.
    pairs : int
        For how many of them, from the first, attention is shown and explained.
    tokens : sequence of str or int
        Tokens to read through the head's weights; the tokens at the marks of each task's first pair otherwise.
    prompt : str or sequence of int, optional
        Text to continue with and without the head; the first clean prompt of each task otherwise.
    codes : bool
        Whether to learn discrete codes of the tasks' prompts (`circuitlab.methods.CodeOverlap`), by which heads are compared, too: five
        small autoencoders for each task, which take longer than the rest of a card. Stored codes are used in any case.
    store : Cache, str or Path, optional
        Where to look for scores, roles and codes first and to keep them after; nothing is kept otherwise.

    Returns
    -------
    HeadCard
        What the model or a task's prompts cannot give is absent from it, with the reason.

    Raises
    ------
    BadParameterError
        If there is no such head, or a parameter cannot be used.
    UnknownNameError
        If there is no such task, method or role.
    StoreError
        If the store cannot be written.

    Notes
    -----
    Scores and roles that are not stored take most of the time; both say how long they will take before they start. What the head does on
    natural text is shown where `circuitlab.head_on_text` has stored it, since that takes a pass over all passages. Everything else is a
    few dozen forward passes, and one product of the head's output with the unembedding for each of 500 tokens.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("induction-gqa")
    >>> card = cl.head_card(planted.model, "a1.h2", [planted.batch(6)], "activation_patching", roles=["induction", "previous_token"])
    >>> card.earned()
    ['induction']
    >>> [(one.query_writer, one.key_writer) for one in card.why.entries[0].terms[:1]]
    [('embed', 'a0.h1')]
    >>> model = cl.load_model("smollm2-135m")  # doctest: +SKIP
    >>> cl.head_card(model, "a20.h0", ["ioi"], store="runs")  # doctest: +SKIP
    """
    node, cache = head_in(model.spec, head), as_cache(store)
    require_in_memory(model, "Cards of heads")
    if n < 1 or pairs < 1:
        raise BadParameterError(f"n={n} and pairs={pairs}: a card needs a pair of each task.", "Use at least 1.")
    listed = [tasks] if isinstance(tasks, str | Path | Task | ContrastBatch) else list(tasks)
    built = [get_method(one) for one in ([methods] if isinstance(methods, str | type) or callable(methods) else list(methods))]
    if cache is not None:
        require_writable(cache.root)
    names, wanted = prompt_names(listed), roles_asked(roles)
    batches, absent = _batches(model, dict(zip(names, listed, strict=True)), n)
    asked = Asked(model, node, batches, absent, pairs)
    table = measure_roles(model, wanted, store=cache)
    causal = _causal(asked, dict(zip(names, listed, strict=True)), built, n, cache)
    written, looked = written_tokens(asked, tokens), attention_of(asked)
    return HeadCard(
        head=node,
        kv_head=_kv_head(model, node),
        model=model.spec.name,
        weights=model.spec.weights,
        tasks=tuple(names),
        causal=causal,
        roles=_roles(node, _kv_head(model, node), table),
        tokens=written,
        why=why_of(asked),
        attention=looked,
        text=_on_text(asked, cache),
        knockout=knockouts_of(asked),
        continuations=continuations_of(asked, prompt),
        similar=_similar(asked, table, cache, learn=codes),
    )


def _similar(asked: Asked, table: RoleTable, cache: Cache | None, *, learn: bool) -> Section[SimilarHead]:
    parts = similar_heads(asked, table), heads_by_code(asked, cache, learn=learn)
    absent = {what: reason for part in parts for what, reason in part.absent.items()}
    return Section(tuple(entry for part in parts for entry in part.entries), absent)


def roles_asked(given: Iterable[RoleLike] | RoleLike) -> Iterable[RoleLike] | RoleLike | None:
    """What ``"cheap"`` and ``"all"`` stand for, as `circuitlab.roles` takes it; anything else is left as it is."""
    if isinstance(given, str) and given in {"cheap", "all"}:
        return list(CHEAP_ROLES) if given == "cheap" else None
    return given


def _on_text(asked: Asked, cache: Cache | None) -> Section[HeadOnText]:
    """The head on natural text, where that is stored: it takes as many passes as there are passages, once for all heads."""
    missing = f"It is not in the store. `circuitlab heads text {asked.head}` (`cl.head_on_text`) measures all heads of the model once."
    try:
        kept = stored_on_text(asked.model, asked.head, cache)
    except REFUSALS as error:
        return Section((), {"natural text": str(error)})
    return Section((), {"natural text": missing}) if kept is None else Section((kept,))


def _kv_head(model: Model, head: Head) -> KVHead:
    return KVHead(head.layer, head.head // (model.spec.n_heads // model.spec.n_kv_heads))


def _batches(model: Model, tasks: dict[str, Prompts], n: int) -> tuple[dict[str, ContrastBatch], dict[str, str]]:
    """Pairs of each task, and why there are none for the others: this model's tokenizer may not give the words of a task."""
    batches, absent = {}, {}
    for name, prompts in tasks.items():
        try:
            batches[name] = to_batch_of(model, prompts, Draws(n))
        except (TokenizationError, AlignmentError, BadParameterError) as error:
            absent[name] = str(error)
    return batches, absent


def _causal(asked: Asked, tasks: dict[str, Prompts], methods: Sequence[Method], n: int, cache: Cache | None) -> Section[CausalScore]:
    entries: list[CausalScore] = []
    absent = dict(asked.absent)
    if not tasks and not all(map(weights_only, methods)):
        absent["tasks"] = "No task was given."
    for method in methods:
        sources = {"weights alone": None} if weights_only(method) else {name: tasks[name] for name in asked.batches}
        for name, prompts in sources.items():
            reason = refusal(method, asked.model)
            try:
                scores = None if reason else score(asked.model, prompts, method, n=n, store=cache)
            except REFUSALS as error:
                reason = str(error)
            if reason or scores is None:
                absent[f"{name}, {method.name}"] = reason
            elif "heads" not in scores.parts:
                absent[f"{name}, {method.name}"] = f"It scored {', '.join(scores.parts)}, and no heads."
            else:
                entries += [_score_of(asked.head, name, scores, mark) for mark in scores.marks or (None,)]
    return Section(tuple(entries), absent)


def _score_of(head: Head, task: str, scores: HeadScores, mark: str | None) -> CausalScore:
    about, at = scores.provenance, (head.layer, head.head)
    interval = scores.interval("heads", mark=mark)
    mean = np.asarray(interval.mean)
    q = np.full(mean.shape, np.nan) if scores.weights_only else q_values(scores.values("heads", mark=mark))
    flag = about.fitness
    return CausalScore(
        task=task,
        method=about.method,
        mark=mark,
        mean=float(mean[at]),
        low=float(np.asarray(interval.low)[at]),
        high=float(np.asarray(interval.high)[at]),
        q=float(q[at]),
        rank=1 + int((np.abs(mean) > abs(mean[at])).sum()),
        heads=mean.size,
        units=about.units,
        estimand=about.estimand,
        n_pairs=scores.n_pairs,
        warning="" if flag is None or flag.ready else flag.reason,
        run_id=about.run_id(),
    )


def _roles(head: Head, kv_head: KVHead, table: RoleTable) -> Section[HeadRole]:
    entries = []
    for role in table.scores:
        everyone = table.entries(role)
        entries += [_role_of(one, everyone, table) for one in everyone if one.node in {head, kv_head}]
    return Section(tuple(entries), dict(table.refused))


def _role_of(one: RoleEntry, everyone: Sequence[RoleEntry], table: RoleTable) -> HeadRole:
    about = table.scores[one.role].provenance
    return HeadRole(
        role=one.role,
        node=str(one.node),
        value=one.value,
        low=one.low,
        high=one.high,
        chance=one.chance,
        q=one.q,
        earned=one.earned,
        threshold=about.threshold,
        rank=1 + sum(other.value > one.value for other in everyone),
        tied=sum(other.value == one.value for other in everyone) - 1,
        heads=len(everyone),
        estimand=about.estimand,
        null=about.null,
    )
