"""``python -m circuitlab`` is the ``circuitlab`` command."""

from circuitlab.cli.main import run

run()
