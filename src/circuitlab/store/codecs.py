"""The file formats of stored results: scores as netCDF with a readable JSON sidecar, everything else as JSON."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from circuitlab.core.errors import ScoreFileError, StoreError
from circuitlab.core.files import read_bytes, replace_file
from circuitlab.core.names import require_file_name
from circuitlab.core.provenance import Environment, Provenance, capture_environment, digest
from circuitlab.scores.edge_scores import EdgeScores
from circuitlab.scores.head_scores import HeadScores
from circuitlab.store.misfits import misfit

__all__ = ["EDGE_SCORES", "HEAD_SCORES", "Codec", "Document", "Documents", "ScoreFiles", "Sidecar"]

_SCHEMA = 1

Identity_contra = TypeVar("Identity_contra", contravariant=True)
Computed_contra = TypeVar("Computed_contra", contravariant=True)
Stored_co = TypeVar("Stored_co", covariant=True)
Scores = TypeVar("Scores", HeadScores, EdgeScores)


class Codec(Protocol[Identity_contra, Computed_contra, Stored_co]):
    """How one kind of result is written and read.

    Attributes
    ----------
    folder, suffix : str
        Folder within the cache (``""`` for the cache itself), and the end of a file's name.
    """

    @property
    def folder(self) -> str:
        """Folder within the cache."""
        ...

    @property
    def suffix(self) -> str:
        """End of the file's name."""
        ...

    def name(self, identity: Identity_contra) -> str:
        """Name of a result's file without the suffix; raises `StoreError` if it cannot be a file name."""
        ...

    def problem(self, path: Path) -> str:
        """What is wrong with a file, as far as can be known without decoding it; empty if nothing is."""
        ...

    def read(self, path: Path, identity: Identity_contra) -> Stored_co:
        """The result in a file that exists.

        Raises
        ------
        ScoreFileError
            If the file is damaged, foreign, newer, or holds another result.
        StoreError
            If this user may not read the file.
        """
        ...

    def write(self, path: Path, identity: Identity_contra, computed: Computed_contra, seconds: float) -> Stored_co:
        """Write a result in one step and return it as it will be read back; ``seconds`` is how long the computation took."""
        ...

    def files(self, path: Path) -> tuple[Path, ...]:
        """All files of a result, which are moved to quarantine together."""
        ...


class Sidecar(msgspec.Struct, frozen=True):
    """The JSON file beside scores, for readers and for quick listing: their provenance and the hash of their file."""

    run_id: str
    sha256: str
    provenance: Provenance


@dataclass(frozen=True)
class ScoreFiles(Generic[Scores]):
    """Files of scores of one class: ``<run_id><suffix>``, each with a sidecar beside it. Their identity is the run id."""

    kind: type[Scores]
    suffix: str
    folder: str = ""

    def name(self, identity: str) -> str:
        """The run id."""
        if not (identity.isalnum() and identity.isascii()):
            what = f"{identity!r} is not a run id."
            raise StoreError(what, "Run ids are hexadecimal digits.")
        return require_file_name("run id", identity, StoreError)

    def problem(self, path: Path) -> str:
        """What is wrong with a file, by the hash in its sidecar; empty if its bytes are the ones that were written."""
        text, data = read_bytes(path.with_suffix(".json")), read_bytes(path)
        if text is None or data is None:
            return ""  # killed between the two writes: the scores have a checksum of their own, which is checked when they are read
        try:
            sidecar = msgspec.json.decode(text, type=Sidecar)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            return f"its sidecar cannot be read ({error})"
        return "" if sidecar.sha256 == hashlib.sha256(data).hexdigest() else "its bytes are not the ones that were written"

    def read(self, path: Path, identity: str) -> Scores:
        """The scores in a file.

        Raises
        ------
        ScoreFileError
            If the file is damaged, foreign or newer.
        StoreError
            If it holds another run, or this user may not read it.
        """
        scores = self.kind.load(path)
        run_id = scores.provenance.run_id()
        if run_id != identity:
            what = f"{path} holds run {run_id}."
            raise StoreError(what, "Files of a store must not be renamed; move it back.")
        return scores

    def write(self, path: Path, identity: str, computed: Scores, seconds: float) -> Scores:  # noqa: ARG002 - scores carry their own time
        """Write scores and their sidecar.

        Raises
        ------
        StoreError
            If the scores belong to another run, or the files cannot be written.
        """
        run_id = computed.provenance.run_id()
        if run_id != identity:
            what = f"Run {identity} was asked for, and {run_id} was computed."
            raise StoreError(what, "The method changed its parameters while it ran; report this.")
        computed.save(path)
        sidecar = Sidecar(identity, hashlib.sha256(path.read_bytes()).hexdigest(), computed.provenance)
        text = msgspec.json.format(msgspec.json.encode(sidecar), indent=2)
        replace_file(path.with_suffix(".json"), lambda target: target.write_bytes(text))
        return computed

    def files(self, path: Path) -> tuple[Path, ...]:
        """Scores and sidecar."""
        return path, path.with_suffix(".json")


HEAD_SCORES = ScoreFiles(HeadScores, ".nc")
EDGE_SCORES = ScoreFiles(EdgeScores, ".edges.nc")


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a JSON file of the cache.

    Parameters
    ----------
    about : dict
        Everything that the result depends on; its hash is the file's name.
    result : dict
        The result as plain data; NaN is null.
    checksum : str
        Hash of the result.
    environment : Environment
        When and with which software the result was computed; not part of its identity.
    schema : int
        Version of this layout.
    """

    about: dict[str, Any]
    result: dict[str, Any]
    checksum: str
    environment: Environment
    schema: int = _SCHEMA


@dataclass(frozen=True)
class Documents:
    """Files of plain data of one kind, such as ``"evaluations"``: ``<kind>/<hash>.json``. The identity is everything the data depend on.

    ``check`` reads a document as its user does; what it raises makes the file a damaged one, however well its checksum fits.
    """

    kind: str
    suffix: str = ".json"
    check: Callable[[Document], object] | None = field(default=None, compare=False, repr=False)

    def checked(self, check: Callable[[Document], object]) -> Documents:
        """The same files, of which one that this cannot read counts as damaged."""
        return replace(self, check=check)

    @property
    def folder(self) -> str:
        """The folder of this kind."""
        return require_file_name("kind of results", self.kind, StoreError)

    def name(self, identity: Mapping[str, Any]) -> str:
        """Sixteen hexadecimal digits."""
        return digest(identity)[:16]

    def problem(self, path: Path) -> str:  # noqa: ARG002 - damage shows on reading
        """Always empty: damage is only noticed when the file is read."""
        return ""

    def read(self, path: Path, identity: Mapping[str, Any]) -> Document:  # noqa: ARG002 - the file's name is its hash
        """The document in a file.

        Raises
        ------
        ScoreFileError
            If the file is damaged, has another schema or form, or is named after another result.
        StoreError
            If this user may not read it.
        """
        try:
            document = msgspec.json.decode(read_bytes(path) or b"", type=Document)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise _damaged(path, f"it cannot be read ({error})") from error
        if document.schema != _SCHEMA:
            raise _damaged(path, f"it has schema {document.schema}, and this version reads {_SCHEMA}")
        if digest(document.about)[:16] != path.stem:
            raise _damaged(path, "it is named after another result")
        if digest(document.result) != document.checksum:
            raise _damaged(path, "its values do not match their checksum")
        if self.check is not None and (problem := misfit(partial(self.check, document))):
            raise _damaged(path, f"its values have another form ({problem})")
        return document

    def write(self, path: Path, identity: Mapping[str, Any], computed: Mapping[str, Any], seconds: float) -> Document:
        """Write plain data.

        Raises
        ------
        StoreError
            If the result is not plain data, or the file cannot be written.
        """
        try:
            plain, about = (msgspec.json.decode(msgspec.json.encode(dict(part))) for part in (computed, identity))
        except (TypeError, msgspec.MsgspecError) as error:
            what = f"A result for {path.parent} is not plain data: {error}."
            raise StoreError(what, "Give dictionaries, lists, text and numbers.") from error
        document = Document(about=about, result=plain, checksum=digest(plain), environment=capture_environment(seconds))
        text = msgspec.json.format(msgspec.json.encode(document), indent=1)
        replace_file(path, lambda target: target.write_bytes(text))
        return document

    def files(self, path: Path) -> tuple[Path, ...]:
        """The file itself."""
        return (path,)


def _damaged(path: Path, problem: str) -> ScoreFileError:
    return ScoreFileError(f"{path} is damaged: {problem}.", "Remove it and compute it again.")
