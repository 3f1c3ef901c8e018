"""Python that makes a view, written from the data of the view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from circuitlab.core.errors import CircuitlabError
from circuitlab.execute.contract import effective_params
from circuitlab.methods import get_method
from circuitlab.tasks import list_tasks, load_task

if TYPE_CHECKING:
    from circuitlab.core.provenance import ModelSpec, Provenance

__all__ = ["attention_code", "card_code", "circuit_code", "compare_code", "page_code", "positions_code", "score_code"]

_HEAD = "import circuitlab as cl\n\n"


def _model(spec: ModelSpec) -> str:
    edited = "" if not spec.edits else "  # with the interventions of this run: model.edited(...)"
    return f"model = cl.load_model({spec.name!r}){edited}\n"


def _prompts(about: Provenance) -> tuple[str, str]:
    """A line before the call and the argument that stands for the prompts."""
    if about.weights_only:
        return "", "None"
    if about.task.id in list_tasks():
        return "", repr(about.task.id)
    return f"# prompts: your own ({about.task.id!r}), as a Task, a table or a ContrastBatch\n", "prompts"


def _draws(about: Provenance) -> str:
    if about.weights_only:
        return ""
    words = [f"n={about.task.n_pairs}"]
    task = load_task(about.task.id) if about.task.id in list_tasks() else None
    if task is not None and about.task.variant != task.default_variant:
        words.append(f"variant={about.task.variant!r}")
    if about.task.seed:
        words.append(f"seed={about.task.seed}")
    if task is not None and about.metric != task.metric:
        words.append(f"metric={about.metric!r}")
    return "".join(f", {word}" for word in words)


def _method(about: Provenance) -> str:
    """The method's name, or a call that sets the parameters that are not its defaults."""
    try:
        defaults: dict[str, Any] = effective_params(get_method(about.method))
    except CircuitlabError:  # a method of the user's own is not in the registry
        return "your_method"
    changed = {name: value for name, value in about.params.items() if name not in defaults or defaults[name] != value}
    return f"cl.methods.get_method({about.method!r}, {changed!r})" if changed else repr(about.method)


def score_code(about: Provenance) -> str:
    """Python that gives the scores of a run.

    Examples
    --------
    >>> from circuitlab.testing.fakes import fake_provenance
    >>> print(score_code(fake_provenance(1, 2)).splitlines()[-2])
    scores = cl.score(model, prompts, 'activation_patching', n=1)
    """
    before, prompts = _prompts(about)
    return f"{_HEAD}{_model(about.model)}{before}scores = cl.score(model, {prompts}, {_method(about)}{_draws(about)})\nscores.top(10)\n"


def circuit_code(about: Provenance, size: int) -> str:
    """Python that selects and evaluates the circuit of a run."""
    before, prompts = _prompts(about)
    call = f"{prompts}, {_method(about)}{_draws(about)}"
    evaluate = f"cl.evaluate(model, circuit, {prompts}, scores=cl.score(model, {call}))\n"
    return (
        f"{_HEAD}{_model(about.model)}{before}circuit = cl.find_circuit(model, {call.replace(', n=', f', rule={size}, n=', 1)})\n{evaluate}"
    )


def positions_code(about: Provenance) -> str:
    """Python that gives the strongest heads of every position of a run that is resolved by position."""
    return f"{score_code(about).rpartition('scores.top')[0]}{{mark: scores.top(10, mark=mark) for mark in scores.marks}}\n"


def compare_code(first: Provenance, second: Provenance, k: int) -> str:
    """Python that compares two runs."""
    a, b = (
        f"{name} = cl.score(model, {_prompts(about)[1]}, {_method(about)}{_draws(about)})\n"
        for name, about in (("first", first), ("second", second))
    )
    if first.model.identity() != second.model.identity():
        b, over = f"{_model(second.model)}{b}", "models"
    else:
        over = "tasks" if first.method == second.method else "methods"
    call = f"cl.comparison.compare_{over}({{'first': first, 'second': second}}, cl.TopK({k}))\n"
    return f"{_HEAD}{_model(first.model)}{_prompts(first)[0]}{a}{b}{call}"


def attention_code(about: Provenance) -> str:
    """Python that gives the attention of a head on a run's prompts; ``{head}`` stands for its name and ``{pair}`` for the pair's number."""
    look = "model.attention('{head}', batch.select([{pair}]))\n"
    before, prompts = _prompts(about)
    if prompts == "prompts":
        return f"{_HEAD}{_model(about.model)}{before.replace('prompts', 'batch', 1)}{look}"
    draws = f"{about.task.n_pairs}, variant={about.task.variant!r}, seed={about.task.seed}"
    batch = f"batch = prepare_batch(model, {prompts}, {draws})\n"
    return f"{_HEAD}from circuitlab.model.prepare import prepare_batch\n\n{_model(about.model)}{batch}{look}"


def card_code(spec: ModelSpec, tasks: Sequence[str]) -> str:
    """Python that gives a head's card; ``{head}`` stands for its name."""
    known = [task for task in tasks if task in list_tasks()]
    return f"{_HEAD}{_model(spec)}cl.head_card(model, '{{head}}', {known!r})\n"


def page_code(specs: Sequence[ModelSpec], tasks: Sequence[str], methods: Sequence[str]) -> str:
    """Python that makes a page of one model or several."""
    known = [repr(task) for task in tasks if task in list_tasks()]
    own = [task for task in tasks if task not in list_tasks()]
    note = f"# prompts: your own ({', '.join(own)}), as a Task, a table or a ContrastBatch\n" if own else ""
    rest = f"tasks=[{', '.join([*known, *(['prompts'] if own else [])])}], methods={list(methods)!r}).save('page.html')\n"
    if len(specs) == 1 and not specs[0].edits and not own:
        return f"{_HEAD}cl.explore({specs[0].name!r}, {rest}"
    if len(specs) == 1:
        return f"{_HEAD}{_model(specs[0])}{note}cl.explore(model, {rest}"
    lines = [_model(spec).replace("model = ", f"model_{number} = ") for number, spec in enumerate(specs, 1)]
    return f"{_HEAD}{''.join(lines)}{note}cl.explore([{', '.join(f'model_{number}' for number in range(1, len(specs) + 1))}], {rest}"
