"""What is installed: a lock with hashes, an audit against known vulnerabilities, and the licences (`make lock audit licences`).

    python .ci/supply.py lock       resolve every extra within constraints.txt, and write requirements.lock
    python .ci/supply.py audit      look the locked releases up in the Python advisory database (needs pip-audit and the network)
    python .ci/supply.py licences   a table of what each locked package says about its licence, as Markdown

The lock is for the interpreter and the platform on which it is made, which its second line names. torch is not in it: one and the same
release has other files on every index (PyPI's brings CUDA, pytorch.org's CPU index does not), so `make setup` takes it by its exact version
from the index that is asked for.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["audit", "entries", "licence_of", "licences", "locked", "main", "needed", "verdict"]

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"
EXTRAS = "dev,images,ray"
_APART = {"circuitlab", "torch"}
_OF_TORCH = re.compile(r"^(nvidia-|cuda-|triton$)")
_LONGEST = 60


def main(words: Sequence[str] | None = None) -> int:
    """Run one of the three; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["lock", "audit", "licences"])
    parser.add_argument("--audit-python", default=sys.executable, help="audit: an interpreter that has pip-audit")
    given = parser.parse_args(words)
    if given.what == "audit":
        return audit(given.audit_python)
    if given.what == "lock":
        LOCK.write_text(locked(resolved(), where()), encoding="utf-8")
        print(f"{LOCK.name}: {len(entries(LOCK.read_text(encoding='utf-8')))} packages")
    else:
        print(licences(entries(LOCK.read_text(encoding="utf-8"))))
    return 0


def where() -> str:
    """Interpreter and platform that files are chosen for."""
    return f"Python {sys.version_info.major}.{sys.version_info.minor}, {platform.system()} {platform.machine()}"


def resolved() -> list[dict[str, Any]]:
    """What pip would install into an empty environment, with the hash of every file."""
    pin = next(line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line.startswith("torch=="))
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = ["--quiet", "--dry-run", "--ignore-installed", "--report", str(report), "-c", str(ROOT / "constraints.txt")]
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", *options, pin, f"{ROOT}[{EXTRAS}]"]
        subprocess.run(command, check=True)
        return list(json.loads(report.read_text(encoding="utf-8"))["install"])


def locked(packages: Iterable[Mapping[str, Any]], place: str) -> str:
    """The text of the lock; raises `ValueError` for a file without a SHA-256."""
    made_from = f"pyproject.toml and constraints.txt, with extras {EXTRAS}. torch is installed first, by itself."
    lines = [f"# Written by `make lock` from {made_from}", f"# {place}"]
    for package in sorted(packages, key=lambda package: _normal(package["metadata"]["name"])):
        name, version = _normal(package["metadata"]["name"]), package["metadata"]["version"]
        if name in _APART or _OF_TORCH.match(name):
            continue
        digest = package["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
        if digest is None:
            raise ValueError(f"{name} {version} comes from {package['download_info'].get('url')}, which has no SHA-256.")
        lines.append(f"{name}=={version} --hash=sha256:{digest}")
    return "\n".join(lines) + "\n"


def entries(text: str) -> dict[str, str]:
    """Name and version of every package in a lock."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+) --hash=sha256:[0-9a-f]{64}$", text, flags=re.MULTILINE))


def audit(interpreter: str) -> int:
    """Look torch and the lock up with pip-audit. 0: all looked up, nothing known; 1: something known; 2: not all could be looked up."""
    torch = next(line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line.startswith("torch=="))
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "requirements.txt"
        pins = [torch, *(f"{name}=={version}" for name, version in entries(LOCK.read_text(encoding="utf-8")).items())]
        listed.write_text("\n".join(pins) + "\n", encoding="utf-8")
        options = ["--disable-pip", "--no-deps", "--progress-spinner", "off", "--format", "json"]
        command = [interpreter, "-m", "pip_audit", *options, "-r", str(listed)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    if "No module named pip_audit" in done.stderr:
        print("Not audited: pip-audit is not installed here. `make audit` installs it into an environment of its own.", file=sys.stderr)
        return 2
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (json.JSONDecodeError, KeyError, TypeError):
        print(f"Not audited: {_last_line(done.stderr)} The advisory database must be reachable.", file=sys.stderr)
        return 2
    return verdict(packages)


def verdict(packages: Sequence[Mapping[str, Any]]) -> int:
    """Print what is known of each package, and how many could not be looked up: pip-audit itself calls those free of vulnerabilities."""
    skipped = [package for package in packages if "vulns" not in package]
    known = [(package, hole) for package in packages for hole in package.get("vulns", [])]
    for package, hole in known:
        fixed = ", ".join(hole.get("fix_versions", [])) or "no release"
        print(f"{package['name']} {package['version']}: {hole['id']}, fixed in {fixed}")
    print(f"{len(packages) - len(skipped)} of {len(packages)} packages looked up, {len(known)} known vulnerabilities.")
    if skipped or not packages:
        reason = skipped[0].get("skip_reason", "no reason given") if skipped else "the lock is empty"
        print(f"Not audited: {len(skipped)} packages, the first because: {reason}. Is PyPI itself reachable?", file=sys.stderr)
    return 1 if known else 2 if skipped or not packages else 0


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "pip-audit said nothing."


def licences(packages: Mapping[str, str]) -> str:
    """A Markdown table of the licences of packages that are installed here: first what circuitlab needs to run, then the rest."""
    ours = needed()
    lines = ["| package | version | licence | needed |", "| --- | --- | --- | --- |"]
    for name, version in sorted(packages.items(), key=lambda entry: (entry[0] not in ours, entry[0])):
        lines.append(f"| {name} | {version} | {licence_of(name)} | {'to run' if name in ours else 'for extras and tests'} |")
    return "\n".join(lines)


def licence_of(name: str) -> str:
    """What an installed package says about its licence: the expression, else classifiers, else the first line of the old field."""
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return "not installed here"
    if about["License-Expression"]:
        return str(about["License-Expression"])
    classified = [line.rpartition(" :: ")[2] for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
    old = (about["License"] or "").strip().splitlines()
    return ", ".join(classified) or (old[0][:_LONGEST] if old else "not stated")


def needed() -> set[str]:
    """Names of everything that the package itself needs, directly or not, as far as it is installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    todo, seen = [_name(requirement) for requirement in project["dependencies"]], set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        todo += [_name(requirement) for requirement in requirements if "extra ==" not in requirement]
    return seen


def _name(requirement: str) -> str:
    return _normal(re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0])


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main())
