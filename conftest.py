"""Settings of the whole suite, doctests included; must be set before jax starts.

Most of the time of the suite is XLA's, which compiles thousands of small programs that
run once. So it optimises less; with ROBUSTJAX_OPTIMIZE=1, as in most long tests,
they run the programs that users run. Compiled programs are kept in `.jax_cache`, one
folder for each set of XLA flags, for other workers, child processes and later runs.
"""

import ctypes
import gc
import hashlib
import importlib.metadata
import os
import pathlib
import resource
import sys

_ROOT = pathlib.Path(__file__).parent

_flags = ["--xla_force_host_platform_device_count=4"]
if os.environ.get("ROBUSTJAX_OPTIMIZE", "0") == "0":
    _flags.append("--xla_backend_optimization_level=0")
    _flags.append("--xla_llvm_disable_expensive_passes=true")
    _flags.append("--xla_cpu_parallel_codegen_split_count=1")
    if int(importlib.metadata.version("jaxlib").split(".")[1]) < 11:
        _flags.append("--xla_cpu_use_fusion_emitters=false")  # later ones lack it
_given = os.environ.get("XLA_FLAGS", "").split()  # a worker has those of its parent
os.environ["XLA_FLAGS"] = " ".join([*_given, *(f for f in _flags if f not in _given)])
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # workers would wait on each other

_setting = f"{importlib.metadata.version('jaxlib')} {os.environ['XLA_FLAGS']}"
_folder = _ROOT / ".jax_cache" / hashlib.sha256(_setting.encode()).hexdigest()[:12]
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_folder))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax  # noqa: E402
import pytest  # noqa: E402

# The variables are for child processes, and too late where jax is loaded already.
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_numpy_rank_promotion", "raise")

_cache_events = {"cache_hits": 0, "cache_misses": 0}


def _count(event, **_):
    name = event.rsplit("/", 1)[-1]
    if name in _cache_events:
        _cache_events[name] += 1


jax.monitoring.register_event_listener(_count)


# Tracing leaves many objects alive: looking at them 700 at a time costs 5 % of a run.
gc.set_threshold(20_000, 20, 20)

_KEPT = 200  # programs: a worker stays small; dropping them takes .4 s
_dropped = dict(_cache_events)
# The C library of Linux keeps freed memory unless told; others have no such function.
_give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)


def pytest_runtest_teardown(nextitem, item):
    """Behind a module, compiled programs are dropped once there are many of them."""
    programs = sum(_cache_events.values()) - sum(_dropped.values())
    if programs > _KEPT and (nextitem is None or nextitem.path != item.path):
        jax.clear_caches()
        gc.collect()
        if _give_back is not None:
            _give_back(0)
        _dropped.update(_cache_events)


def _usage() -> dict[str, float]:
    """CPU seconds, with child processes, and peak memory of this process."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, else KiB
    seconds = [usage.ru_utime + usage.ru_stime for usage in (own, children)]
    return {"seconds": sum(seconds), "mib": own.ru_maxrss / unit, **_cache_events}


def pytest_sessionfinish(session):
    """A worker of pytest-xdist hands what it used to the process that reports."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["usage"] = _usage()


class _Report:
    """Prints what each worker used: CPU seconds, peak memory, compilations."""

    def __init__(self):
        self.usage = {}

    @pytest.hookimpl(optionalhook=True)  # of pytest-xdist
    def pytest_testnodedown(self, node):
        self.usage[node.gateway.id] = getattr(node, "workeroutput", {}).get("usage")

    def pytest_terminal_summary(self, terminalreporter):
        for name, used in sorted((self.usage or {"this process": _usage()}).items()):
            if used is not None:
                terminalreporter.write_line(
                    f"{name}: {used['seconds']:.0f} CPU s, peak {used['mib']:.0f} MiB, "
                    f"{used['cache_misses']} programs compiled, "
                    f"{used['cache_hits']} taken from the cache"
                )


def pytest_configure(config):
    """The process that reports is the one that is not a worker."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Report())
