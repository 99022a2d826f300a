"""What the commands of ``bipvl`` share: errors as sentences, and ways to print."""

import os
from collections.abc import Iterable
from typing import Any

import typer
from typer.core import TyperGroup

from bipvl.common.errors import BipvlError
from bipvl.common.extras import missing_extra_explained
from bipvl.common.write_errors import explain_write_error


class Sentences(TyperGroup):
    """Bad input, a failed write and an interruption each end with a sentence, not with a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with missing_extra_explained():
                return super().invoke(ctx)
        except (BipvlError, OSError) as error:
            sentence = error if isinstance(error, BipvlError) else explain_write_error(error)
            if sentence is None:
                raise
            typer.echo(f"bipvl: {sentence}", err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            typer.echo("\nbipvl: interrupted; the same command resumes from what is saved", err=True)
            raise typer.Exit(130) from None


def echo_table(rows: Iterable[tuple[str, str]]) -> None:
    """Print a name and a text per line, the texts aligned."""
    rows = [*rows]
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        typer.echo(f"{name:{width}}  {text}")


def echo_once(sentence: str) -> None:
    """Print a sentence; with several processes (``accelerate launch``) only in the first one."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo(sentence)


def parse_size(text: str) -> tuple[int, int, int]:
    """The text 64 or 512x512x200 as three numbers."""
    parts = text.lower().split("x")
    if len(parts) not in (1, 3) or not all(part.isdecimal() for part in parts):
        raise BipvlError(f"the size '{text}' is not valid", "give one number such as 64, or 512x512x200")
    x, y, z = map(int, parts * (3 // len(parts)))
    return x, y, z
