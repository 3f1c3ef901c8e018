"""``python -m circuitlab`` is the ``circuitlab`` command."""

from circuitlab.cli.main import run

__all__: list[str] = []

if __name__ == "__main__":
    run()
