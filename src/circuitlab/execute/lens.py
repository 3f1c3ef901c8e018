"""Logits that intermediate values speak for: the stream through the final norm, or a part's share with that norm's scale held fixed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from circuitlab.core.errors import AdditivityError, ModelError
from circuitlab.core.nodes import Head, Mlp, Resid
from circuitlab.execute.head_writes import allowed_error, head_writes
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.model.places import Places
    from circuitlab.model.protocol import Model
    from circuitlab.scores.logit_lens import LensSite

__all__ = ["LensRun", "Reading", "read_rows"]


@dataclass(frozen=True, eq=False)
class LensRun:
    """One prompt whose intermediate values are read as logits.

    Parameters
    ----------
    model : Model
        Any whose logits can be read off the last layer's stream.
    places : Places
        The prompt.
    at : Tensor of int, shape (position,)
        Which positions.

    Raises
    ------
    ModelError
        If there is no way from the last stream to the logits.
    """

    model: Model
    places: Places
    at: Int[Tensor, " position"]

    def __post_init__(self) -> None:
        try:
            self.model.weights.final_norm  # noqa: B018 - found on first use
        except ModelError as error:
            what = f"There is no lens for {self.model.spec.name}: {error.what}"
            raise ModelError(what, "`circuitlab doctor MODEL` lists what can be asked of it.") from error

    def stream(self) -> Iterator[tuple[list[str], Float[Tensor, "row position token"]]]:
        """Log-probabilities of the stream entering layer 0 and of that leaving every layer, a row at a time.

        Raises
        ------
        AdditivityError
            If those of the last row are not the model's own.
        """
        entering, leaving = self._captured(Site.RESID_PRE, Site.RESID_POST)
        own = self.model.logits(self.places.tokens, self.places.end, marks=dict(self.places.marks) or None)[0]
        self._require_own(self.model.unembed(leaving[-1, -1]), own)
        points = [Resid(0, "pre"), *(Resid(layer, "post") for layer in range(len(leaving)))]
        for point, value in zip(points, [entering[0], *leaving], strict=True):
            yield [str(point)], _precise(self.model.unembed(value[self.at])).log_softmax(-1)[None]

    def heads(self) -> Iterator[tuple[list[str], Float[Tensor, "row position token"]]]:
        """Shares of every head, a layer at a time.

        Raises
        ------
        ModelError
            If what a layer adds is not the sum of what its heads write: attention's output was edited.
        """
        z, out, leaving = self._captured(Site.Z, Site.ATTN_OUT, Site.RESID_POST)
        share = _Shares(self.model, leaving[-1, self.at].double())
        for layer in range(len(z)):
            written = head_writes(self.model, layer, z[layer, self.at], out[layer, self.at])
            yield [str(Head(layer, head)) for head in range(len(written))], share(written)

    def mlps(self) -> Iterator[tuple[list[str], Float[Tensor, "row position token"]]]:
        """Shares of every MLP, a row at a time."""
        out, leaving = self._captured(Site.MLP_OUT, Site.RESID_POST)
        share = _Shares(self.model, leaving[-1, self.at].double())
        for layer, value in enumerate(out):
            yield [str(Mlp(layer))], share(value[self.at].double()[None])

    def rows(self, site: LensSite) -> Iterator[tuple[list[str], Float[Tensor, "row position token"]]]:
        """What is asked for by name; of heads and MLPs the mean over the vocabulary is taken off each share."""
        if site == "stream":
            yield from self.stream()
        for names, shares in self.heads() if site == "heads" else self.mlps() if site == "mlps" else ():
            yield names, shares - shares.mean(-1, keepdim=True)

    def _captured(self, *sites: Site) -> list[Float[Tensor, "layer pos ..."]]:
        """Values of one run; a site that the model lacks is refused with the reason."""
        for site in sites:
            if site in self.model.lacks:
                what = f"{self.model.spec.name} has no site {site.value!r}: {self.model.lacks[site]}."
                raise ModelError(what, "Read the stream (at='stream'); `circuitlab doctor MODEL` lists what else this model has.")
        read = self.model.capture(self.places.tokens, sites, marks=dict(self.places.marks) or None)
        return [read[site][0] for site in sites]

    def _require_own(self, logits: Float[Tensor, " token"], own: Float[Tensor, " token"]) -> None:
        apart = float((logits - own).abs().max())
        if not apart <= allowed_error(own):
            what = f"Logits read off the last stream are {apart:.2g} away from those of {self.model.spec.name} itself."
            raise AdditivityError(what, "`circuitlab doctor MODEL` says which part of this model is not what it seems.")


class _Shares:
    """What a part's output adds to the final logits, the final norm's scale held, and the softcap by its secant slope there."""

    def __init__(self, model: Model, final: Float[Tensor, "position d_model"]) -> None:
        weights = model.weights
        self.norm, self.final, self.columns = weights.final_norm, final, _precise(weights.unembed(slice(None)))
        self.slope: Tensor | None = None
        if (cap := weights.softcap) is not None:
            offset = weights.unembed_bias(slice(None))
            plain = self.norm.apply(final).to(self.columns.dtype) @ self.columns.T + (0.0 if offset is None else _precise(offset))
            ratio = plain / cap
            self.slope = (ratio.tanh() / ratio).nan_to_num(nan=1.0)

    def __call__(self, written: Float[Tensor, "row position d_model"]) -> Float[Tensor, "row position token"]:
        logits = self.norm.share(written, self.final).to(self.columns.dtype) @ self.columns.T
        return logits if self.slope is None else logits * self.slope


def _precise(value: Tensor) -> Tensor:
    """Values of 16 bits in float32, all others as they are."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


@dataclass(frozen=True, eq=False)
class Reading:
    """Rows of a lens without the vocabulary axis.

    Parameters
    ----------
    rows : list of str
    top_ids, top_values : Tensor, shape (row, position, k)
    values, ranks : Tensor, shape (row, position, asked)
    """

    rows: list[str]
    top_ids: Int[Tensor, "row position k"]
    top_values: Float[Tensor, "row position k"]
    values: Float[Tensor, "row position asked"]
    ranks: Int[Tensor, "row position asked"]


@torch.no_grad()
def read_rows(run: LensRun, site: LensSite, asked: Sequence[int], k: int) -> Reading:
    """The top tokens and those asked about, of every row; whole vocabularies are held for one layer at a time."""
    names: list[str] = []
    columns: list[list[Tensor]] = [[], [], [], []]
    ids = torch.tensor(list(asked), dtype=torch.long)
    for rows, values in run.rows(site):
        best = values.topk(min(k, values.shape[-1]), dim=-1)
        mine = values[..., ids.to(values.device)]
        above = [(values > mine[..., [i]]).sum(-1) + 1 for i in range(len(ids))]
        ranks = torch.stack(above, -1) if above else torch.zeros_like(mine, dtype=torch.long)
        names += rows
        for kept, one in zip(columns, (best.indices, best.values, mine, ranks), strict=True):
            kept.append(one.cpu())
    return Reading(names, *(torch.cat(parts) for parts in columns))
