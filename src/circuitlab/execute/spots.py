"""One query and one key of a head on one prompt, found, checked and run up to: what questions about attention scores begin with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from circuitlab.core.errors import BadParameterError, ModelError
from circuitlab.execute.upstream import Upstream
from circuitlab.model.hooks import full_precision
from circuitlab.model.places import Places
from circuitlab.model.sites import Site
from circuitlab.model.token_text import texts_of

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from circuitlab.core.nodes import Head
    from circuitlab.model.prompts import Prompts
    from circuitlab.model.protocol import Model

__all__ = ["PromptRun", "Spot", "spots_of", "taken_apart", "torch_modes"]


@dataclass(frozen=True, eq=False)
class Spot:
    """A query and a key of one head on one prompt.

    Parameters
    ----------
    head : Head
    up : Upstream
        The prompt's run up to the head's layer.
    places : Places
        The prompt.
    tokens : tuple of str
        Its tokens as text.
    query, key : int
        Positions; the query sees the key.
    weight : float
        The attention weight that the model itself gives the key.
    """

    head: Head
    up: Upstream
    places: Places
    tokens: tuple[str, ...]
    query: int
    key: int
    weight: float

    def others(self, against: int | str | None) -> list[int]:
        """The positions that the key is compared with.

        Raises
        ------
        BadParameterError
            If the query does not see them, or sees no other key.
        """
        if against is None:
            return []
        if against != "others":
            return [_seen(self.up, self.head, self.query, self.places.position(against))]
        seen = self.up.where.visible[self.query, : len(self.tokens)].nonzero().flatten().tolist()
        rest = [place for place in seen if place != self.key]
        if not rest:
            what = f"The query at position {self.query} sees no key but {self.key}."
            raise BadParameterError(what, "Leave against out.")
        return rest


@contextmanager
def torch_modes() -> Iterator[None]:
    """Torch's own modes, without gradients and in full precision, whatever the caller has set."""
    with torch.inference_mode(mode=False), torch.no_grad(), full_precision():
        yield


@contextmanager
def taken_apart(model: Model) -> Iterator[None]:
    """Torch's own modes whatever the caller has set, the weights looked at, and a functional decoder.

    Raises
    ------
    ModelError
        If the model has none; the message says why.
    """
    with torch_modes():
        model.refresh()
        try:
            model.decoder  # noqa: B018 - built and checked on first use
        except ModelError as error:
            what = f"Attention scores and values of this model cannot be split: {error.what.rstrip('.')}."
            raise ModelError(what, "`circuitlab doctor MODEL` lists what can be asked of it.") from error
        yield


@dataclass(frozen=True, eq=False)
class PromptRun:
    """One prompt, run up to the layers of some heads, for any questions about them.

    Parameters
    ----------
    model : str
        The model's name.
    places : Places
        The prompt.
    tokens : tuple of str
        Its tokens as text.
    ups : mapping of int to Upstream
        The run, by layer.
    own : mapping of int to Tensor, shape (head, query, key)
        Attention patterns in the model's own forward pass, by layer.
    """

    model: str
    places: Places
    tokens: tuple[str, ...]
    ups: Mapping[int, Upstream]
    own: Mapping[int, Float[Tensor, "head query key"]]

    @classmethod
    def of(
        cls, model: Model, places: Places, layers: Sequence[int], own: Mapping[int, Float[Tensor, "head query key"]] | None = None
    ) -> PromptRun:
        """Run a prompt twice: by the functional decoder up to the highest of some layers, and by the model itself.

        Parameters
        ----------
        model, places : Model, Places
        layers : sequence of int
            Those of the heads that will be asked about.
        own : mapping of int to Tensor, optional
            The model's own patterns on this prompt, where they are known already.

        Raises
        ------
        ModelError
            If the model cannot be taken apart, or is edited so that its stream is no longer a sum of writes.
        """
        numbers = sorted(set(layers))
        ups = Upstream.at_layers(model, places, numbers)
        if own is None:
            captured = model.capture(places.tokens, [Site.PATTERN], layers=numbers, marks=dict(places.marks) or None)
            own = dict(zip(numbers, captured[Site.PATTERN][0], strict=True))
        return cls(model.spec.name, places, texts_of(model.tokenizer, places.tokens[0].tolist()), ups, own)

    def spot(self, head: Head, query: int | str, key: int | str) -> Spot:
        """A query and a key of a head in one of its layers.

        Raises
        ------
        BadParameterError
            If a position does not exist, or the query does not see the key.
        UnknownNameError
            If a mark does not exist.
        ModelError
            If the decoder's attention at the query is not the model's own.
        """
        up, asks = self.ups[head.layer], self.places.position(query)
        holds = _seen(up, head, asks, self.places.position(key))
        weight = float(up.require_own_attention(self.model, self.own[head.layer], head.head, asks)[holds])
        return Spot(head, up, self.places, self.tokens, asks, holds, weight)


def spots_of(model: Model, head: Head, prompts: Prompts, query: int | str, key: int | str) -> Iterator[Spot]:
    """Every prompt run by itself up to the head's layer, and the two positions in it; raises as `PromptRun.spot` does."""
    for number, ids in enumerate(prompts.ids):
        marks = {name: torch.tensor([at[number]]) for name, at in prompts.marks.items()}
        places = Places(torch.tensor([ids]), torch.tensor([len(ids) - 1]), marks)
        yield PromptRun.of(model, places, [head.layer]).spot(head, query, key)


def _seen(up: Upstream, head: Head, query: int, key: int) -> int:
    """The key, if the query sees it."""
    if not bool(up.where.visible[query, key]):
        why = "comes later" if key > query else f"lies outside what layer {up.layer} sees (a sliding window, or chunks)"
        what = f"{head} does not look from position {query} at position {key}, which {why}: there is no score to split."
        raise BadParameterError(what, "Choose an earlier key that the layer sees.")
    return key
