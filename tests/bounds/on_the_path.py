"""A folder as the first place that imports look at."""

import contextlib
import sys
from unittest import mock


@contextlib.contextmanager
def first_on_the_path(folder):
    def ours():
        return [n for n in sys.modules if n.partition(".")[0] == "jax_verify"]

    with (
        mock.patch.dict(sys.modules),
        mock.patch.object(sys, "path", [folder, *sys.path]),
    ):
        for name in ours():
            del sys.modules[name]
        yield
