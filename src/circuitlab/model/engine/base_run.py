"""One unedited run of a few prompts, kept so that edited runs can start in the middle of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from circuitlab.core.in_step import ByLayer, drained
from circuitlab.model.decoder.taps import Watched, untouched
from circuitlab.model.engine.arithmetic import BaseLinears, exact, keeping
from circuitlab.model.engine.layer import SiteTap, attend, leave, mlp_out
from circuitlab.model.engine.window import Window
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.model.decoder import Decoder
    from circuitlab.model.places import Places

__all__ = ["BaseRun", "CommonPrefix", "base_run", "base_run_by_layer"]


@dataclass(frozen=True, eq=False)
class BaseRun:
    """The values of an unedited run that edited runs need.

    Parameters
    ----------
    places : Places
        The prompts; each ends at its answer position.
    entering : list of Tensor, shape (prompt, pos, d_model)
        The residual stream entering each layer (before any edits of it there), and leaving the last one.
    keys, values : list of Tensor, shape (prompt, pos, kv_head, d_head)
        Keys after their norm and rotation, and values, of each layer.
    sites : dict of Site to list of Tensor
        Values of the requested sites, one per layer, each (prompt, pos, ...) (PATTERN: (prompt, head, query, key)), after the standing
        edits of an edited model.
    linears : list of BaseLinears
        Input and output of every linear map of each layer, from position ``linears_from`` on; empty unless requested.
    linears_from : int
        First position that ``linears`` hold.
    changed : frozenset of (Site, int)
        Sites and layers at which standing edits changed a value.
    """

    places: Places
    entering: list[Float[Tensor, "prompt pos d_model"]]
    keys: list[Float[Tensor, "prompt pos kv_head d_head"]] = field(default_factory=list)
    values: list[Float[Tensor, "prompt pos kv_head d_head"]] = field(default_factory=list)
    sites: dict[Site, list[Tensor]] = field(default_factory=dict)
    linears: list[BaseLinears] = field(default_factory=list)
    linears_from: int = 0
    changed: frozenset[tuple[Site, int]] = frozenset()

    @property
    def at(self) -> Int[Tensor, " prompt"]:
        """Answer position of each prompt."""
        return self.places.end

    @property
    def final(self) -> Float[Tensor, "prompt d_model"]:
        """The residual stream leaving the last layer at the answer positions."""
        return self.entering[-1][torch.arange(len(self.at)), self.at]

    def site(self, site: Site) -> Float[Tensor, "prompt layer ..."]:
        """One site of every layer, stacked: (prompt, layer, pos, ...)."""
        return torch.stack(self.sites[site], dim=1)

    def select(self, prompts: Sequence[int]) -> BaseRun:
        """The run of some of its prompts, cut to the longest of them."""
        indices = list(prompts)
        adjacent = indices == list(range(indices[0], indices[0] + len(indices)))
        rows = slice(indices[0], indices[-1] + 1) if adjacent else indices  # a slice is a view: nothing is copied
        stop = int(self.at[rows].max()) + 1
        late = max(0, stop - self.linears_from)

        def cut(value: Tensor, site: Site | None = None) -> Tensor:
            selected = value[rows]
            return selected[:, :, :stop, :stop] if site is Site.PATTERN else selected[:, :stop]

        places = self.places.select(rows)
        return BaseRun(
            replace(places, tokens=places.tokens[:, :stop]),
            [cut(x) for x in self.entering],
            [cut(x) for x in self.keys],
            [cut(x) for x in self.values],
            {site: [cut(x, site) for x in layers] for site, layers in self.sites.items()},
            [{name: (read[rows, :late], out[rows, :late]) for name, (read, out) in layer.items()} for layer in self.linears],
            self.linears_from,
            self.changed,
        )


@dataclass(frozen=True, eq=False)
class CommonPrefix:
    """The prefix that prompts share with prompts of an earlier run.

    Parameters
    ----------
    run : BaseRun
        The earlier run, with one prompt for each prompt now; it must hold the sites that are requested now.
    first : Tensor of int, shape (prompt,)
        First position at which the prompts differ. Everything before it is taken from the earlier run, bit for bit.
    start : int
        First position that is run again: at or before every ``first``, and inside the prompts.
    """

    run: BaseRun
    first: Int[Tensor, " prompt"]
    start: int

    def whole(self, before: Tensor, new: Tensor, axis: int = 1) -> Tensor:
        """Values of whole prompts: those of the earlier run, with the new ones from `start` on along ``axis``."""
        length = before.shape[axis]
        late = torch.arange(self.start, length, device=new.device) >= self.first.to(new.device)[:, None]
        out = before.clone()
        window = out.narrow(axis, self.start, length - self.start)
        shape = [len(out), *[1] * (axis - 1), length - self.start, *[1] * (out.ndim - axis - 1)]
        window.copy_(torch.where(late.view(shape), new, window))
        return out


@torch.no_grad()
def base_run(
    decoder: Decoder,
    places: Places,
    sites: Collection[Site] = (),
    *,
    linears_from: int | None = None,
    shared: CommonPrefix | None = None,
) -> BaseRun:
    """Run prompts once, with no edits except the standing edits of an edited model.

    Parameters
    ----------
    decoder : Decoder
        The model.
    places : Places
        Right-padded prompts, each ending at its answer position.
    sites : collection of Site
        Sites whose values are kept.
    linears_from : int, optional
        Keep the input and output of every linear map from this position on, for arithmetic on differences.
    shared : CommonPrefix, optional
        Prompts of an earlier run with the same prefix: only the positions after it are run. ``linears_from`` must not lie before it.
    """
    return drained(base_run_by_layer(decoder, places, sites, linears_from=linears_from, shared=shared))


@torch.no_grad()
def base_run_by_layer(
    decoder: Decoder,
    places: Places,
    sites: Collection[Site] = (),
    *,
    linears_from: int | None = None,
    shared: CommonPrefix | None = None,
) -> ByLayer[BaseRun]:
    """`base_run` as work that goes through the layers; ``shared`` must be a run that has passed a layer before this one does."""
    start, length = 0 if shared is None else shared.start, places.tokens.shape[1]
    x = decoder.embed(places.tokens)[:, start:]
    watched = Watched(decoder.tap(places.window(start, length)) or untouched)
    run = BaseRun(places, [_joined(shared, x, 0)], sites={site: [] for site in sites}, linears_from=linears_from or 0)
    for layer, where in enumerate(decoder.geometry(length)):
        yield layer
        block = decoder.blocks[layer]
        linears: BaseLinears = {}
        by_site: dict[Site, Tensor] = {}
        multiply = exact if linears_from is None else keeping(linears, linears_from - start)
        past = (None, None) if shared is None else (shared.run.keys[layer][:, :start], shared.run.values[layer][:, :start])
        at_site = SiteTap(Window(start, length, where, *past), layer, taps=(watched, None), seen=by_site)
        attention = attend(block, x[None], multiply, at_site)
        x = leave(attention.mid, mlp_out(block, attention.read, multiply), at_site)[0]
        run.entering.append(_joined(shared, x, layer + 1))
        run.keys.append(attention.keys[0] if shared is None else shared.whole(shared.run.keys[layer], attention.keys[0]))
        run.values.append(attention.values[0] if shared is None else shared.whole(shared.run.values[layer], attention.values[0]))
        for site in sites:
            value = by_site[site][0]
            axis = 2 if site is Site.PATTERN else 1
            run.sites[site].append(value if shared is None else shared.whole(shared.run.sites[site][layer], value, axis))
        if linears_from is not None:
            run.linears.append({name: (entered[0], left[0]) for name, (entered, left) in linears.items()})
    return replace(run, changed=frozenset(watched.changed) | (frozenset() if shared is None else shared.run.changed))


def _joined(shared: CommonPrefix | None, x: Float[Tensor, "prompt window d_model"], layer: int) -> Float[Tensor, "prompt pos d_model"]:
    """The residual stream entering a layer, at all positions."""
    return x if shared is None else shared.whole(shared.run.entering[layer], x)
