"""Saved states of a training run, from which it resumes."""

import contextlib
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from robustjax_experiments.harness import stopping

from robustjax.models import checkpoints
from robustjax.results.run_folder import atomic

State = TypeVar("State")


def open_manager(folder: pathlib.Path, *, name: str = "train") -> Any:
    """Returns Orbax's manager of the last training state, a context manager.

    All scripts keep their training states through this function, so it is the place
    that makes folders absolute: Orbax raises ValueError at the first save below a
    relative one.

    Args:
        folder: folder of the states; created where it is missing. A relative path
            starts in the current folder.
        name: name of what is trained, which keeps its barriers apart from others.
    """
    import orbax.checkpoint as ocp

    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=1,
        create=False,
        enable_async_checkpointing=False,
        cleanup_tmp_directories=True,
        multiprocessing_options=checkpoints.this_process_alone(name),
    )
    return ocp.CheckpointManager(folder, options=options)


def save(manager: Any, epoch: int, state: Any) -> None:
    """Writes the state after `epoch` epochs and replaces the last one."""
    import orbax.checkpoint as ocp

    manager.save(epoch, args=ocp.args.StandardSave(jax.device_get(state)))


@contextlib.contextmanager
def kept(
    manager: Any, *, save_every: int, num_epochs: int
) -> Iterator[Callable[[int, Any], None]]:
    """Yields a function that takes the state after each epoch, to keep what is needed.

    Every `save_every`-th state and the last one are saved. If the training is stopped
    in between, the state after the last whole epoch is saved before the script ends.

    Args:
        manager: of `open_manager`.
        save_every: epochs between two saved states.
        num_epochs: of the whole training.
    """
    unsaved: list[tuple[int, Any]] = []

    def keep(epoch: int, state: Any) -> None:
        unsaved.clear()
        if epoch % save_every == 0 or epoch == num_epochs:
            save(manager, epoch, state)
        else:  # copies, since the next step reuses the memory
            unsaved.append((epoch, jax.tree.map(np.array, jax.device_get(state))))

    try:
        yield keep
    except (stopping.Stopped, KeyboardInterrupt):
        for epoch, state in unsaved:
            save(manager, epoch, state)
            logging.info("saved the training state after epoch %d", epoch)
        raise


def restore(manager: Any, initial_state: Callable[[], State]) -> tuple[int, State]:
    """The number of finished epochs and the state after them.

    Raises:
        ValueError: if the folder cannot be read, or has a state of another form.
    """
    import orbax.checkpoint as ocp

    epoch = manager.latest_step()
    if epoch is None:
        return 0, initial_state()
    logging.info("resuming after epoch %d", epoch)
    shapes = jax.eval_shape(initial_state)
    template = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), shapes)
    try:
        state = manager.restore(epoch, args=ocp.args.StandardRestore(template))
    except (ValueError, OSError, KeyError) as error:
        raise ValueError(
            f"Cannot read the training state in {manager.directory} "
            f"({type(error).__name__}); remove that folder to train from the start."
        ) from error
    return epoch, jax.tree.map(jnp.array, state)


def trim_metrics(
    path: pathlib.Path, columns: Sequence[str], *, num_epochs: int, num_lines: int = 1
) -> dict[str, Any]:
    """Keeps the lines of the epochs in the restored state; returns the last of them.

    Later epochs are trained again and a line cut short by a kill is among those.

    Args:
        path: metrics.tsv.
        columns: its names.
        num_epochs: how many are in the state.
        num_lines: of an epoch.

    Raises:
        ValueError: if lines are missing.
    """
    lines = path.read_text().splitlines()[1:] if path.exists() else []
    wanted = num_epochs * num_lines
    if len(lines) < wanted:
        raise ValueError(
            f"{path} has {len(lines)} lines of the {num_epochs} epochs that state/ has "
            f"seen; remove the folder state/ next to it to train from the start."
        )
    kept = ["\t".join(columns), *lines[:wanted]]
    atomic.write_text(path, "".join(f"{line}\n" for line in kept))
    last = map(json.loads, kept[-1].split("\t")) if wanted else ()
    return dict(zip(columns, last, strict=False))
