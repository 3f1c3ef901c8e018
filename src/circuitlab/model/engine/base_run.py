"""One unedited run of a few prompts, kept so that edited runs can start in the middle of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from circuitlab.model.engine.arithmetic import BaseLinears, exact, keeping
from circuitlab.model.engine.layer import Edited, Place, attend, leave, mlp_out
from circuitlab.model.protocol import Site

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.model.decoder import Decoder

__all__ = ["BaseRun", "base_run"]


@dataclass(frozen=True, eq=False)
class BaseRun:
    """What an unedited run left.

    Parameters
    ----------
    at : Tensor of int, shape (prompt,)
        Answer position of each prompt.
    entering : list of Tensor, shape (prompt, pos, d_model)
        The residual stream entering each layer, and leaving the last one.
    keys, values : list of Tensor, shape (prompt, pos, kv_head, d_head)
        Keys as they meet queries, and values, of each layer.
    sites : dict of Site to list of Tensor
        Values of the sites that were asked for, one per layer, each (prompt, pos, ...) (PATTERN: (prompt, head, query, key)).
    linears : list of BaseLinears
        Input and output of every linear map of each layer, from position ``linears_from`` on; empty unless asked for.
    """

    at: Int[Tensor, " prompt"]
    entering: list[Float[Tensor, "prompt pos d_model"]]
    keys: list[Float[Tensor, "prompt pos kv_head d_head"]] = field(default_factory=list)
    values: list[Float[Tensor, "prompt pos kv_head d_head"]] = field(default_factory=list)
    sites: dict[Site, list[Tensor]] = field(default_factory=dict)
    linears: list[BaseLinears] = field(default_factory=list)
    linears_from: int = 0

    @property
    def final(self) -> Float[Tensor, "prompt d_model"]:
        """The residual stream leaving the last layer at the answer positions."""
        return self.entering[-1][torch.arange(len(self.at)), self.at]

    def site(self, site: Site) -> Float[Tensor, "prompt layer ..."]:
        """One site of every layer, (prompt, layer, pos, ...)."""
        return torch.stack(self.sites[site], dim=1)

    def select(self, prompts: Sequence[int]) -> BaseRun:
        """The same run of some of its prompts, cut to the longest of them."""
        wanted = list(prompts)
        together = wanted == list(range(wanted[0], wanted[0] + len(wanted)))
        rows = slice(wanted[0], wanted[-1] + 1) if together else wanted  # a slice is a view: nothing is copied
        stop = int(self.at[rows].max()) + 1
        late = max(0, stop - self.linears_from)

        def cut(value: Tensor, site: Site | None = None) -> Tensor:
            kept = value[rows]
            return kept[:, :, :stop, :stop] if site is Site.PATTERN else kept[:, :stop]

        return BaseRun(
            self.at[rows],
            [cut(x) for x in self.entering],
            [cut(x) for x in self.keys],
            [cut(x) for x in self.values],
            {site: [cut(x, site) for x in layers] for site, layers in self.sites.items()},
            [{name: (one[rows, :late], two[rows, :late]) for name, (one, two) in layer.items()} for layer in self.linears],
            self.linears_from,
        )


@torch.no_grad()
def base_run(
    decoder: Decoder,
    tokens: Int[Tensor, "prompt pos"],
    at: Int[Tensor, " prompt"],
    sites: Collection[Site] = (),
    *,
    linears_from: int | None = None,
) -> BaseRun:
    """Run prompts once, unedited.

    Parameters
    ----------
    decoder : Decoder
    tokens, at : Tensor of int
        Right-padded prompts, and their answer positions.
    sites : collection of Site
        Sites whose values are kept.
    linears_from : int, optional
        Keep the input and output of every linear map from this position on, for arithmetic on differences.
    """
    x = decoder.embed(tokens)
    run = BaseRun(at, [x], sites={site: [] for site in sites}, linears_from=linears_from or 0)
    for block, where in zip(decoder.blocks, decoder.measure(tokens.shape[1]), strict=True):
        kept: BaseLinears = {}
        read: dict[Site, Tensor] = {}
        multiply = exact if linears_from is None else keeping(kept, linears_from)
        at_site = Edited(Place(0, tokens.shape[1], where), seen=read)
        found = attend(block, x[None], multiply, at_site)
        x = leave(found, mlp_out(block, found.read, multiply), at_site)[0]
        run.entering.append(x)
        run.keys.append(found.keys[0])
        run.values.append(found.values[0])
        for site in sites:
            run.sites[site].append(read[site][0])
        if linears_from is not None:
            run.linears.append({name: (entered[0], left[0]) for name, (entered, left) in kept.items()})
    return run
