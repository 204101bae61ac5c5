"""The processes and devices of a run, its progress bar and its profile."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator

import jax
from absl import logging
from jax.extend.backend import clear_backends
from robustjax_experiments.configs.certification import CertifyConfig
from robustjax_experiments.harness import stopping
from robustjax_experiments.harness.peers import Peers

from robustjax.results.certification import batch
from robustjax.results.run_folder import locks

_LOG_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Process:
    """This process among those that share a run."""

    index: int
    count: int
    peers: Peers | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process trains, merges and prints."""
        return self.index == 0

    def wait_for_all(self, name: str) -> None:
        """Returns when all processes have come to the point of this name.

        Raises:
            stopping.Stopped: if another one failed or was killed.
        """
        if self.peers is not None:
            self.peers.wait(name)

    def mesh(self, num_devices: int) -> jax.sharding.Mesh | None:
        """A mesh of devices of this process, None for a single one; 0 asks for all.

        Raises:
            ValueError: if the process has fewer devices.
        """
        return batch.sample_mesh(num_devices)


@contextlib.contextmanager
def joined(config: CertifyConfig) -> Iterator[Process]:
    """Joins the other processes if `config.distributed`, and leaves them at the end.

    What is not set (coordinator, num_processes, process_id) is found out from the
    cluster: TPU pods, SLURM, Open MPI.

    Raises:
        ConnectionError: if the processes do not find each other.
        ValueError: if the run folder is in use by another start.
        stopping.Stopped: if another process failed or was killed.
    """
    if not config.distributed:
        yield Process(0, 1)
        return
    logging.info("joining the other processes")
    index, count = _agree(config)
    with locks.run_folder(config.workdir, process_index=index):
        peers = Peers(config.workdir, index, count, stop=stopping.this_script)
        try:
            yield Process(index, count, peers)
        except BaseException as error:
            peers.close(error)
            raise
        else:
            peers.close()
        finally:
            stopping.this_script.forget()


def _agree(config: CertifyConfig) -> tuple[int, int]:
    """Index of this process and number of processes, from `jax.distributed`.

    The processes then leave it: each computes on its own devices, where it needs no
    collective, and a backend that knew of the others would wait for them in vain when
    one is killed. They meet again in the run folder.
    """
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM
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
    platforms = jax.config.jax_platforms  # type: ignore[attr-defined]
    jax.config.update("jax_platforms", "cpu")  # no accelerator is started for this
    found = jax.process_index(), jax.process_count()
    clear_backends()
    jax.config.update("jax_platforms", platforms)
    jax.distributed.shutdown()
    return found


@contextlib.contextmanager
def progress_bar(
    total: int, *, initial: int, unit: str, title: str | None = None
) -> Iterator[Callable[[int], None]]:
    """Yields a function that adds to the bar; off a terminal, logs a line a minute.

    To be called after what was done is written: it raises `stopping.Stopped` if the
    script has been asked to end.
    """
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
            stopping.this_script.check()

        yield advance


@contextlib.contextmanager
def profile(folder: str) -> Iterator[None]:
    """Writes a profile of what happens inside to a folder, if one is given."""
    if not folder:
        yield
        return
    with jax.profiler.trace(folder):
        yield
