"""A loaded Hugging Face model as a circuitlab model: its own forward pass with taps, and a functional decoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from circuitlab.core.errors import ModelError
from circuitlab.core.html import html_table
from circuitlab.model.attention import attention_of_head
from circuitlab.model.decoder.build import build_decoder
from circuitlab.model.edit_tap import EditTap, require_site
from circuitlab.model.engine import Engine
from circuitlab.model.generate import Decoding, Writer, cache_is_exact
from circuitlab.model.hooks import HookedRun, full_precision, own_modes
from circuitlab.model.identity import Fingerprint
from circuitlab.model.inside import require_tokens, token_grid
from circuitlab.model.loaded import LoadedModel
from circuitlab.model.places import Places, Tap
from circuitlab.model.prompts import read_prompts
from circuitlab.model.readout import Readout
from circuitlab.model.sites import Edit, Site

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from circuitlab.core.nodes import Head
    from circuitlab.core.provenance import ModelSpec
    from circuitlab.model.anatomy import ModelParts
    from circuitlab.model.decoder import Decoder
    from circuitlab.model.generate import Generation
    from circuitlab.model.interventions import Intervention, Standing
    from circuitlab.model.prompts import PromptLike
    from circuitlab.model.runner import Runner
    from circuitlab.model.sites import EditSet
    from circuitlab.scores.attention import AttentionPattern

__all__ = ["HookedModel"]


class HookedModel:
    """A loaded Hugging Face model. It is never changed: hooks are added for one run and removed after it.

    Parameters
    ----------
    root : PreTrainedModel
        The model.
    tokenizer : PreTrainedTokenizerBase or None
        Its tokenizer; without one the model takes token ids only.
    name : str
        Its name in results and messages.
    weights : str, optional
        SHA-256 of its parameters, if it is known.

    Raises
    ------
    ModelError
        If it is not a decoder-only language model whose layers share one residual stream.

    Notes
    -----
    Weights that are replaced or edited in place after loading are noticed when `spec` is read, and everything derived from them is
    computed again; `refresh` also notices writes through ``.data``.
    """

    def __init__(self, root: Any, tokenizer: PreTrainedTokenizerBase | None, name: str, weights: str | None = None) -> None:
        self.tokenizer = tokenizer
        self._loaded = LoadedModel.of(root, name, weights)
        self._standing: Standing | None = None
        self._edited: tuple[object, Decoder] | None = None

    def __repr__(self) -> str:
        spec = self._loaded.spec
        edits = "" if self._standing is None else f", edited: {self._standing.describe()}"
        return f"HookedModel({spec.name}: {spec.family}, {spec.n_layers} layers x {spec.n_heads} heads{edits})"

    def _repr_html_(self) -> str:
        spec = self._loaded.spec
        rows = [["family", spec.family], ["layers x heads", f"{spec.n_layers} x {spec.n_heads} ({spec.n_kv_heads} for keys and values)"]]
        rows += [["dtype", spec.dtype], *(["edited", self._standing.describe()] for _ in [0] if self._standing is not None)]
        lacks = [f"Without {site.value}: {reason}." for site, reason in self.lacks.items()]
        return html_table(f"Model {spec.name}", ["", ""], rows, notes=lacks)

    @property
    def root(self) -> Any:
        """The Hugging Face model."""
        return self._loaded.root

    @property
    def parts(self) -> ModelParts:
        """Its parts, and the sites that it lacks with the reasons."""
        return self._current().parts

    @property
    def spec(self) -> ModelSpec:
        """Shapes, family and identity, edits included."""
        spec = self._current().spec
        return spec if self._standing is None else msgspec.structs.replace(spec, edits=self._standing.digest())

    @property
    def sites(self) -> frozenset[Site]:
        """The sites this model has."""
        return self._loaded.parts.sites

    @property
    def length_dependent(self) -> bool:
        """Whether its rotary angles depend on the length of the prompt."""
        return self._loaded.parts.length_dependent

    @property
    def lacks(self) -> Mapping[Site, str]:
        """Sites that this model does not have, each with the reason."""
        return self._loaded.parts.lacks

    def width(self, site: Site) -> int:
        """Width of one vector at a site, of one head where the site has heads."""
        return self._loaded.parts.width(site)

    @property
    def weights(self) -> Readout:
        """Weights of the final norm and the unembedding."""
        loaded = self._current()
        if loaded.readout is None:
            loaded.readout = Readout(loaded.parts, loaded.spec.d_model, loaded.root.get_input_embeddings())
        return loaded.readout

    @property
    def decoder(self) -> Decoder:
        """The functional forward with the edits of this model, built on first use and checked against the model's own values."""
        loaded = self._current()
        if loaded.decoder is None:
            try:
                with full_precision():
                    loaded.decoder = build_decoder(HookedRun(loaded.root, loaded.parts), loaded.spec.name)
            except ModelError as error:
                loaded.decoder = error
        if isinstance(loaded.decoder, ModelError):
            raise ModelError(loaded.decoder.what, loaded.decoder.fix)
        if self._standing is None:
            return loaded.decoder
        if self._edited is None or self._edited[0] is not loaded.decoder:
            self._edited = (loaded.decoder, replace(loaded.decoder, standing=self._standing))
        return self._edited[1]

    def refresh(self) -> None:
        """Read every weight once, and recompute everything that was derived from weights that have changed."""
        loaded = self._loaded
        with own_modes(loaded.root):
            if Fingerprint.of(loaded.root, deep=True) != loaded.seen:
                loaded.renew()

    def _current(self) -> LoadedModel:
        loaded = self._loaded
        if Fingerprint.of(loaded.root).places != loaded.seen.places:
            self.refresh()
        return loaded

    def logits(
        self,
        tokens: Int[Tensor, "row pos"],
        at: Int[Tensor, " row"],
        *,
        marks: Mapping[str, Int[Tensor, " row"]] | None = None,
        gradients: bool = False,
    ) -> Float[Tensor, "row vocab"]:
        """Next-token logits at one position of each row, shape (row, vocab); only that position is unembedded.

        A row's prompt ends at its position ``at``. With ``gradients``, gradients flow to the values of edits, never to weights.
        """
        return self._run(Places(*token_grid(tokens, at), marks or {}), gradients=gradients)

    def capture(
        self,
        tokens: Int[Tensor, "row pos"],
        sites: Sequence[Site],
        *,
        layers: Sequence[int] | None = None,
        at: Int[Tensor, " row"] | None = None,
        marks: Mapping[str, Int[Tensor, " row"]] | None = None,
    ) -> dict[Site, Float[Tensor, ...]]:
        """Activations at sites, shape (row, layer, pos, ...), or (row, layer, ...) with ``at``; after the edits of an edited model."""
        return self._capture(_captured(tokens, marks), sites, layers, at, ())

    def unembed(self, resid: Float[Tensor, "... d_model"], ids: Int[Tensor, " token"] | None = None) -> Float[Tensor, "... token"]:
        """Logits from the residual stream leaving the last layer; with ``ids``, of these tokens only.

        Gradients flow to ``resid`` if it requires them, never to weights.
        """
        weights = self.weights
        every = slice(None) if ids is None else ids
        normed = weights.final_norm.apply(resid)
        logits = torch.nn.functional.linear(normed, weights.unembed(every), weights.unembed_bias(every))
        return logits if weights.softcap is None else torch.tanh(logits / weights.softcap) * weights.softcap

    def sweep(
        self,
        tokens: Int[Tensor, "row pos"],
        at: Int[Tensor, " row"],
        edit_sets: Sequence[EditSet],
        ids: Int[Tensor, " token"] | None = None,
        marks: Mapping[str, Int[Tensor, " row"]] | None = None,
    ) -> Float[Tensor, "edit_set row token"]:
        """Logits of many edited runs of the same prompts; only what each edit set can reach is computed."""
        loaded = self._current()
        tokens, at = token_grid(tokens, at)
        require_tokens(tokens, at, loaded.spec)
        for edit_set in edit_sets:
            EditTap(loaded.spec, loaded.parts, edit_set.edits)  # refuse sites, layers and heads that do not exist
        engine = Engine(self.decoder)
        with torch.inference_mode(mode=False), torch.no_grad(), full_precision():
            return self.unembed(engine.sweep(engine.base_run(tokens, at, marks=marks), edit_sets), ids)

    def attention(self, head: Head | str, prompts: PromptLike) -> AttentionPattern | tuple[AttentionPattern, ...]:
        """Attention pattern of one head on prompts; see `Model.attention`."""
        return attention_of_head(self, self.tokenizer, head, prompts)

    def generate(
        self, prompts: PromptLike, max_new_tokens: int, temperature: float = 0.0, seed: int = 0, stop: str | Sequence[str] | None = None
    ) -> Generation | tuple[Generation, ...]:
        """Generate text after prompts, with the edits of this model: one `Generation`, or a tuple for a list. See `Model.generate`."""
        how, loaded = Decoding(max_new_tokens, temperature, seed, stop), self._current()
        prompt_tokens, run = read_prompts(prompts, self.tokenizer, loaded.spec), HookedRun(loaded.root, loaded.parts)
        edited: frozenset[tuple[Site, int]] = frozenset() if self._standing is None else self._standing.targets
        if edited not in loaded.cache_exact:
            loaded.cache_exact[edited] = cache_is_exact(run, loaded.spec, edited)
        generations = Writer(run, loaded.spec, self.tokenizer, self._standing, loaded.cache_exact[edited]).write(prompt_tokens, how)
        return generations[0] if prompt_tokens.alone else generations

    def with_edits(self, edits: Sequence[Edit]) -> Runner:
        """Runs of this model with values written at some sites; a run in which an edit does not fire raises."""
        EditTap(self._loaded.spec, self._loaded.parts, edits)  # refuse bad edits now, and not only when they run
        return _WithEdits(self, tuple(edits))

    def edited(self, *interventions: Intervention) -> HookedModel:
        """The same model with interventions applied to every run. It is a `Model`, and its edits are part of its identity.

        Parameters
        ----------
        *interventions : Intervention
            From `circuitlab.interventions`, applied in this order, after those that this model already has.

        Raises
        ------
        ModelError, BadParameterError
            If the model lacks what they edit; before anything is run.
        """
        from circuitlab.model.interventions import Standing, compose  # noqa: PLC0415 - interventions import models

        requested = compose(interventions).parts if interventions else ()
        for intervention in requested:
            intervention.check(self)
        ready = tuple(intervention.resolved(self) for intervention in requested)
        new = object.__new__(type(self))
        new.tokenizer, new._loaded, new._edited = self.tokenizer, self._loaded, None
        before = () if self._standing is None else self._standing.interventions
        new._standing = Standing((*before, *ready)) if before or ready else None
        return new

    def _run(
        self,
        places: Places,
        edits: Sequence[Edit] = (),
        readers: Sequence[tuple[Site, int]] = (),
        read: Tap | None = None,
        *,
        gradients: bool = False,
    ) -> Tensor:
        """One forward pass. Each site meets standing edits, then those of this run, then reads; only the answer position is unembedded."""
        loaded = self._current()
        require_tokens(places.tokens, places.end, loaded.spec)
        if loaded.parts.length_dependent and len(set(places.end.tolist())) > 1:
            return self._by_length(places, edits, readers, gradients=gradients)
        if loaded.parts.length_dependent and (length := int(places.end[0]) + 1) < places.tokens.shape[1]:
            if edits or readers:
                what = (
                    f"Rotary angles of {loaded.spec.name} depend on the length of the prompt; {length} tokens cannot be read with padding."
                )
                raise ModelError(what, "Remove the padding.")
            places = replace(places, tokens=places.tokens[:, :length])
        writer = EditTap(loaded.spec, loaded.parts, edits)
        with own_modes(loaded.root, gradients=gradients), self._tapped(places) as (standing, touched):
            taps = [tap for tap in (standing, writer if edits else None, read) if tap is not None]
            sites = list(dict.fromkeys([*touched, *writer.sites, *readers]))
            fresh = replace(places, tokens=places.tokens.clone() if places.tokens.is_inference() else places.tokens)
            logits = HookedRun(loaded.root, loaded.parts).logits(fresh.tokens, fresh.end.clone(), sites, _chained(taps))
        writer.check_fired()
        return logits

    def _by_length(self, places: Places, edits: Sequence[Edit], readers: Sequence[tuple[Site, int]], *, gradients: bool) -> Tensor:
        """Prompts of one length at a time, without padding, because rotary angles depend on the length."""
        if edits or readers:
            lengths = sorted({end + 1 for end in places.end.tolist()})
            name = self._loaded.spec.name
            what = f"Rotary angles of {name} depend on the length of the prompt; prompts of {lengths} tokens cannot share a run."
            raise ModelError(what, "Run prompts of one length together.")
        out: dict[int, Tensor] = {}
        for end in sorted(set(places.end.tolist())):
            rows = [i for i, other in enumerate(places.end.tolist()) if other == end]
            group = places.select(rows)
            logits = self._run(replace(group, tokens=group.tokens[:, : end + 1]), gradients=gradients)
            out |= dict(zip(rows, logits, strict=True))
        return torch.stack([out[i] for i in range(len(places.end))])

    @contextmanager
    def _tapped(self, places: Places) -> Iterator[tuple[Tap | None, list[tuple[Site, int]]]]:
        """The tap of the standing edits on these prompts, and their sites; after the run each must have fired."""
        if self._standing is None:
            yield None, []
            return
        with self._standing.watched():
            yield self._standing(places), sorted(self._standing.targets, key=str)

    def _capture(
        self,
        places: Places,
        sites: Sequence[Site],
        layers: Sequence[int] | None,
        at: Tensor | None,
        edits: Sequence[Edit],
    ) -> dict[Site, Tensor]:
        loaded = self._current()
        layer_numbers = list(range(loaded.spec.n_layers)) if layers is None else list(layers)
        readers = [(site, layer) for site in sites for layer in layer_numbers]
        for site, layer in readers:
            require_site(loaded.spec, loaded.parts, site, layer)
        seen: dict[tuple[Site, int], Tensor] = {}
        requested = set(readers)

        def read(site: Site, layer: int, value: Tensor) -> Tensor:
            if (site, layer) in requested:
                captured = value.detach()
                if at is not None:
                    rows = torch.arange(len(at), device=captured.device)
                    captured = captured[rows, :, at] if site is Site.PATTERN else captured[rows, at]
                seen[site, layer] = captured.clone()
            return value

        self._run(places, edits, readers, read)
        if missed := [key for key in readers if key not in seen]:
            what = f"{loaded.spec.name} never computed {missed[0][0].value!r} of layer {missed[0][1]}."
            raise ModelError(what, "Run `circuitlab doctor` on this model; its family may not be supported.")
        return {site: torch.stack([seen[site, layer] for layer in layer_numbers], dim=1) for site in sites}


class _WithEdits:
    """A model with values written at some sites; it can only be run."""

    def __init__(self, model: HookedModel, edits: tuple[Edit, ...]) -> None:
        self._model, self._edits = model, edits

    def logits(self, tokens: Tensor, at: Tensor, *, marks: Mapping[str, Tensor] | None = None, gradients: bool = False) -> Tensor:
        """Next-token logits of the edited run."""
        return self._model._run(Places(*token_grid(tokens, at), marks or {}), self._edits, gradients=gradients)  # noqa: SLF001 - one unit

    def capture(
        self,
        tokens: Tensor,
        sites: Sequence[Site],
        *,
        layers: Sequence[int] | None = None,
        at: Tensor | None = None,
        marks: Mapping[str, Tensor] | None = None,
    ) -> dict[Site, Tensor]:
        """Activations of the edited run."""
        return self._model._capture(_captured(tokens, marks), sites, layers, at, self._edits)  # noqa: SLF001


def _captured(tokens: Tensor, marks: Mapping[str, Tensor] | None) -> Places:
    """The prompts of a capture; each ends at the mark END, or at the last column without one."""
    return Places(*token_grid(tokens, (marks or {}).get("END")), marks or {})


def _chained(taps: Sequence[Tap]) -> Tap | None:
    if len(taps) <= 1:
        return taps[0] if taps else None

    def tap(site: Site, layer: int, value: Tensor) -> Tensor:
        for next_tap in taps:
            value = next_tap(site, layer, value)
        return value

    return tap
