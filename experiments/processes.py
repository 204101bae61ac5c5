"""The processes and devices of a run, its progress bar and its profile."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
from absl import logging

_LOG_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Process:
    """This process among those that share a run."""

    index: int
    count: int

    @property
    def is_first(self) -> bool:
        """Whether this process trains, merges and prints."""
        return self.index == 0

    def wait_for_all(self, name: str) -> None:
        """Returns when all processes have come to the point of this name."""
        if self.count > 1:
            from jax.experimental import multihost_utils

            logging.info("waiting for the other processes: %s", name)
            multihost_utils.sync_global_devices(name)

    def mesh(self, num_devices: int) -> jax.sharding.Mesh | None:
        """A mesh of devices of this process, None for a single one; 0 asks for all.

        Raises:
            ValueError: if the process has fewer devices.
        """
        local = jax.local_devices()
        if num_devices > len(local):
            raise ValueError(f"Expected --devices <= {len(local)}, got {num_devices}.")
        devices = local[: num_devices or None]
        if len(devices) == 1:
            return None
        auto = (jax.sharding.AxisType.Auto,)
        return jax.make_mesh(
            (len(devices),), ("samples",), devices=devices, axis_types=auto
        )


@contextlib.contextmanager
def joined(config: Any) -> Iterator[Process]:
    """Joins the other processes if `config.distributed`, and leaves them at the end.

    What is not set (coordinator, num_processes, process_id) is found out from the
    cluster: TPU pods, SLURM, Open MPI.
    """
    if not config.distributed:
        yield Process(0, 1)
        return
    logging.info("joining the other processes")
    try:
        jax.distributed.initialize(
            coordinator_address=config.coordinator or None,
            num_processes=config.num_processes or None,
            process_id=config.process_id if config.process_id >= 0 else None,
        )
    except (RuntimeError, ValueError) as error:
        raise ConnectionError(
            "Cannot join the processes; check --coordinator, --num_processes and "
            f"--process_id: {error}"
        ) from error
    yield Process(jax.process_index(), jax.process_count())
    jax.distributed.shutdown()


@contextlib.contextmanager
def progress_bar(
    total: int, *, initial: int, unit: str, title: str | None = None
) -> Iterator[Callable[[int], None]]:
    """Yields a function that adds to the bar; off a terminal, logs a line a minute."""
    import tqdm

    with tqdm.tqdm(
        total=total,
        initial=initial,
        unit=unit,
        desc=title,
        disable=None,  # shown on a terminal only
        file=sys.stderr,
    ) as bar:
        done = initial

        def advance(number: int) -> None:
            nonlocal done
            done += number
            bar.update(number)
            if bar.disable:
                logging.log_every_n_seconds(
                    logging.INFO, "%d of %d %ss", _LOG_SECONDS, done, total, unit
                )

        yield advance


@contextlib.contextmanager
def profile(folder: str) -> Iterator[None]:
    """Writes a profile of what happens inside to a folder, if one is given."""
    if not folder:
        yield
        return
    with jax.profiler.trace(folder):
        yield
