"""The command line: thin commands, heavy imports inside them, one sentence and exit code 2 on bad input."""

from __future__ import annotations

import sys
from importlib.metadata import version

import typer

from circuitlab.cli import figures, models, results, study, tasks
from circuitlab.errors import CircuitlabError

__all__ = ["app", "run"]

app = typer.Typer(
    name="circuitlab",
    help="Find, check and compare circuits in decoder language models, with error bars.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(models.app, name="models")
app.add_typer(tasks.app, name="tasks")
app.add_typer(results.methods_app, name="methods")
app.add_typer(study.app, name="study")
app.add_typer(figures.app, name="figures")
app.command("doctor")(models.doctor)
app.command("score")(results.score)
app.command("circuit")(results.circuit)
app.command("compare")(results.compare)
app.command("report")(figures.report)
app.command("cite")(results.cite)

_INTERRUPTED = 130


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    show_version: bool = typer.Option(False, "--version", help="Show the version and exit."),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),  # noqa: ARG001 - read in run()
) -> None:
    """Options before the command."""
    if show_version:
        typer.echo(version("circuitlab"))
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


def run(arguments: list[str] | None = None) -> None:
    """Entry point of the ``circuitlab`` command.

    Exit codes: 0 done, 2 bad input (one sentence on standard error), 1 a fault in circuitlab, 130 interrupted.
    """
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    # Accepted anywhere on the line: people add it to the end of the command that failed.
    given = ["--debug"] * debug + [word for word in given if word != "--debug"]
    try:
        app(args=given, prog_name="circuitlab")
    except CircuitlabError as error:
        if debug:
            raise
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted; finished work is kept.\n")
        sys.exit(_INTERRUPTED)
    except Exception as error:  # the outermost handler: a reader gets a sentence, --debug gives the traceback
        if debug:
            raise
        sys.stderr.write(f"circuitlab failed: {type(error).__name__}: {error}\nRun again with --debug for the traceback.\n")
        sys.exit(1)
