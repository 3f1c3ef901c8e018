"""The pages of roles, from the docstrings of their classes."""

from __future__ import annotations

import inspect
from typing import Any

from circuitlab.methods.roles import role_classes
from writers.page import citation, first_paragraph, made_by, markdown, sections, table

__all__ = ["role_pages"]

_KINDS = {
    "attention": (
        "Roles read from attention patterns",
        "A role of this kind is an average of attention weights on prompts that are made for it: repeated random tokens, or passages of "
        "natural text. Roles that read the same prompts share one run. A weight says where a head looks. It does not say what the head "
        "moves from there, nor whether anything reads it: put a causal score beside it.",
    ),
    "weights": (
        "Roles read from weights alone",
        "No prompt is run. The effective OV circuit of a head takes a token (its embedding and what the first MLP makes of it) to the "
        "logits; its QK circuit scores two tokens against each other. Both leave out what lies between the layers, and rotary positions "
        "are left out of QK. A head that can do something by its weights need not do it in a prompt.",
    ),
    "behaviour": (
        "Roles read from behaviour",
        "The model is run and something is changed or generated: paths are patched, attention is made even, a needle is asked for. These "
        "take minutes on a small model, so they are measured only where they are named "
        "(`circuitlab heads roles --roles mover,s_inhibition`), and a model that cannot do the task is refused.",
    ),
}


def role_pages() -> dict[str, str]:
    """The overview of roles and one page for each kind."""
    pages = {"roles/index.md": overview()}
    for kind, (title, text) in _KINDS.items():
        parts = [made_by("the docstrings of the roles"), f"# {title}", text]
        parts += [one_role(cls) for cls in role_classes().values() if cls.kind == kind]
        pages[f"roles/{kind}.md"] = "\n\n".join(parts) + "\n"
    return pages


def overview() -> str:
    """What roles are, and all of them in one table."""
    rows = [
        [f"[`{name}`]({cls.kind}.md#{name})", cls.kind, cls.estimand, f"{cls.threshold:g}", "no" if _only_if_named(cls) else "yes"]
        for name, cls in role_classes().items()
    ]
    return "\n\n".join([made_by("the registry of roles"), _INTRODUCTION, table(_COLUMNS, rows), _USE]) + "\n"


_COLUMNS = ["role", "read from", "value", "at least", "by default"]

_INTRODUCTION = """# Roles of heads

A role is a part that a head plays: it looks at the previous token, copies names, inhibits movers. Each role gives **one value per head**,
with a 95 % interval where there are samples, beside **what chance gives**: a null or a control of its own, named on its page.

A head *earns* a role if its value reaches the role's threshold **and** it stands clear of chance: q <= 0.05 over all heads of the model
(Benjamini-Hochberg). The threshold comes from the paper where it gives one, and was fixed before any model was measured where it does not.
A head may earn several roles or none.

A role describes what a head does on prompts made for the role. It is no causal score: whether the head matters for *your* task is a
question for a [method](../methods.md). [Head cards](../head_cards.md) show both side by side."""

_USE = """## In Python and on the command line

```python
import circuitlab as cl
from circuitlab.methods.roles.repeats import Induction, PreviousToken
from circuitlab.model.toy import build_planted

model = build_planted("induction-mha").model  # a0.h1 and a1.h2 were planted
table = cl.roles(model, [PreviousToken(length=4, rows=4), Induction(length=4, rows=4)])
print([str(entry.node) for entry in table.earners("induction")])
```

```bash
circuitlab heads roles --model smollm2-135m
circuitlab heads roles --roles induction,copying --json
circuitlab methods list
```"""


def one_role(cls: type[Any]) -> str:
    """A role: what it says of itself, its notes, its example and its paper."""
    parts = sections(cls)
    parameters = ", ".join(f"`{name}={parameter.default!r}`" for name, parameter in inspect.signature(cls).parameters.items())
    rows = [
        ("value", f"{cls.estimand} ({cls.units})"),
        ("threshold", f"{cls.threshold:g}"),
        ("null or control", cls.null),
        ("cost", cls.cost + ("; only where it is named" if _only_if_named(cls) else "")),
        ("needs of the model", ", ".join(f"`{need}`" for need in cls.needs)),
        ("defaults", parameters or "none"),
        ("cite", "; ".join(map(citation, cls.cite))),
    ]
    opening, _, rest = markdown(parts[""]).partition("\n\n")
    text = [f"## {cls.name.replace('_', ' ').capitalize()} {{#{cls.name}}}", opening, table([f"`{cls.name}`", ""], rows)]
    text += [piece for piece in (rest, markdown(parts.get("Notes", "")) or _why_as_another(cls)) if piece]
    if examples := parts.get("Examples"):
        text.append(f"```pycon\n{examples}\n```")
    return "\n\n".join(text)


def _only_if_named(cls: type[Any]) -> bool:
    return not getattr(cls, "by_default", True)


def _why_as_another(cls: type[Any]) -> str:
    """Where a role has no notes of its own: the reason for the threshold of the role that its class extends or names."""
    opening = first_paragraph(cls) + sections(cls)[""]
    for other in role_classes().values():
        if other is not cls and f"`{other.__name__}`" in opening and other.threshold == cls.threshold:
            return f"For the threshold and its reason, see [{other.name}](#{other.name})."
    return ""
