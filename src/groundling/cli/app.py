"""Which verbs there are, and how the process ends."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import warnings
from typing import Annotated, Any

import typer

from groundling import __version__
from groundling.cli.data import check, convert, export, fetch
from groundling.cli.evaluation import compare, diagnose, evaluate
from groundling.cli.models import calibrate, demo, info, merge, predict
from groundling.cli.screen import fail, is_speaker
from groundling.cli.training import plan, preview, train
from groundling.errors import PREEMPTED, GroundlingError, PreemptedError, TrainingError

_VERBS = (  # in the order of `groundling --help`
    fetch,
    convert,
    export,
    check,
    preview,
    plan,
    info,
    train,
    evaluate,
    compare,
    diagnose,
    predict,
    calibrate,
    merge,
    demo,
)
_UsageError: Any = typer.BadParameter.__base__  # click's, or that of the copy that typer carries since 0.2x


def main() -> None:
    """Run the command line; ends the process with the exit code."""
    told: list[int] = []
    if "RANK" in os.environ:  # one of a launch
        atexit.register(_end_at_once, told)  # before all else that is registered, so that it runs after that
    told.append(_run())
    sys.exit(told[0])


def _end_at_once(told: list[int]) -> None:
    """End with the exit code that was told, and leave Python up: gloo's threads abort what is taken down beneath them.

    One that has moved a tensor, and gets to let go of it only while Python ends, asks Python for leave (torch 2.13).
    """
    if told:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(told[0])


def _run() -> int:
    """Do what the command line says; the exit code."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("groundling").setLevel(logging.INFO if is_speaker() else logging.ERROR)
    warnings.filterwarnings("ignore", "Corrupt EXIF")  # Pillow's; such a picture stays as it is stored
    logging.getLogger("DeepSpeed").addFilter(is_news)
    try:
        code = _build_app()(standalone_mode=False)
    except _UsageError as error:
        return _fail_use(error)
    except TrainingError as error:
        return fail(str(error), 1)
    except PreemptedError as error:
        return fail(str(error), PREEMPTED)
    except GroundlingError as error:
        return fail(str(error), 2)
    except OSError as error:
        return fail(f"{error.filename or ''}: {error.strerror or error}".lstrip(": "), 2)
    except (KeyboardInterrupt, typer.Abort) as error:
        return fail(str(error) or "interrupted", 130)
    return code if isinstance(code, int) else 0


def is_news(record: logging.LogRecord) -> bool:
    """False for what every process has DeepSpeed say on stdout where there is no GPU, as torch knows too."""
    if not record.getMessage().startswith("Setting accelerator to CPU"):
        return True
    import torch

    return torch.cuda.is_available()


def _build_app() -> typer.Typer:
    app = typer.Typer(
        name="groundling",
        help="Teach vision-language models to point at things, and get boxes in the pixels of your own picture.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_take_version)
    for verb in _VERBS:
        app.command()(verb)
    return app


def _tell_version(is_asked: bool) -> None:
    if is_asked:
        print(f"groundling {__version__}")
        raise typer.Exit


def _take_version(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="tell the version")
    ] = False,
) -> None:
    """The option that stands before any verb."""


def _fail_use(error: Any) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":  # `groundling` alone: its message is the help
        print(error.format_message(), file=sys.stderr)
        return 2
    return fail(f"{error.format_message()}\nTry `{_help_line(error)}`.", 2)


def _help_line(error: Any) -> str:
    return f"{error.ctx.command_path if error.ctx else 'groundling'} --help"
