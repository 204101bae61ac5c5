"""How many programs a piece of code compiles."""

import contextlib

import jax

_EVENT = "backend_compile_duration"  # also of a program from the cache on disk
_seen = []


def _note(event, _, **__):
    if event.endswith(_EVENT):
        _seen.append(event)


jax.monitoring.register_event_duration_secs_listener(_note)


@contextlib.contextmanager
def counted():
    """Gives a list that has one entry a program compiled inside, at its end."""
    before, found = len(_seen), []
    yield found
    found += _seen[before:]
