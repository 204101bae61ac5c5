"""Converts flags to a frozen configuration, and errors to exit codes.

Every field of a `RunConfig` becomes a flag of the same name, so that `flags.txt`
reloads with `--flagfile`. `run(config)` never looks at flags: tests and notebooks call
it directly.
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
from robustjax_experiments.configs.fields import RunConfig
from robustjax_experiments.harness import stopping

from robustjax.results.run_folder import locks

Config = TypeVar("Config", bound=RunConfig)

_EXPERIMENTS = pathlib.Path(__file__).resolve().parents[2]
_DEFINE: dict[Any, Callable[..., Any]] = {
    str: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
    tuple[str, ...]: flags.DEFINE_list,
}


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
    config_class: type[RunConfig], *, flag_values: flags.FlagValues = flags.FLAGS
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
    for name, kind in types.items():
        if kind == tuple[str, ...]:
            values[name] = tuple(values[name])
    return config_class(**values)


def _locked(config: RunConfig) -> contextlib.AbstractContextManager[None]:
    """The lock of the run folder; of processes that share one each takes its own."""
    if not config.workdir or getattr(config, "distributed", False):
        return contextlib.nullcontext()
    return locks.run_folder(config.workdir)


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


def _fail(error: BaseException) -> typing.NoReturn:
    text = " ".join(str(error).split()) or type(error).__name__
    print(f"{sys.argv[0]}: error: {text}", file=sys.stderr)
    sys.exit(2)
