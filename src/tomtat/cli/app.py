"""All commands in one place, and the edge where errors become one line and an exit code."""

import errno
import os
import sys
import warnings
from typing import Annotated

import typer

from tomtat import __version__
from tomtat.cli.candidates import candidates_command
from tomtat.cli.chat import chat_command
from tomtat.cli.compare import compare_command
from tomtat.cli.data import data_app
from tomtat.cli.evaluate import evaluate_command
from tomtat.cli.export import export_command
from tomtat.cli.init import init_command
from tomtat.cli.keys import keys_app
from tomtat.cli.label import label_app
from tomtat.cli.models import models_app
from tomtat.cli.params import params_command
from tomtat.cli.push import push_command
from tomtat.cli.serve import serve_command
from tomtat.cli.store import store_app
from tomtat.cli.summarize import summarize_command
from tomtat.cli.sweep import sweep_command
from tomtat.cli.terminal import error_console, program
from tomtat.cli.train import train_command
from tomtat.cli.ui import ui_command
from tomtat.errors import Interrupted, TomtatError
from tomtat.files import error_number, is_disk_full

USER_ERROR = 2
INTERRUPTED = 130
ROOM = "Make room or choose another place."
RIGHTS = "Choose another place, or see to the rights there."
ADVICE = {
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f) or choose another place.",
    errno.EROFS: RIGHTS,
    errno.EACCES: RIGHTS,
    errno.EPERM: RIGHTS,
}
"""What to do about files that the system refuses, whatever of ours or of a library's wanted them."""

app = typer.Typer(
    name="tomtat",
    help="Fine-tune small summarizers with LoRA, measure them, use them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"tomtat {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    pass


app.command("init")(init_command)
app.command("train")(train_command)
app.command("sweep")(sweep_command)
app.command("candidates")(candidates_command)
app.command("evaluate")(evaluate_command)
app.command("compare")(compare_command)
app.command("summarize")(summarize_command)
app.command("chat")(chat_command)
app.command("serve")(serve_command)
app.command("ui")(ui_command)
app.command("params")(params_command)
app.command("export")(export_command)
app.command("push")(push_command)
app.add_typer(data_app, name="data")
app.add_typer(keys_app, name="keys")
app.add_typer(label_app, name="label")
app.add_typer(models_app, name="models")
app.add_typer(store_app, name="store")


def main() -> None:
    """Run a command. What a user can fix ends in one line and exit code 2; our own bugs keep their traceback."""
    warnings.showwarning = _show_warning
    # Tokenizers warn at each fork otherwise; we fork nowhere while they work.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except Interrupted as stopped:
        error_console.print(
            str(stopped).replace("tomtat train", f"{program()} train"),
            style="yellow",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        sys.exit(INTERRUPTED)
    except TomtatError as error:
        _fail(str(error))
    except SystemExit as end:
        # Typer makes a bare exit code of Ctrl-C.
        if isinstance(getattr(end.__context__, "__cause__", None), KeyboardInterrupt):
            error_console.print("Stopped.", style="yellow")
        raise
    except Exception as error:
        if (told := _refused(error)) is None:
            raise
        _fail(told)


def _refused(error: Exception) -> str | None:
    """What the system would not do, and what to do about it; None for anything else."""
    if "No usable temporary directory" in str(error):
        return "No folder for temporary files can be written. Make room, or name one that can in the variable TMPDIR."
    number = error_number(error)
    if number is None or number not in ADVICE:
        return None
    # Of a copy the second is where it should go.
    place = getattr(error, "filename2", None) or getattr(error, "filename", None) or "A file"
    what = "can't be written" if is_disk_full(error) else "can't be opened"
    return f"{place} {what}: {os.strerror(number)}. {ADVICE[number]}"


def _fail(message: str) -> None:
    print(f"tomtat: {message}", file=sys.stderr)
    sys.exit(USER_ERROR)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: object = None,
) -> None:
    # Only our own; what libraries warn about is for developers, who see it in the tests.
    if category is UserWarning and f"{os.sep}tomtat{os.sep}" in filename:
        error_console.print(f"Warning: {message}", style="yellow", markup=False, highlight=False, soft_wrap=True)
