"""Arguments and options that several verbs take."""

from __future__ import annotations

from typing import Annotated

import typer

ModelName = Annotated[str, typer.Argument(help="run folder, checkpoint, adapter, hub name, or tiny", metavar="MODEL")]
RecipeName = Annotated[str, typer.Argument(help="a recipe file, or the name of a shipped one")]
Overrides = Annotated[list[str] | None, typer.Argument(help="settings to change", metavar="[key=value]...")]
OtherBudget = Annotated[
    int | None, typer.Option(min=1, help="another budget of visual tokens than it was trained with")
]
MaxFilePixels = Annotated[
    int | None, typer.Option(min=1, help="refuse pictures of more pixels; by default 100 million")
]
AllowAbsolute = Annotated[bool, typer.Option("--allow-absolute", help="pictures may have absolute paths")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="room for one answer, in tokens")]
FreeAnswers = Annotated[bool, typer.Option("--free", help="let answers say anything, not only what can be read")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON document")]
