"""The diagnosis of `circuitlab doctor`: which sites and methods of a model are exact, run by hooks, or are refused, and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch

from circuitlab.core.errors import CircuitlabError, ModelError, WeightsError
from circuitlab.execute.needs import refusal
from circuitlab.methods import get_method, list_methods
from circuitlab.model import load_model
from circuitlab.model.anatomy.build import probe_tokens
from circuitlab.model.hooks import own_modes
from circuitlab.model.sites import Site
from circuitlab.testing.laws import LawResult
from circuitlab.testing.model_laws import model_laws

if TYPE_CHECKING:
    from circuitlab.core.provenance import ModelSpec
    from circuitlab.model.hooked import HookedModel

__all__ = ["Diagnosis", "Verdict", "diagnose"]

State: TypeAlias = Literal["exact", "hooks", "refused"]

_READING = {"code_overlap", "random"}
"""Methods that only read unedited runs, which are always the model's own forward pass."""

_BY_HOOKS = {"hooks", "writes", "unedited"}
_LENGTHS = (2, 9, 16, 7)
_CLOSE = {"float64": 1e-6, "float32": 1e-4}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether and how one site or method can be used on a model.

    Parameters
    ----------
    state : {"exact", "hooks", "refused"}
        ``"exact"``: by the functional decoder, which computes only what an edit can reach. ``"hooks"``: by the model's own forward pass
        with hooks; the same numbers, slower. ``"refused"``: not at all.
    reason : str
        Why it is not exact; empty if it is.
    """

    state: State
    reason: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What works on a model, and what does not.

    Parameters
    ----------
    model, family : str
    logits_ok : bool
        Whether logits equal those of the model run without circuitlab, at several lengths.
    reason : str
        Why the model is refused, or what is wrong with its logits; empty if nothing is.
    sites, methods : mapping of str to Verdict
        By name. Methods have their default parameters.
    laws : list of LawResult
        See `check_model`.
    spec : ModelSpec or None
        None for a model that could not be loaded.
    """

    model: str
    family: str
    logits_ok: bool
    reason: str
    sites: Mapping[str, Verdict]
    methods: Mapping[str, Verdict]
    laws: list[LawResult] = field(default_factory=list)
    spec: ModelSpec | None = None

    @property
    def ok(self) -> bool:
        """Whether logits are right and every law holds."""
        return self.logits_ok and all(law.ok for law in self.laws)


def diagnose(source: Any, *, laws: bool = True) -> Diagnosis:
    """Load a model and check what works on it.

    A model that cannot be loaded does not raise: its diagnosis holds the reason.

    Parameters
    ----------
    source : str, Path, PreTrainedModel or HookedModel
        As for `circuitlab.load_model`, or a loaded model.
    laws : bool
        Whether to run the laws of models.

    Returns
    -------
    Diagnosis
    """
    loaded = source if hasattr(source, "parts") else None
    name = loaded.spec.name if loaded is not None else str(source) if isinstance(source, str | Path) else type(source).__name__
    try:
        model: HookedModel = load_model(source) if loaded is None else loaded
    except (ModelError, WeightsError) as error:
        return _refused(name, _family_of(source), str(error))
    try:
        problem = _logits_wrong(model)
        decoder = _no_decoder(model)
        sites = {site.value: _site(model, site, decoder) for site in Site}
        methods = {method: _method(model, method, decoder) for method in list_methods()}
        results = model_laws(model) if laws else []
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ModelError) as error:
        reason = f"a check failed with {type(error).__name__}: {error}"
        return _refused(name, model.spec.family, reason)
    return Diagnosis(name, model.spec.family, not problem, problem, sites, methods, results, model.spec)


def _refused(name: str, family: str, reason: str) -> Diagnosis:
    verdict = Verdict("refused", reason)
    return Diagnosis(
        name, family, False, reason, dict.fromkeys((site.value for site in Site), verdict), dict.fromkeys(list_methods(), verdict)
    )


def _family_of(source: Any) -> str:
    """The ``model_type`` in a model's config, also of a model that cannot be loaded."""
    family = getattr(getattr(source, "config", None), "model_type", None)
    path = Path(source) / "config.json" if isinstance(source, str | Path) else None
    if family is None and path is not None and path.is_file():
        try:
            family = json.loads(path.read_text(encoding="utf-8")).get("model_type")
        except (ValueError, AttributeError):
            return "unknown"
    return str(family or "unknown")


def _logits_wrong(model: HookedModel) -> str:
    """How the logits differ from the model's own without circuitlab, with short prompts after long ones; empty if they do not."""
    for length in _LENGTHS:
        tokens = probe_tokens(model.spec.d_vocab, 2, length, next(model.root.parameters()).device)
        with own_modes(model.root):
            expected = model.root(input_ids=tokens, use_cache=False).logits[:, -1].float()
        logits = model.logits(tokens, torch.full((2,), length - 1)).float()
        error, scale = float((logits - expected).abs().max()), max(1.0, float(expected.abs().max()))
        if not error <= _CLOSE.get(model.spec.dtype, 3e-2) * scale:
            return f"logits differ from the model's own by {error:.2g} at {length} tokens"
    return ""


def _no_decoder(model: HookedModel) -> str:
    """Why there is no functional decoder; empty if there is one."""
    try:
        return "" if model.decoder.blocks and model.weights.final_norm is not None else "it has no layers"
    except ModelError as error:
        return error.what


def _site(model: HookedModel, site: Site, no_decoder: str) -> Verdict:
    if site in model.lacks:
        return Verdict("refused", model.lacks[site])
    return Verdict("hooks", no_decoder) if no_decoder else Verdict("exact")


def _method(model: HookedModel, name: str, no_decoder: str) -> Verdict:
    method = get_method(name)
    try:
        reason = refusal(method, model)
    except CircuitlabError as error:
        reason = error.what
    if reason:
        return Verdict("refused", reason)
    if name in _READING:
        return Verdict("hooks", "it reads the model's own forward pass")
    return Verdict("hooks", no_decoder) if no_decoder and set(method.needs) <= _BY_HOOKS else Verdict("exact")
