"""The lock with hashes follows from pyproject.toml and constraints.txt, and the commands that read it say what they cannot do."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest
import supply
from project_rules import _normal, unpinned

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "requirements.lock").read_text(encoding="utf-8")
LOCKED = supply.entries(TEXT)
PINS = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), flags=re.MULTILINE))


def without_lock(pyproject: str, lock: str) -> list[str]:
    """Dependencies, of the package and of every extra, that a lock lacks or holds in a version that is too low; torch is not in it."""
    extras = ["", *supply.EXTRAS.split(",")]
    plain = re.sub(r" --hash=\S+", "", lock)
    return [problem for group in extras for problem in unpinned(pyproject, plain, group) if problem != "torch is not pinned"]


def test_the_lock_satisfies_the_project() -> None:
    assert without_lock((ROOT / "pyproject.toml").read_text(encoding="utf-8"), TEXT) == []
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(extras) == set(supply.EXTRAS.split(","))


@pytest.mark.parametrize("name", ["scipy", "ray", "kaleido", "pytest"])
def test_a_package_that_is_missing_or_old_would_be_noticed(name) -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert without_lock(pyproject, re.sub(rf"^{name}==.*\n", "", TEXT, flags=re.MULTILINE))
    assert without_lock(pyproject, re.sub(rf"^{name}==\S+", f"{name}==0.0.1", TEXT, flags=re.MULTILINE))


def test_every_line_is_a_release_with_its_hash_and_none_is_torch() -> None:
    lines = [line for line in TEXT.splitlines() if not line.startswith("#")]
    assert len(lines) == len(LOCKED) > 150
    assert not {"torch", "torchvision", "circuitlab"} & set(LOCKED)


def test_the_lock_holds_what_constraints_pin() -> None:
    pins = {_normal(name): version for name, version in PINS.items()} | {name: LOCKED[name] for name in ("pip", "setuptools")}
    assert {name: version for name, version in LOCKED.items() if pins.get(name) != version} == {}


def package(name: str, version: str, **archive: str) -> dict:
    return {"metadata": {"name": name, "version": version}, "download_info": {"url": "file", "archive_info": {"hashes": archive}}}


def test_a_file_without_a_hash_is_refused_and_torch_is_left_out() -> None:
    left_out = [package("torch", "2.13.0"), package("nvidia-x", "1")]
    packages = [package("B_b", "2", sha256="1" * 64), package("a", "1", sha256="0" * 64), *left_out]
    assert supply.entries(supply.locked(packages, "here")) == {"a": "1", "b-b": "2"}
    with pytest.raises(ValueError, match=r"c 3 comes from file, which has no SHA-256"):
        supply.locked([package("c", "3", md5="0")], "here")


def test_an_audit_that_cannot_run_says_so(tmp_path, capfd) -> None:
    assert supply.audit(sys.executable) == 2
    assert "Not audited: pip-audit is not installed here" in capfd.readouterr().err
    failing = tmp_path / "python"
    failing.write_text("#!/bin/sh\necho 'ConnectionError: no route' >&2\nexit 1\n")
    failing.chmod(0o755)
    assert supply.audit(str(failing)) == 2
    assert "Not audited: ConnectionError: no route The advisory database must be reachable." in capfd.readouterr().err


def test_a_package_that_could_not_be_looked_up_does_not_count_as_safe(capsys) -> None:
    safe, skipped = {"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "Not on PyPI"}
    known = {"name": "c", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
    assert supply.verdict([safe, safe]) == 0
    assert supply.verdict([safe, skipped]) == 2
    said = capsys.readouterr()
    assert "1 of 2 packages looked up, 0 known" in said.out and "Not audited: 1 packages, the first because: Not on PyPI." in said.err
    assert supply.verdict([safe, known, skipped]) == 1
    assert "c 2: PYSEC-1, fixed in 3" in capsys.readouterr().out
    assert supply.verdict([]) == 2


def test_licences_are_listed_for_every_package() -> None:
    lines = supply.licences(LOCKED).splitlines()
    assert len(lines) == len(LOCKED) + 2
    assert supply.licence_of("numpy") != "not stated"
    assert supply.licence_of("no-such-package") == "not installed here"
    assert {"numpy", "msgspec", "transformers"} <= supply.needed()
    assert not {"pytest", "ray"} & supply.needed()
