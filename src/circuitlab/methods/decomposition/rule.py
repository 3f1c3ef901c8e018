"""Rule: how each step of a model splits its output into a relevant and an irrelevant part. Does not import torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from circuitlab.core.errors import UnknownNameError

__all__ = ["RULES", "Activation", "Bias", "Norm", "Product", "Rule", "Signs", "Softmax"]

Bias: TypeAlias = Literal["exact", "published", "irrelevant"]
Activation: TypeAlias = Literal["remainder", "shapley", "alone"]
Product: TypeAlias = Literal["both", "any", "shapley"]
Softmax: TypeAlias = Literal["alone", "remainder", "shapley", "frozen"]
Signs: TypeAlias = Literal["clipped", "free"]
Norm: TypeAlias = Literal["held", "bounded"]

_CHOICES = {"bias": Bias, "activation": Activation, "product": Product, "gate": Product, "softmax": Softmax, "signs": Signs, "norm": Norm}


@dataclass(frozen=True)
class Rule:
    """Split of every activation into a relevant part b and an irrelevant part c (Hsu et al. 2024).

    Linear maps act on both parts. Every other kind of step has a choice; the defaults are as published except for bias and signs.

    Parameters
    ----------
    bias : {"exact", "published", "irrelevant"}
        A bias (of a linear map or a norm) is shared in proportion to the magnitudes of the two parts. ``"exact"``: the relevant part gets
        its share and the irrelevant part the rest, so that nothing is lost. ``"published"``: each gets its share with 1e-8 in the
        denominator, so that bias is lost where both parts are tiny. ``"irrelevant"``: all bias is irrelevant.
    activation : {"remainder", "shapley", "alone"}
        Relevant part of f(b + c). ``"remainder"`` (published): ``f(b + c) - f(c)``. ``"alone"``: ``f(b) - f(0)``. ``"shapley"``: the mean
        of the two (Murdoch et al. 2018).
    product : {"both", "any", "shapley"}
        Relevant part of a product of queries and keys, or of attention weights and values. ``"both"`` (published): the product of the
        relevant parts only. ``"any"``: every product with a relevant factor. ``"shapley"``: the mean of the two.
    gate : {"any", "both", "shapley"}
        The same for gate and value of a gated MLP, which the published models do not have.
    softmax : {"alone", "remainder", "shapley", "frozen"}
        Relevant part of attention weights. ``"alone"`` (published): the softmax of the relevant scores. ``"remainder"``: all weights minus
        the softmax of the irrelevant scores. ``"shapley"``: the mean of the two. ``"frozen"``: attention weights are constants, so that
        relevance moves through values only.
    signs : {"free", "clipped"}
        ``"free"`` allows parts of opposite sign. ``"clipped"`` (published): the larger part becomes the whole activation and the smaller
        part zero, after the input projection of an MLP, after its output, and after the layer; that is, the relevant part is clipped
        between 0 and the activation. A head that writes against the rest of the stream then gets nothing, so that heads that hinder
        cannot be seen.
    norm : {"held", "bounded"}
        ``"held"`` (published): a norm scales both parts as it scales the activation. This is linear, but parts are unbounded: an irrelevant
        part much larger than the activation is squared by every later gate and may overflow. ``"bounded"`` scales an irrelevant part that
        is larger than the activation by its own size, and the relevant part gets the rest. If parts leave the activation's range, methods
        bound the norms of that pair and source themselves, and report how often.

    Examples
    --------
    >>> str(Rule(gate="both", signs="clipped"))
    'exact, gate=both, signs=clipped'
    >>> Rule.parse("published").bias
    'published'
    """

    bias: Bias = "exact"
    activation: Activation = "remainder"
    product: Product = "both"
    gate: Product = "any"
    softmax: Softmax = "alone"
    signs: Signs = "free"
    norm: Norm = "held"

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in get_args(choices):
                raise UnknownNameError(f"{name} rule", str(getattr(self, name)), get_args(choices))

    def __str__(self) -> str:
        for name, known in RULES.items():
            if self == known:
                return name
        changed = [f"{field.name}={value}" for field in dataclasses.fields(self) if (value := getattr(self, field.name)) != field.default]
        return ", ".join(["exact", *changed])

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Read a name in `RULES`, or a name with changes, such as ``"exact, gate=both"``; the inverse of ``str``.

        Raises
        ------
        UnknownNameError
            If a rule, a field or a choice does not exist.
        """
        name, *changes = (part.strip() for part in text.split(","))
        if name not in RULES:
            raise UnknownNameError("rule", name, RULES)
        choices = dict(change.partition("=")[::2] for change in changes)
        for key in choices:
            if key not in _CHOICES:
                raise UnknownNameError("field of a rule", key, _CHOICES)
        return dataclasses.replace(RULES[name], **choices)  # type: ignore[arg-type]

    @property
    def keeps_sums(self) -> bool:
        """Whether relevant and irrelevant parts always sum to the activation."""
        return self.bias != "published"


RULES: dict[str, Rule] = {
    "exact": Rule(),
    "published": Rule(bias="published", signs="clipped"),
    "values": Rule(softmax="frozen"),
    "ablation": Rule(bias="irrelevant", product="any", softmax="remainder"),
}
"""Rules by name. ``"exact"``: the defaults; ``"published"``: every published choice; ``"values"``: relevance through values only;
``"ablation"``: the irrelevant part is the run without the sources, with the scales of all norms held."""
