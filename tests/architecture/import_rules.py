"""What may import what, what an import may load, and what it may cost."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import networkx as nx
from source_tree import Source, dotted, imports

ADAPTER = "model/transformer_lens.py"
LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(config_filename=sys.argv[1], no_cache=True))"

# Run after a probe's own code: which modules it loaded, and the processor time of the whole process. Processor time, and not
# time on the clock, because a busy machine must not fail a test.
PROBE = """
import json, sys, time
spent = time.process_time()
sys.stderr.write("\\nPROBE" + json.dumps({"seconds": spent, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""
# Run before a probe's own code: any use of the network raises.
OFFLINE = """
import sys
def _refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        raise RuntimeError(f"network at import: {event} {arguments[1:2]}")
sys.addaudithook(_refuse)
"""


@dataclass(frozen=True)
class Lint:
    """Result of import-linter: exit status, output, and each contract with whether it is kept."""

    code: int
    output: str
    kept: dict[str, bool]


@dataclass(frozen=True)
class Load:
    """What a fresh process loaded, its processor time in seconds, and that in imports of numpy where it was compared with one."""

    code: int
    seconds: float
    modules: frozenset[str]
    output: str
    errors: str
    cost: float = 0.0


def lint_contracts(config: Path, folder: Path) -> Lint:
    """Run import-linter on the circuitlab that lies in ``folder``."""
    done = run_python(LINT, [str(config)], {"PYTHONPATH": str(folder), "COLUMNS": "400"})
    verdicts = re.findall(r"^(.+?) (KEPT|BROKEN)\b", done.stdout, flags=re.MULTILINE)
    return Lint(done.returncode, done.stdout + done.stderr, {name: verdict == "KEPT" for name, verdict in verdicts})


def load(code: str, *, offline: bool = False) -> Load:
    """Run code in a fresh interpreter and say what it loaded and cost."""
    body = f"try:\n    exec({code!r}, {{}})\nexcept SystemExit as end:\n    status = end.code or 0\nelse:\n    status = 0\n"
    done = run_python(f"{OFFLINE if offline else ''}{body}{PROBE}\nsys.exit(status)", [], {})
    errors, mark, probe = done.stderr.rpartition("PROBE")
    if not mark:  # it ended with a traceback before the probe
        return Load(done.returncode, float("nan"), frozenset(), done.stdout, done.stderr)
    found = json.loads(probe)
    return Load(done.returncode, found["seconds"], frozenset(found["modules"]), done.stdout, errors)


def cheapest(code: str, budget: float, tries: int = 5) -> Load:
    """The first load within the budget, else the cheapest of ``tries``; cost is counted in imports of numpy just before.

    Machines differ, and one machine from minute to minute; what a command costs beside an import of numpy hardly does.
    """
    loads: list[Load] = []
    while len(loads) < tries and not (loads and loads[-1].cost < budget):
        unit = load("import numpy").seconds
        found = load(code)
        loads.append(replace(found, cost=found.seconds / unit))
    return min(loads, key=lambda one: one.cost)


def over_budget(found: Load, budget: float, heavy: Iterable[str]) -> list[str]:
    """What a load did that it must not: heavy modules, too much time, failing."""
    problems = [f"loads {name}" for name in sorted(found.modules & set(heavy))]
    if found.code:
        problems.append(f"exit code {found.code}: {found.errors[-300:]}")
    if not found.cost < budget:
        problems.append(f"costs {found.cost:.1f} imports of numpy ({found.seconds:.2f} s of processor time), the budget is {budget}")
    return problems


def circles(sources: Iterable[Source]) -> list[list[str]]:
    """Groups of files that import each other, whether at once, under TYPE_CHECKING or inside a function; every import counts."""
    modules = {f"circuitlab.{source.module}".removesuffix(".__init__"): source for source in sources}
    graph = nx.DiGraph()
    for name, source in modules.items():
        for _, wanted, _ in imports(source.tree):
            target = wanted if wanted in modules else wanted.rpartition(".")[0]
            if target in modules and target != name:
                graph.add_edge(name, target)
    return sorted(sorted(group) for group in nx.strongly_connected_components(graph) if len(group) > 1)


def unlayered(names: Iterable[str], layers: Sequence[str]) -> list[str]:
    """Modules and packages directly under circuitlab that no layer names."""
    named = {name.strip() for layer in layers for name in re.split(r"[|:]", layer)}
    return sorted(name for name in names if f"circuitlab.{name}" not in named)


def misplaced_transformer_lens(sources: Iterable[Source]) -> list[str]:
    """Imports of transformer_lens outside its adapter, of HookedTransformer anywhere, and subclasses of what it offers."""
    found = []
    for source in sources:
        theirs = set()
        for node, name, bound in imports(source.tree):
            if name.partition(".")[0] == "transformer_lens":
                theirs.add(bound)
                if source.path != ADAPTER:
                    found.append(source.at(node, f"imports {name}, only {ADAPTER} may"))
                if "HookedTransformer" in name:
                    found.append(source.at(node, "imports HookedTransformer, the adapter builds on TransformerBridge"))
        found += [
            source.at(node, f"{node.name} subclasses {dotted(base)}")
            for node in ast.walk(source.tree)
            if isinstance(node, ast.ClassDef)
            for base in node.bases
            if dotted(base).partition(".")[0] in theirs
        ]
    return found


def run_python(code: str, arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter; what the tests' own process was told about warnings and coverage does not reach it."""
    kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONWARNINGS", "PYTHONSTARTUP", "PYTHONPATH"}}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=kept | environment, capture_output=True, text=True, check=False, timeout=300)
