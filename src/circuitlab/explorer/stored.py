"""Gather what a store holds about some runs: roles, attention, cards, circuits, edges, transfer and grades. No model is loaded."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from circuitlab.core.errors import ScoreFileError
from circuitlab.core.provenance import digest
from circuitlab.execute.contract import effective_params
from circuitlab.explorer.documents import about_model, documents_about, documents_named, is_name, stored_provenances
from circuitlab.explorer.names import Names
from circuitlab.explorer.showing import require_shown
from circuitlab.explorer.sources import Sources, StoredCards, StoredCircuit, StoredPrompts
from circuitlab.methods.roles import get_role, role_classes
from circuitlab.scores.role_scores import RoleProvenance, RoleScores
from circuitlab.scores.values_digest import values_digest
from circuitlab.store import EDGE_SCORES, Documents
from circuitlab.workflows.head_on_text import ON_TEXT
from circuitlab.workflows.roles import ROLES

if TYPE_CHECKING:
    from circuitlab.core.provenance import ModelSpec, Provenance
    from circuitlab.scores.edge_scores import EdgeScores
    from circuitlab.scores.head_scores import HeadScores
    from circuitlab.store import Cache, Document

__all__ = ["ATTENTION", "CARDS", "circuit_of_analysis", "gather", "on_text_part", "page_records", "sources_of_store"]

ATTENTION, CARDS = Documents("attention"), Documents("cards")
"""Where tokens and attention of a task's prompts, and the measured parts of heads' cards, are kept."""
_EDGES = "edges"
_EVALUATIONS, _ANALYSES = Documents("evaluations"), Documents("analyses")


def sources_of_store(cache: Cache, run_ids: Sequence[str]) -> Sources:
    """Everything that a store holds about these runs.

    Raises
    ------
    ScoreFileError
        If a run is not stored or cannot be read.
    """
    return gather(cache, tuple(cache.read(run_id) for run_id in run_ids))


def gather(cache: Cache, runs: Sequence[HeadScores], records: Mapping[str, Sequence[str]] | None = None) -> Sources:
    """Everything that a store holds about runs that may or may not be in it.

    Parameters
    ----------
    cache : Cache
        The store.
    runs : sequence of HeadScores
        Scores.
    records : mapping of str to sequence of str, optional
        What is read, by kind, as `page_records` gives it, so that the same runs give the same page whatever else is stored.
    """
    stored, specs = _Stored(cache, runs, records), _specs(runs)
    ids, analyses = [run.provenance.run_id() for run in runs], stored.documents(_ANALYSES)
    edges = stored.edge_scores
    cards, on_text = stored.documents(CARDS), stored.documents(ON_TEXT)
    return Sources(
        runs=tuple(runs),
        roles=tuple(_roles(stored.documents(ROLES), specs)),
        prompts=tuple(_prompts(stored.documents(ATTENTION))),
        cards=tuple(_cards(cards, on_text)),
        circuits=(*_of_analyses(analyses, ids), *_circuits(stored.documents(_EVALUATIONS), stored.rankings)),
        edges=edges,
        transfers=tuple(_transfers(analyses, ids)),
        planted=_planted(reversed(analyses)),
    )


def page_records(cache: Cache, runs: Sequence[HeadScores]) -> dict[str, list[str]]:
    """Names of what is stored of these runs' models beside scores, by kind, and the runs whose edges are scored.

    What cannot be shown is named in a warning and left out.
    """
    stored = _Stored(cache, runs, None)
    kinds = (ROLES, ATTENTION, CARDS, ON_TEXT)
    records = {codec.kind: sorted(codec.name(one.about) for one in stored.documents(codec)) for codec in kinds}
    return records | {_EDGES: sorted(stored.edges())}


@dataclass(frozen=True, eq=False)
class _Stored:
    """Documents about the models of some runs, or those that are named."""

    cache: Cache
    runs: Sequence[HeadScores]
    records: Mapping[str, Sequence[str]] | None

    def documents(self, codec: Documents) -> list[Document]:
        """Those that a page can show, the newest first."""
        shown = codec.checked(self._show)
        if self.records is not None:
            return documents_named(self.cache, shown, self.records.get(codec.kind, ()))
        if codec is _ANALYSES:
            return documents_about(self.cache, shown, lambda about: about.get("analysis") in ["circuits", "transfer", "planted"])
        return documents_about(self.cache, shown, about_model([run.provenance.model.identity() for run in self.runs]))

    def _show(self, document: Document) -> None:
        """Build what a page makes of one document; raises where it has not the form that it should have."""
        about, ids = document.about, [run.provenance.run_id() for run in self.runs]
        if "role" in about:
            part: dict[str, Any] = {"roles": tuple(_roles([document], _specs(self.runs)))}
        elif "ranking" in about:
            part = {"circuits": tuple(_circuits([document], self.rankings))}
        elif "analysis" in about:
            part = {"circuits": tuple(_of_analyses([document], ids)), "transfers": tuple(_transfers([document], ids))}
            part |= {"planted": _planted([document])}
        elif "task" in about:
            part = {"prompts": tuple(_prompts([document]))}
        else:
            part = {"cards": (StoredCards(about["model"], _parts(document)),)}
        require_shown(Sources(tuple(self.runs), edges=self.edge_scores, **part), self._names)

    @cached_property
    def _names(self) -> Names:
        return Names(tuple(self.runs))

    @cached_property
    def edge_scores(self) -> dict[str, EdgeScores]:
        """Scores of edges by run; a file that cannot be read is named in a warning and left out."""
        edges: dict[str, EdgeScores] = {}
        for run_id in self.edges():
            try:
                edges[run_id] = self.cache.read(run_id, EDGE_SCORES)
            except ScoreFileError as error:
                warnings.warn(f"{error} It is left out.", stacklevel=3)
        return edges

    @cached_property
    def rankings(self) -> dict[str, str]:
        """Run ids by the digest of their values."""
        return _ranking(self.runs, self.edge_scores)

    def edges(self) -> list[str]:
        """Runs with scores of edges: these, and for a model and prompts without one, the first other by method and run."""
        if self.records is not None:
            return [run_id for run_id in self.records.get(_EDGES, ()) if is_name(run_id) and self.cache.has(run_id, EDGE_SCORES)]
        own = {run.provenance.run_id(): _scored(run.provenance) for run in self.runs}
        others = {run_id: about for run_id, about in stored_provenances(self.cache, EDGE_SCORES).items() if _scored(about) in own.values()}
        chosen = [run_id for run_id in own if run_id in others and self.cache.has(run_id, EDGE_SCORES)]
        known = {own[run_id] for run_id in chosen}
        for run_id, about in sorted(others.items(), key=lambda entry: (entry[1].method, entry[0])):
            if _scored(about) not in known and self.cache.has(run_id, EDGE_SCORES):
                known.add(_scored(about))
                chosen.append(run_id)
        return chosen


def _scored(about: Provenance) -> tuple[str, str]:
    """The model and the prompts of a run."""
    return digest(about.model.identity()), about.task.digest


def _roles(documents: Iterable[Document], specs: Sequence[ModelSpec]) -> list[RoleScores]:
    """The newest record of every role, one with the role's own parameters before others."""
    chosen: dict[tuple[str, str], tuple[bool, RoleScores]] = {}
    for document in documents:
        name, params = str(document.about["role"]), document.about["params"]
        spec = next((spec for spec in specs if spec.identity() == document.about["model"]), None)
        if name not in role_classes() or spec is None:
            continue  # a role of an earlier version, or of a model that the page does not show
        usual = params == _plain(effective_params(get_role(name)))
        key = (digest(spec.identity()), name)
        if key not in chosen or (usual and not chosen[key][0]):
            chosen[key] = (usual, _role(document, spec))
    return [role for _, role in sorted(chosen.values(), key=lambda entry: entry[1].provenance.role)]


def _plain(params: Mapping[str, Any]) -> dict[str, Any]:
    import msgspec  # noqa: PLC0415 - as the store writes them

    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(dict(params)))
    return plain


def _role(document: Document, spec: ModelSpec) -> RoleScores:
    cls: Any = role_classes()[str(document.about["role"])]
    kept = document.result
    about = RoleProvenance(
        role=cls.name,
        params=document.about["params"],
        estimand=cls.estimand,
        units=cls.units,
        threshold=cls.threshold,
        null=cls.null,
        sample=kept["sample"],
        digest=str(document.about["inputs"]),
        model=spec,
        cite=cls.cite,
        kind=cls.kind,
        within=getattr(cls, "within", None),
    )
    return RoleScores.from_plain(kept, about)


def _prompts(documents: Iterable[Document]) -> list[StoredPrompts]:
    """Records of prompts, those with the most attention first."""
    ordered = sorted(documents, key=lambda one: -len(one.result["attention"]))
    fields = ("pairs", "attention", "lacks")
    return [StoredPrompts(one.about["model"], one.about["task"], *(one.result[field] for field in fields)) for one in ordered]


def _cards(documents: Sequence[Document], on_text: Sequence[Document]) -> list[StoredCards]:
    """Parts of cards, and the same heads on natural text."""
    cards = [StoredCards(one.about["model"], _parts(one)) for one in documents]
    for document in on_text:
        heads = {head for card in cards if card.model == document.about["model"] for head in card.parts}
        parts = {head: part for head, part in sorted(_parts(document).items()) if head in heads}
        cards.append(StoredCards(document.about["model"], parts))
    return cards


def _parts(document: Document) -> dict[str, Any]:
    """Parts of cards by head: of one head, or what is known of every head on text."""
    if "head" in document.about:
        return {str(document.about["head"]): document.result}
    return {head: {"on_text": on_text_part(part)} for head, part in document.result.items()}


def on_text_part(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a card about natural text, from `HeadOnText.to_dict`, without what is not known and without names."""
    return {name: value for name, value in plain.items() if name not in {"head", "model"} and value is not None}


def _specs(runs: Sequence[HeadScores]) -> list[ModelSpec]:
    return list({digest(run.provenance.model.identity()): run.provenance.model for run in runs}.values())


def _ranking(runs: Sequence[HeadScores], edges: Mapping[str, EdgeScores]) -> dict[str, str]:
    """Run ids by the digest of their values."""
    ranking = {values_digest(run): run.provenance.run_id() for run in runs}
    return ranking | {values_digest(scores): run_id for run_id, scores in edges.items()}


def _circuits(documents: Iterable[Document], ranking: Mapping[str, str]) -> list[StoredCircuit]:
    """Evaluations whose curve was ranked by one of these runs."""
    return [
        StoredCircuit(ranking[one.about["ranking"]], one.about["circuit"]["nodes"], one.about["circuit"]["edges"], "", one.result)
        for one in documents
        if one.about["ranking"] in ranking
    ]


def _of_analyses(documents: Iterable[Document], ids: Sequence[str]) -> list[StoredCircuit]:
    """Circuits of studies that were run with this store."""
    kept = [one for one in documents if one.about["analysis"] == "circuits" and one.about["runs"][0] in ids]
    return [circuit_of_analysis(one.about["runs"][0], one.result) for one in kept]


def circuit_of_analysis(run_id: str, result: Mapping[str, Any]) -> StoredCircuit:
    """The circuit in a result of the analysis ``circuits`` of a study."""
    circuit = result["circuit"]
    return StoredCircuit(run_id, circuit["nodes"], circuit["edges"], circuit["rule"], result, result["band"])


def _planted(documents: Iterable[Document]) -> dict[str, Any]:
    """Grades on planted models by method; of two the last."""
    return {str(one.about["cell"]): one.result["rows"] for one in documents if one.about["analysis"] == "planted"}


def _transfers(documents: Iterable[Document], ids: Sequence[str]) -> list[tuple[dict[str, str], dict[str, Any]]]:
    """Transfer tables of studies, where none of their tasks was left out: then the runs are in the order of the tasks."""
    tables = [one for one in documents if one.about["analysis"] == "transfer" and set(one.about["runs"]) & set(ids)]
    whole = [one for one in tables if len(one.result["tasks"]) == len(one.about["runs"])]
    return [(dict(zip(one.result["tasks"], one.about["runs"], strict=True)), one.result) for one in whole[:1]]
