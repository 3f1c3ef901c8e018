"""Explore a model's heads: find stored runs, or score first, and put everything that is known into one page."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from circuitlab.core.errors import BadParameterError
from circuitlab.core.files import require_writable
from circuitlab.explorer.payload import build_payload
from circuitlab.explorer.runs import Wanted, find_runs
from circuitlab.explorer.sources import Sources
from circuitlab.explorer.stored import gather, sources_of_store
from circuitlab.methods import get_method
from circuitlab.model.aliases import ALIASES
from circuitlab.scores.head_scores import HeadScores
from circuitlab.store import Cache
from circuitlab.tasks import sample_pairs
from circuitlab.tasks.spec import Task

if TYPE_CHECKING:
    from circuitlab.explorer.widget import Explorer
    from circuitlab.methods import MethodLike
    from circuitlab.model.protocol import Model
    from circuitlab.workflows.prompts import Prompts

__all__ = ["AT_ONCE", "METHODS", "Explored", "explore", "explored"]

Explored: TypeAlias = "Model | str | Path | Cache | HeadScores | Sequence[HeadScores] | Sequence[Model | str]"
"""A model or its name, several of them, a store of runs, or scores."""

METHODS = ("activation_patching", "logit_attribution")
"""Methods that score where none is named and no run is stored."""

_SEVERAL = "Use EdgeScores.to_head_scores() for scores of edges, and store= for a folder beside models."

AT_ONCE = ("attention", "roles", "cards", "edges")
"""Parts that are measured where the model is loaded anyway."""


def explore(
    source: Explored,
    tasks: Sequence[Prompts] | Prompts = (),
    methods: Sequence[MethodLike] | MethodLike = (),
    *,
    n: int | None = None,
    measure: Sequence[str] | str | None = None,
    store: Cache | str | Path | None = None,
) -> Explorer:
    """Look at heads, attention, circuits and comparisons in one page, in a notebook or as a file.

    Parameters
    ----------
    source : Model, str, Path, Cache, HeadScores, or a sequence of HeadScores or of models
        A model from `circuitlab.load_model`; the name of a model, whose runs are looked up in the store before it is loaded (that of a
        file or folder is loaded first: its weights may have changed); a folder of runs (Path or Cache); or scores. Several models, or a
        model and an edited one, are shown side by side and compared.
    tasks : str, Path, Task or ContrastBatch, or a sequence of them
        As for `circuitlab.score`. Of a name and a folder: names, with a variant behind a colon; every stored task if there is none.
    methods : str, Method or type, or a sequence of them
        Methods; every stored one if there is none, or activation patching and logit attribution where nothing is stored.
    n : int, optional
        Prompt pairs of each task. Any stored run fits if it is not given, and 16 pairs are scored where there is none.
    measure : "all", sequence of str, optional
        What to measure with the model beside scores, where it is not stored: ``"attention"``, ``"roles"``, ``"cards"`` (the strongest
        heads), ``"edges"`` (of the circuits), ``"text"`` (heads on natural text), ``"circuits"`` (faithfulness). By default the first
        four if the model is loaded anyway, and otherwise nothing: a page of stored runs needs no model.
    store : Cache, str or Path, optional
        Where to look first and to keep everything; for the name of a model ``$CIRCUITLAB_STORE`` or ``runs``. For a model nothing is kept
        if it is not given.

    Returns
    -------
    Explorer
        In a notebook it shows itself; ``save("page.html")`` writes one file that needs no network.

    Raises
    ------
    BadParameterError
        If nothing is stored and no task is named, or what is given does not go together.
    CircuitlabError
        Any error of tasks, models, methods and stores.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("copy-gqa")
    >>> explorer = cl.explore(planted.model, [planted.batch(4)], "activation_patching", measure=["attention"])
    >>> [len(explorer.payload[name]) for name in ("scores", "attention", "roles")]
    [1, 4, 0]
    >>> explorer.save("page.html").name
    'page.html'
    >>> without = planted.model.edited(cl.interventions.Knockout(["a0.h0"], "zero"))
    >>> both = cl.explore([planted.model, without], [planted.batch(4)], "activation_patching", measure=[])
    >>> [model["edited"] for model in both.payload["models"]], len(both.payload["overlap"])
    ([False, True], 1)
    >>> cl.explore("smollm2-135m", ["ioi", "successor"])  # doctest: +SKIP
    """
    from circuitlab.explorer.widget import Explorer  # noqa: PLC0415 - ipywidgets

    return Explorer(build_payload(explored(source, tasks, methods, n=n, measure=measure, store=store)))


def explored(
    source: Explored,
    tasks: Sequence[Prompts] | Prompts = (),
    methods: Sequence[MethodLike] | MethodLike = (),
    *,
    n: int | None = None,
    measure: Sequence[str] | str | None = None,
    store: Cache | str | Path | None = None,
) -> Sources:
    """What `explore` shows; parameters and errors are the same."""
    cache = store if store is None or isinstance(store, Cache) else Cache(store)
    scores = [source] if isinstance(source, HeadScores) else source
    parts = None if measure is None else [measure] if isinstance(measure, str) else list(measure)
    if parts is not None:
        from circuitlab.explorer.measurements import measured_parts  # noqa: PLC0415

        parts = measured_parts(parts)
    request = _Request(_listed(tasks), _listed(methods), n, parts)
    if isinstance(scores, list | tuple):
        models = scores and all(isinstance(one, str) or hasattr(one, "spec") for one in scores)
        return request.of_models(scores, cache) if models else _of_scores(scores, parts, cache)
    if isinstance(scores, Path | Cache):
        return request.of_store(scores if isinstance(scores, Cache) else Cache(scores), "")
    if isinstance(scores, str):
        return request.of_store(cache or Cache(), scores)
    return request.of_model(scores, cache)  # type: ignore[arg-type]


def _listed(given: Any) -> list[Any]:
    """A list of what was given one by one or as a sequence."""
    from circuitlab.model.batch import ContrastBatch  # noqa: PLC0415

    alone = isinstance(given, str | Path | Task | ContrastBatch | type) or callable(given)
    return [given] if alone else list(given)


def _of_scores(scores: Sequence[HeadScores], parts: Sequence[str] | None, cache: Cache | None) -> Sources:
    if parts:
        raise BadParameterError(f"{', '.join(parts)} need a model, and scores were given.", "Give the model, or its name.")
    if not all(isinstance(one, HeadScores) for one in scores):
        kinds = ", ".join(sorted({type(one).__name__ for one in scores}))
        raise BadParameterError(f"Several things to explore are HeadScores, or models; got {kinds}.", _SEVERAL)
    return Sources(tuple(scores)) if cache is None else gather(cache, scores)


@dataclass(frozen=True, eq=False)
class _Request:
    """What a page is to show, and what may be measured for it."""

    tasks: Sequence[Any]
    methods: Sequence[Any]
    n: int | None
    parts: Sequence[str] | None

    def of_store(self, cache: Cache, model: str) -> Sources:
        """Stored runs; the model is loaded by its name only where something has to be measured."""
        names = [str(task) for task in self.tasks if isinstance(task, str | Path)]
        if len(names) < len(self.tasks):
            raise BadParameterError("Stored runs are found by the names of tasks.", "Give the model itself for prompts of your own.")
        if _is_file(model):
            return self._of_file(cache, model)
        wanted = Wanted(model, tuple(names), tuple(get_method(one).name for one in self.methods), self.n)
        run_ids, missing = find_runs(cache, wanted)
        if run_ids and not missing and not self.parts:
            return sources_of_store(cache, run_ids)
        if not model:
            return self._without_model(cache, run_ids, missing)
        if not run_ids and not names:
            what = f"{cache.root} holds no runs of {model}."
            raise BadParameterError(what, "Name tasks to score, such as tasks=['ioi'].")
        return self._loaded(cache, model, tuple(names) or tuple(_tasks_of(cache, run_ids)))

    def of_models(self, models: Sequence[Model | str], cache: Cache | None) -> Sources:
        """Several models, each as `of_store` or `of_model` would show it alone, from one store."""
        with ExitStack() as stack:
            if cache is None and any(isinstance(one, str) for one in models):
                cache = Cache()
            if cache is None:
                cache = Cache(stack.enter_context(tempfile.TemporaryDirectory(prefix="circuitlab-")))
            parts = [self.of_store(cache, one) if isinstance(one, str) else self.of_model(one, cache) for one in models]
            runs = {run.provenance.run_id(): run for part in parts for run in part.runs}
            refused = {name: reason for part in parts for name, reason in part.refused.items()}
            return replace(gather(cache, list(runs.values())), refused=refused)

    def _of_file(self, cache: Cache, model: str) -> Sources:
        """A model in a file or folder: what is stored of it is known by its weights, and these only once it is loaded."""
        if not self.tasks:
            raise BadParameterError(f"No task was named for {model}.", "Name one, such as tasks=['ioi'].")
        return self._loaded(cache, model, self.tasks)

    def _loaded(self, cache: Cache, model: str, tasks: Sequence[Any]) -> Sources:
        """Load the model, after names that cannot be used and a store that cannot be written were found."""
        for method in self.methods:
            get_method(method)
        for task in tasks:
            if isinstance(task, str):
                name, _, variant = task.partition(":")
                next(sample_pairs(name, variant=variant or None))
        require_writable(cache.root)
        from circuitlab.model import load_model  # noqa: PLC0415 - torch
        from circuitlab.workflows.terminal import CellProgress, say  # noqa: PLC0415

        parts = ", ".join(AT_ONCE if self.parts is None else self.parts)
        say(f"What {cache.root} does not hold is scored on {model} and kept there{f', and so are {parts}' if parts else ''}.")
        with CellProgress(f"loading {model}"):
            loaded = load_model(model)
        return replace(self, tasks=tasks).of_model(loaded, cache)

    def _without_model(self, cache: Cache, run_ids: Sequence[str], missing: Sequence[tuple[str, str]]) -> Sources:
        if self.parts:
            raise BadParameterError(f"{', '.join(self.parts)} need a model, and a folder was given.", "Give the model, or its name.")
        lacking = ", ".join(f"{task} x {method}" for task, method in missing) or "runs that fit"
        if missing or not run_ids:
            raise BadParameterError(f"{cache.root} lacks {lacking}.", "Score them first, or give the model's name with store=.")
        return sources_of_store(cache, run_ids)

    def of_model(self, model: Model, cache: Cache | None) -> Sources:
        """Score what is not stored, measure, and gather."""
        from circuitlab.explorer.measurements import Measure  # noqa: PLC0415
        from circuitlab.workflows.score import score  # noqa: PLC0415 - torch

        if not self.tasks:
            raise BadParameterError("No task was named.", "Name one, such as tasks=['ioi'].")
        with ExitStack() as stack:
            if cache is None:
                cache = Cache(stack.enter_context(tempfile.TemporaryDirectory(prefix="circuitlab-")))
            runs, prompts = [], {}
            for task in self.tasks:
                name, _, variant = task.partition(":") if isinstance(task, str) else (task, "", "")
                for method in self.methods or METHODS:
                    runs.append(score(model, name, method, n=self.n or 16, variant=variant or None, store=cache))
                    prompts[runs[-1].provenance.task.digest] = name
            unique = list({run.provenance.run_id(): run for run in runs}.values())
            refused = Measure(model, cache)(unique, prompts, AT_ONCE if self.parts is None else self.parts)
            return replace(gather(cache, unique), refused=refused)


def _is_file(model: str) -> bool:
    return bool(model) and model not in ALIASES and Path(model).expanduser().exists()


def _tasks_of(cache: Cache, run_ids: Sequence[str]) -> list[str]:
    """Tasks of stored runs, each with its variant."""
    refs = [cache.read(run_id).provenance.task for run_id in run_ids]
    return list(dict.fromkeys(f"{ref.id}:{ref.variant}" for ref in refs if ref.n_pairs))
