"""``--config FILE``: the options of a command from a YAML file. Options on the command line override the file."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from actratio.errors import ActratioError, short

_OWN = ("config", "help")  # options that a file cannot set


def with_config(command: Callable[..., None]) -> Callable[..., None]:
    """Return the same command with the option ``--config``."""

    @functools.wraps(command)
    def configured(*, config: Path | None, **values: Any) -> None:
        command(**values)

    signature = inspect.signature(command, eval_str=True)
    parameters = [*signature.parameters.values(), _CONFIG]
    configured.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    configured.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return configured


def _use_file(context: typer.Context, path: Path | None) -> Path | None:
    """Make the values of the file the defaults of the command that is being parsed."""
    if path is not None and not context.resilient_parsing:
        context.default_map = _read_options(context, path)
    return path


def _read_options(context: typer.Context, path: Path) -> dict[str, str | bool | list[str]]:
    """Return the options in a YAML file by the names of their parameters, checked as if they were on the command line.

    Raises:
        ActratioError: the file is missing or is not a mapping, or an option in it does not exist or has a value of a wrong type.
    """
    command = context.command_path
    options = {name: option for option in context.command.params if (name := _key(option)) and name not in _OWN}
    values: dict[str, str | bool | list[str]] = {}
    for key, value in _read_mapping(path).items():
        option = options.get(key)
        if option is None:
            nearest = difflib.get_close_matches(str(key).replace("_", "-"), options, 1) or sorted(options)
            advice = f"nearest: {nearest[0]}" if len(nearest) == 1 else f"use one of {', '.join(nearest)}"
            raise ActratioError(f"{path}: {short(key)!r} is not an option of {command}; {advice}")
        given = f"{path}: {key} is {short(repr(value))}"
        values[option.name] = _as_typed(option, value, given)
        try:
            option.process_value(context, values[option.name])
        except typer.BadParameter as error:
            raise ActratioError(f"{given}, and --{key} refuses that: {error.message.strip().rstrip('.')}") from None
    return values


def _key(parameter: Any) -> str:
    """Return the name of an option without its dashes; empty for an argument."""
    return next((name.removeprefix("--") for name in parameter.opts if name.startswith("--")), "")


def _read_mapping(path: Path) -> dict[Any, Any]:
    import yaml

    try:
        if not path.is_file():  # a pipe would be waited for, and a device may have no end
            raise OSError
        text = path.read_text(encoding="utf-8")
        # A few lines of aliases of aliases stand for a value that fills the memory when it is shown.
        if "*" in text and any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, Loader=yaml.SafeLoader)):
            raise ActratioError(f"--config {path} has an alias (*name), which is not read; write the value itself")
        content = yaml.safe_load(text)
    except OSError:
        raise ActratioError(f"--config {path} is not a file that can be read; give a YAML file") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" at line {mark.line + 1}"
        raise ActratioError(f"--config {path} is not valid YAML{where}; write one 'option: value' per line") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ActratioError(f"--config {path} holds no options; write one 'option: value' per line")
    return content


def _as_typed(option: Any, value: Any, given: str) -> str | bool | list[str]:
    """Return a value of the file as the command line would hand it over."""
    if option.is_flag:
        if not isinstance(value, bool):
            raise ActratioError(f"{given}, and the option is a switch; write true or false")
        return value
    if option.multiple:
        return [_as_text(item, given) for item in (value if isinstance(value, list) else [value])]
    return _as_text(value, given)


def _as_text(value: Any, given: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ActratioError(
            f"{given}, and the option takes text or a number; put quotes around text that YAML reads as something else"
        )
    if "\0" in str(value):  # a command line can't have one, so nothing below expects it
        raise ActratioError(f"{given}, which has a NUL character; remove it")
    return str(value)


_CONFIG = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            callback=_use_file,
            is_eager=True,
            help="YAML file with options of this command; options on the command line override it.",
            show_default=False,
        ),
    ],
)
