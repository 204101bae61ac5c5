"""What the tests of scripts share."""

import functools
import importlib.metadata
from unittest import mock

import pytest
from sklearn import datasets


@pytest.fixture(scope="session", autouse=True)
def _what_every_run_reads_is_read_once():
    """The digits, and versions of packages: much of the time of a small run."""
    with (
        _kept(datasets, "load_digits"),
        _kept(importlib.metadata, "version"),
    ):
        yield


def _kept(module, name):
    return mock.patch.object(module, name, functools.cache(getattr(module, name)))
