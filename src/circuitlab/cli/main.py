"""The command line. Commands import heavy packages only when run; bad input gives one sentence and exit code 2."""

from __future__ import annotations

import sys
import warnings
from importlib.metadata import version

import typer

from circuitlab.cli import (
    attention,
    bench,
    circuit,
    compare,
    doctor,
    experiment,
    explore,
    figures,
    generate,
    heads,
    lens,
    models,
    results,
    study,
    tasks,
)
from circuitlab.core.errors import CircuitlabError
from circuitlab.core.plain_text import for_terminal

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
app.add_typer(bench.app, name="bench")
app.add_typer(heads.app, name="heads")
app.add_typer(experiment.app, name="experiment")
app.command("doctor")(doctor.doctor)
app.command("score")(results.score)
app.command("circuit")(circuit.circuit)
app.command("compare")(compare.compare)
app.command("explore")(explore.explore)
app.command("attention")(attention.attention)
app.command("generate")(generate.generate)
app.command("lens")(lens.lens)
app.command("report")(figures.report)
app.command("cite")(results.cite)

_INTERRUPTED = 130


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    show_version: bool = typer.Option(False, "--version", help="Show the version and exit."),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),  # noqa: ARG001 - read in run()
) -> None:
    """The options of ``circuitlab`` itself."""
    if show_version:
        typer.echo(version("circuitlab"))
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


def run(arguments: list[str] | None = None) -> None:
    """Entry point of the ``circuitlab`` command.

    Exit codes: 0 success, 2 bad input (one sentence on standard error), 1 an error in circuitlab, 130 interrupted.
    """
    words = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in words
    # Accepted anywhere in the line, because users append it to the command that failed.
    words = ["--debug"] * debug + [word for word in words if word != "--debug"]
    warnings.formatwarning = _plain_warning
    try:
        code = app(args=words, prog_name="circuitlab", standalone_mode=False)
    except CircuitlabError as error:
        if debug:
            raise
        sys.stderr.write(for_terminal(f"Error: {error}\n"))
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except Exception as error:  # the outermost handler: users get a sentence, --debug gives the traceback
        if debug:
            raise
        if (usage := _usage_error(error)) is not None:
            sys.stderr.write(f"Error: {usage}\n")
            sys.exit(2)
        sys.stderr.write(f"circuitlab failed: {type(error).__name__}: {error}\nRun again with --debug for the traceback.\n")
        sys.exit(1)
    if code == _INTERRUPTED:  # typer turns an interruption inside a command into this code
        sys.stderr.write("Interrupted; finished work is kept.\n")
    sys.exit(code if isinstance(code, int) else 0)


def _plain_warning(
    message: Warning | str,
    category: type[Warning],  # noqa: ARG001 - the signature of warnings.formatwarning
    filename: str,  # noqa: ARG001
    lineno: int,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> str:
    """A warning as one line, without its source line."""
    return for_terminal(f"Warning: {message}\n")


def _usage_error(error: Exception) -> str | None:
    """Typer's message about wrong arguments; None for any other error.

    Typer keeps click's exceptions in a private module, so they are recognised by their attributes.
    """
    message = getattr(error, "format_message", None)
    if message is None or not hasattr(error, "exit_code"):
        return None
    context = getattr(error, "ctx", None)
    text = str(message()).rstrip(".")
    return f"{text}. Try '{context.command_path} --help'." if context is not None else f"{text}."
