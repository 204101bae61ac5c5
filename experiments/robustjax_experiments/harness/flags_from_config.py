"""Converts flags to a frozen configuration, and errors to exit codes.

A script keeps its settings in one frozen dataclass. Every field becomes a flag of the
same name, so that `flags.txt` reloads with `--flagfile`, and `run(config)` never looks
at flags: tests and notebooks call it directly.
"""

import contextlib
import dataclasses
import logging as std_logging
import pathlib
import sys
import typing
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
from absl import app, flags, logging
from robustjax_experiments.harness import stopping

from robustjax.results.run_folder import locks

Config = TypeVar("Config")
Number = TypeVar("Number", int, float)

_EXPERIMENTS = pathlib.Path(__file__).resolve().parents[2]
_DEFINE: dict[Any, Callable[..., Any]] = {
    str: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
    tuple[str, ...]: flags.DEFINE_list,
}


def setting(default: Any, help_text: str) -> Any:
    """A field of a configuration: its default and the text of `--help`."""
    return dataclasses.field(default=default, metadata={"help": help_text})


def numbers(name: str, texts: Sequence[str]) -> tuple[float, ...]:
    """Returns the numbers of a list flag.

    Raises:
        ValueError: if an item is not a number.
    """
    return tuple(_number(float, name, text) for text in texts)


def integers(name: str, texts: Sequence[str]) -> tuple[int, ...]:
    """Returns the integers of a list flag.

    Raises:
        ValueError: if an item is not a number.
    """
    return tuple(_number(int, name, text) for text in texts)


def launch(
    config_class: type[Config],
    run: Callable[[Config], Any],
    *,
    flag_values: flags.FlagValues = flags.FLAGS,
) -> None:
    """Parses the flags, calls run(config) and exits.

    The exit code is 0, or 2 after one line on stderr for what the user can mend: a bad
    flag, argument, file or folder; or 75 after SIGTERM. `--verbosity=1` shows the
    traceback as well. The run folder is locked, from before anything is computed.
    """
    define_flags(config_class, flag_values=flag_values)
    jax.config.config_with_absl()

    def main(arguments: Sequence[str]) -> None:
        if len(arguments) > 1:
            _fail(ValueError(f"Unexpected argument {arguments[1]!r}; use --flags."))
        _log_briefly()
        try:
            config = config_from_flags(config_class, flag_values=flag_values)
            with stopping.this_script.on_sigterm(), _locked(config):
                run(config)
        except stopping.Stopped as stopped:
            stopping.leave(stopped)
        except (ValueError, OSError, ImportError) as error:
            logging.debug("Traceback:", exc_info=True)
            _fail(error)
        except KeyboardInterrupt:
            print("\nInterrupted; run it again to continue.", file=sys.stderr)
            sys.exit(130)

    def parse(arguments: Sequence[str]) -> list[str]:
        try:
            return flag_values(arguments)
        except (flags.Error, OSError, UnicodeDecodeError) as error:
            _fail(error)

    app.run(main, flags_parser=parse)


def define_flags(
    config_class: type, *, flag_values: flags.FlagValues = flags.FLAGS
) -> None:
    """Defines one flag for each field of a configuration."""
    types = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        define = _DEFINE[types[field.name]]
        default: Any = field.default
        default = list(default) if isinstance(default, tuple) else default
        define(
            field.name,
            default,
            field.metadata["help"],
            flag_values=flag_values,
            module_name=sys.argv[0],  # so that --help lists them
        )


def config_from_flags(
    config_class: type[Config], *, flag_values: flags.FlagValues = flags.FLAGS
) -> Config:
    """The configuration that the parsed flags describe."""
    types = typing.get_type_hints(config_class)
    values: dict[str, Any] = {name: flag_values[name].value for name in types}
    lists = {name for name, kind in types.items() if kind == tuple[str, ...]}
    return config_class(
        **{name: tuple(v) if name in lists else v for name, v in values.items()}
    )


def flags_of(config: Any) -> dict[str, str]:
    """Every setting as the text that its flag would be given."""
    return {
        field.name: _text(getattr(config, field.name))
        for field in dataclasses.fields(config)
    }


def flags_text(config: Any) -> str:
    """The settings as `--name=value` lines, which `--flagfile` reads back."""
    return "".join(f"--{name}={text}\n" for name, text in flags_of(config).items())


def _locked(config: Any) -> contextlib.AbstractContextManager[None]:
    """The lock of the run folder; of processes that share one each takes its own."""
    if not config.workdir or getattr(config, "distributed", False):
        return contextlib.nullcontext()
    return locks.run_folder(config.workdir)


def _number(kind: Callable[[str], Number], name: str, text: str) -> Number:
    try:
        return kind(text)
    except ValueError:
        what = "integers" if kind is int else "numbers"
        raise ValueError(f"Expected --{name} as {what}, got {text!r}.") from None


def _log_briefly() -> None:
    """One short line an event; of libraries only warnings, unless --verbosity=1."""
    handler = logging.get_absl_handler()
    handler.setFormatter(std_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    if logging.get_verbosity() < logging.DEBUG:
        handler.addFilter(
            lambda record: (
                record.levelno >= std_logging.WARNING
                or _EXPERIMENTS in pathlib.Path(record.pathname).parents
            )
        )


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _fail(error: BaseException) -> typing.NoReturn:
    text = " ".join(str(error).split()) or type(error).__name__
    print(f"{sys.argv[0]}: error: {text}", file=sys.stderr)
    sys.exit(2)
