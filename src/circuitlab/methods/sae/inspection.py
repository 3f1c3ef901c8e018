"""Which tokens a code fires on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.nodes import Mlp
from circuitlab.methods.sae.outputs import node_outputs, nodes_of

if TYPE_CHECKING:
    from circuitlab.core.nodes import Node
    from circuitlab.methods.sae.dictionary import Dictionary
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["Firing", "firings"]


@dataclass(frozen=True, slots=True)
class Firing:
    """One token position at which a node's output activates a code.

    Parameters
    ----------
    pair : int
        Which pair.
    side : {"clean", "corrupt"}
        Which of its prompts.
    position : int
        Where in the prompt.
    token : int
        Token id there.
    text : str
        The token as text; empty for a model without a tokenizer.
    activation : float
        How strongly.
    leads : bool
        Whether the code is this position's own: no other unit is more active.
    """

    pair: int
    side: Literal["clean", "corrupt"]
    position: int
    token: int
    text: str
    activation: float
    leads: bool


def firings(model: Model, batch: ContrastBatch, dictionary: Dictionary, node: Node, code: int) -> list[Firing]:
    """Every position of every prompt at which a node's own output activates a code, strongest first.

    The dictionary was trained on means over positions or on marked ones; here it reads the node's output at each single position, which
    says where in a prompt the mean's code comes from.

    Parameters
    ----------
    model, batch : Model, ContrastBatch
        What the codes were made of.
    dictionary : Dictionary
        The trial's.
    node : Node
        A query head or an MLP.
    code : int
        A unit of the dictionary.

    Raises
    ------
    UnknownNameError, BadParameterError
        If the model has no such node, or the dictionary no such code.

    Notes
    -----
    One forward pass per prompt; prompts x positions x nodes x d_model numbers pass through memory, a few prompts at a time.
    """
    mlps = isinstance(node, Mlp)
    nodes = nodes_of(model.spec, mlps=mlps)
    if node not in nodes:
        raise UnknownNameError("node", str(node), map(str, nodes))
    if not 0 <= code < dictionary.n_units:
        what = f"Code {code} is none of the {dictionary.n_units} units; -1 stands for an output that activates none."
        raise BadParameterError(what, f"Use 0 to {dictionary.n_units - 1}.")
    found: list[Firing] = []
    for side, tokens in (("clean", batch.clean), ("corrupt", batch.corrupt)):
        for pair in range(batch.n_pairs):
            length = int(batch.end[pair]) + 1
            row, end = tokens[pair : pair + 1, :length], batch.end[pair : pair + 1]
            every = [end * 0 + place for place in range(length)]
            outputs = node_outputs(model, row, end, every, mlps=mlps)[0, :, nodes.index(node)]
            activations = dictionary.encode(outputs)
            leads = dictionary.codes(outputs) == code
            for place in (activations[:, code] > 0).nonzero()[:, 0].tolist():
                token = int(row[0, place])
                text = "" if model.tokenizer is None else str(model.tokenizer.decode([token]))
                where = (pair, side, place, token, text)
                found.append(Firing(*where, float(activations[place, code]), bool(leads[place])))  # type: ignore[arg-type]
    return sorted(found, key=lambda one: -one.activation)
