"""What a page shows that needs the model: measured once and stored, so that pages are built without it from then on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.nodes import Head
from circuitlab.core.progress import progress_part, step
from circuitlab.core.provenance import digest
from circuitlab.explorer.names import Names
from circuitlab.explorer.packed import pack_byte
from circuitlab.explorer.sparse import MOST_HEADS, sparse_attention
from circuitlab.explorer.stored import ATTENTION, CARDS

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model
    from circuitlab.scores.head_card import Section
    from circuitlab.scores.head_scores import HeadScores
    from circuitlab.store import Cache
    from circuitlab.workflows.prompts import Prompts

__all__ = ["MEASURES", "Measure", "measured_parts", "strongest_heads"]

_VERSION, _ATTENTION_VERSION = 1, 3
"""Counted up where attention or cards hold other numbers than before."""


@dataclass(frozen=True)
class Measure:
    """What is measured for a page beside scores.

    Parameters
    ----------
    model : Model
        The model that was scored.
    store : Cache
        Where everything is looked up first, and kept.
    shown : int
        Pairs of each task whose attention is stored.
    cards : int
        Heads of each task with a card: the strongest by the first method.
    """

    model: Model
    store: Cache
    shown: int = 2
    cards: int = 3

    def __call__(self, runs: Sequence[HeadScores], prompts: Mapping[str, Prompts], parts: Sequence[str]) -> dict[str, str]:
        """Measure and store parts for runs of this model.

        Parameters
        ----------
        runs : sequence of HeadScores
            The runs; their strongest heads get cards.
        prompts : mapping of str to Prompts
            The source of each run's pairs by the digest of its prompts; the task of that id where it is not given.
        parts : sequence of str
            Names of `MEASURES`.

        Returns
        -------
        dict of str to str
            What this model or these prompts cannot give, with the reason, as in ``absent`` of a payload.

        Raises
        ------
        UnknownNameError
            If there is no such part.
        BadParameterError
            If runs are of another model.
        """
        from circuitlab.workflows.card_parts import REFUSALS  # noqa: PLC0415 - torch

        chosen = measured_parts(parts)
        own = self.model.spec.identity()
        if other := [run.provenance.run_id() for run in runs if run.provenance.model.identity() != own]:
            raise BadParameterError(
                f"Runs {', '.join(other)} are not of {self.model.spec.name} as it is.", "Give the model that was scored."
            )
        refused: dict[str, str] = {}
        for number, part in enumerate(chosen):
            with progress_part(number / len(chosen), (number + 1) / len(chosen)), _bar(part, self.model.spec.name):
                try:
                    refused |= MEASURES[part](self, [run for run in runs if not run.weights_only], prompts)
                except REFUSALS as error:
                    refused[_LISTS[part]] = str(error)
        return refused

    def batch(self, run: HeadScores, prompts: Mapping[str, Prompts]) -> ContrastBatch:
        """The pairs that were scored."""
        from circuitlab.workflows.prompts import Draws, to_batch_of  # noqa: PLC0415 - torch

        task = run.provenance.task
        return to_batch_of(self.model, prompts.get(task.digest, task.id), Draws(task.n_pairs, task.variant, task.seed))


def _bar(part: str, model: str) -> AbstractContextManager[object]:
    """A bar for one part; roles show their own, which says how long they take."""
    from circuitlab.workflows.terminal import CellProgress  # noqa: PLC0415

    return CellProgress(f"{_LABELS[part]} of {model}") if part in _LABELS else nullcontext()


def measured_parts(given: Sequence[str]) -> list[str]:
    """Names of parts in the order in which they are measured; "all" stands for every one.

    Raises
    ------
    UnknownNameError
        If there is no such part.
    """
    for name in given:
        if name not in {*MEASURES, "all"}:
            raise UnknownNameError("part of a page to measure", name, [*MEASURES, "all"])
    return [name for name in MEASURES if name in given or "all" in given]


def strongest_heads(runs: Sequence[HeadScores], n: int) -> list[Head]:
    """The ``n`` strongest heads of every task by the first method that scored its heads, each once."""
    heads: dict[Head, None] = {}
    seen: set[str] = set()
    for run in runs:
        if "heads" in run.parts and run.marks is None and run.provenance.task.digest not in seen:
            seen.add(run.provenance.task.digest)
            heads |= {entry.node: None for entry in run.top(n) if isinstance(entry.node, Head)}
    return list(heads)


def _attention(asked: Measure, runs: Sequence[HeadScores], prompts: Mapping[str, Prompts]) -> dict[str, str]:
    """Tokens of every pair of each task, and the attention of the first ones."""
    spec, by_task = asked.model.spec, {run.provenance.task.digest: run for run in runs}
    listed = [Head(layer, head) for layer in range(spec.n_layers) for head in range(spec.n_heads)]
    if len(listed) > MOST_HEADS:
        listed = _strongest(runs, MOST_HEADS)
    for number, run in enumerate(by_task.values()):
        step(number, len(by_task))
        batch = asked.batch(run, prompts)
        task = msgspec.to_builtins(batch.task)
        identity = {"version": _ATTENTION_VERSION, "model": spec.identity(), "task": {name: task[name] for name in _TASK}}
        identity |= {"shown": asked.shown, "heads": digest([str(head) for head in listed])}
        asked.store.get_or_compute(identity, ATTENTION, lambda batch=batch: _seen(asked, batch, listed))  # type: ignore[misc]
    return {}


_TASK = ("id", "variant", "version", "seed", "n_pairs", "digest")


def _strongest(runs: Sequence[HeadScores], n: int) -> list[Head]:
    """Heads by their best rank in any run, in the order of the model."""
    maps = [np.abs(run.mean("heads")) for run in runs if "heads" in run.parts and run.marks is None]
    if not maps:
        raise BadParameterError("No run scored heads.", "Score heads before attention is measured.")
    ranks = np.min([(-one).ravel().argsort(kind="stable").argsort(kind="stable") for one in maps], axis=0)
    chosen = sorted(np.argsort(ranks, kind="stable")[:n].tolist())
    return [Head(*divmod(at, maps[0].shape[1])) for at in chosen]


def _seen(asked: Measure, batch: ContrastBatch, listed: Sequence[Head]) -> dict[str, Any]:
    from circuitlab.model.sites import Site  # noqa: PLC0415
    from circuitlab.model.token_text import texts_of  # noqa: PLC0415 - torch

    tokenizer = asked.model.tokenizer
    pairs = []
    for row in range(batch.n_pairs):
        stop = int(batch.end[row]) + 1
        answer, foil = (int(ids[row, 0]) for ids in (batch.answers, batch.foils))
        pair: dict[str, Any] = {
            side: list(texts_of(tokenizer, ids[row, :stop].tolist())) for side, ids in (("clean", batch.clean), ("corrupt", batch.corrupt))
        }
        pair |= {"answer": texts_of(tokenizer, [answer])[0]} | ({"foil": texts_of(tokenizer, [foil])[0]} if foil >= 0 else {})
        pairs.append(pair | {"end": stop - 1, "marks": {name: int(at[row]) for name, at in batch.marks.items()}})
    if reason := asked.model.lacks.get(Site.PATTERN, ""):
        return {"pairs": pairs, "attention": [], "lacks": f"{asked.model.spec.name} has no attention patterns: {reason}."}
    shown = [
        {"pair": row, "side": side} | _rows(asked.model, batch.select([row]), side, listed)
        for row in range(min(asked.shown, batch.n_pairs))
        for side in ("clean", "corrupt")
    ]
    return {"pairs": pairs, "attention": shown, "lacks": ""}


def _rows(model: Model, one: ContrastBatch, side: str, listed: Sequence[Head]) -> dict[str, Any]:
    """Sparse rows of one prompt, and the norm of what heads write for each key's value where the model has values to read."""
    from circuitlab.model.sites import Site  # noqa: PLC0415 - torch

    sites = [site for site in (Site.PATTERN, Site.V) if site in model.sites]
    captured = model.capture(one.clean if side == "clean" else one.corrupt, sites, marks=dict(one.marks))
    layers, heads = [head.layer for head in listed], [head.head for head in listed]
    pattern = captured[Site.PATTERN][0].double().cpu().numpy()[layers, heads]
    rows: dict[str, Any] = {"heads": [str(head) for head in listed]} | sparse_attention(pattern)
    if Site.V in captured:
        rows["value_norms"] = pack_byte(_value_norms(model, captured[Site.V][0], listed))
    return rows


def _value_norms(model: Model, values: Tensor, listed: Sequence[Head]) -> np.ndarray:
    """Norm of each key's value through a head's output matrix, before any norm behind it, (listed head, key)."""
    group, weights, norms = model.spec.n_heads // model.spec.n_kv_heads, model.weights, {}
    for layer in dict.fromkeys(head.layer for head in listed):
        output = weights.output(layer).double()
        for head in (one.head for one in listed if one.layer == layer):
            written = values[layer, :, head // group].double() @ output[head]
            norms[layer, head] = written.norm(dim=-1).cpu().numpy()
    return np.stack([norms[head.layer, head.head] for head in listed])


def _cards(asked: Measure, runs: Sequence[HeadScores], prompts: Mapping[str, Prompts]) -> dict[str, str]:
    """What the strongest heads write, why they look, what is different without them, and which heads are like them."""
    from circuitlab.workflows.card_parts import Asked, continuations_of, knockouts_of, why_of  # noqa: PLC0415 - torch
    from circuitlab.workflows.card_runs import CardRuns  # noqa: PLC0415
    from circuitlab.workflows.card_weights import similar_heads, written_tokens  # noqa: PLC0415
    from circuitlab.workflows.head_card import CHEAP_ROLES  # noqa: PLC0415
    from circuitlab.workflows.roles import roles as measure_roles  # noqa: PLC0415

    batches = {name: asked.batch(run, prompts) for name, run in _by_task(runs).items()}
    table = measure_roles(asked.model, list(CHEAP_ROLES), store=asked.store)
    heads = strongest_heads(runs, asked.cards)
    shared = CardRuns(asked.model, tuple(heads))
    for number, head in enumerate(heads):
        card = Asked(asked.model, head, batches, {}, asked.shown, shared)
        identity = {"version": _VERSION, "model": asked.model.spec.identity(), "head": str(head), "pairs": asked.shown}
        identity |= {"prompts": [batch.task.digest for batch in batches.values()], "roles": sorted(table.scores)}

        def gather(card: Asked = card) -> dict[str, Any]:
            sections: dict[str, Section[Any]] = {
                "tokens": written_tokens(card, ()),
                "why": why_of(card),
                "knockout": knockouts_of(card),
                "continuations": continuations_of(card, None),
                "similar": similar_heads(card, table),
            }
            return {
                name: {"entries": [dataclasses.asdict(entry) for entry in section.entries], "absent": dict(section.absent)}
                for name, section in sections.items()
            }

        with progress_part(number / len(heads), (number + 1) / len(heads)):
            asked.store.get_or_compute(identity, CARDS, gather)
    return {}


def _by_task(runs: Sequence[HeadScores]) -> dict[str, HeadScores]:
    """One run of each task by the name that a page gives the task."""
    names = Names(tuple(runs))
    by_task: dict[str, HeadScores] = {}
    for run in runs:
        by_task.setdefault(str(names.task(run.provenance)), run)
    return by_task


def _roles(asked: Measure, runs: Sequence[HeadScores], prompts: Mapping[str, Prompts]) -> dict[str, str]:
    """Every role but those that take minutes."""
    del runs, prompts
    from circuitlab.workflows.roles import roles as measure_roles  # noqa: PLC0415 - torch

    table = measure_roles(asked.model, store=asked.store)
    return {f"roles/{name}": reason for name, reason in table.refused.items()}


def _edges(asked: Measure, runs: Sequence[HeadScores], prompts: Mapping[str, Prompts]) -> dict[str, str]:
    """Every typed edge of each task by edge attribution patching, which costs a few passes."""
    from circuitlab.execute.contract import provenance_of  # noqa: PLC0415
    from circuitlab.metrics import METRICS, get_metric  # noqa: PLC0415 - torch
    from circuitlab.workflows.score import edge_method, edges_of_batch  # noqa: PLC0415

    method, by_task = edge_method("eap"), {run.provenance.task.digest: run for run in runs}
    for number, run in enumerate(by_task.values()):
        step(number, len(by_task))
        if run.provenance.metric not in METRICS:
            return {_LISTS["edges"]: f"Edges are scored by a metric that circuitlab knows; the runs are of {run.provenance.metric}."}
        batch, metric = asked.batch(run, prompts), get_metric(run.provenance.metric)
        about = provenance_of(method, asked.model, batch, metric)
        edges_of_batch(asked.model, batch, method, metric, about, store=asked.store)
    return {}


def _text(asked: Measure, runs: Sequence[HeadScores], prompts: Mapping[str, Prompts]) -> dict[str, str]:
    """All heads on natural text, at once."""
    del prompts
    from circuitlab.workflows.head_on_text import head_on_text  # noqa: PLC0415 - torch

    for head in strongest_heads(runs, 1)[:1]:
        head_on_text(asked.model, head, store=asked.store)
    return {}


def _circuits(asked: Measure, runs: Sequence[HeadScores], prompts: Mapping[str, Prompts]) -> dict[str, str]:
    """The circuit of every run that scored heads, kept alone."""
    from circuitlab.circuits import TopK  # noqa: PLC0415
    from circuitlab.workflows.card_parts import REFUSALS  # noqa: PLC0415
    from circuitlab.workflows.circuit import evaluate  # noqa: PLC0415 - torch

    refused = {}
    for run in runs:
        if "heads" not in run.parts or run.marks is not None:
            continue
        about, circuit = run.provenance, TopK(min(20, run.mean("heads").size))(run)
        try:
            evaluate(asked.model, circuit, prompts.get(about.task.digest, about.task.id), scores=run, store=asked.store)
        except REFUSALS as error:
            refused[f"circuits/{about.run_id()}-circuit"] = str(error)
    return refused


MEASURES: dict[str, Callable[[Measure, Sequence[HeadScores], Mapping[str, Prompts]], dict[str, str]]] = {
    "attention": _attention,
    "roles": _roles,
    "cards": _cards,
    "edges": _edges,
    "text": _text,
    "circuits": _circuits,
}
"""Parts of a page by name, in the order in which they are measured."""

_LISTS = {"attention": "attention", "roles": "roles", "cards": "cards"}
_LISTS |= {"edges": "circuits/edges", "text": "cards/on_text", "circuits": "circuits"}
"""What ``absent`` of a payload calls each."""

_LABELS = {"attention": "attention", "cards": "cards of the strongest heads", "edges": "edges"}
_LABELS |= {"text": "natural text", "circuits": "faithfulness"}
"""What the bar of each says is measured."""
