"""Peak memory of certification against the number of samples."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

from benchmarks import certification
from robustjax import smoothing

_STEADY = {
    "MALLOC_ARENA_MAX": "1",
    "XLA_FLAGS": "--xla_cpu_parallel_codegen_split_count=1",
}
_NUM_SAMPLES = (1_000, 10_000, 100_000)


def measure() -> list[dict[str, Any]]:
    """Maximum resident size of a process for each number of samples.

    The least of three processes that compile in one thread and allocate in one arena,
    because what the threads of the compiler take on top varies by a few percent. Each
    also gives the temporary memory of the compiled program with that number as a
    constant.
    """
    return [
        min((_in_process(num) for _ in range(3)), key=lambda size: size["resident_mib"])
        for num in _NUM_SAMPLES
    ]


def _in_process(num_samples: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.memory", str(num_samples)]
    environment = os.environ | _STEADY
    result = subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment
    )
    return json.loads(result.stdout.splitlines()[-1])


def _run(num_samples: int) -> dict[str, Any]:
    import jax

    case = certification.Case("cnn", (28, 28, 1), "float32", 256, 1, {})
    apply_fn = certification.classifier(case)
    x = jax.random.uniform(jax.random.key(0), (1, *case.shape))

    @jax.jit
    def count(x: jax.Array) -> jax.Array:
        return smoothing.class_counts(
            jax.random.key(1),
            apply_fn,
            x,
            sigma=0.25,
            num_samples=num_samples,
            num_classes=10,
            chunk_size=case.chunk_size,
        )

    compiled = count.lower(x).compile()
    counts = compiled(x)
    assert int(counts.sum()) == num_samples
    analysis: Any = compiled.memory_analysis()
    return {
        "num_samples": num_samples,
        "temporary_mib": analysis.temp_size_in_bytes / 2**20,
        "resident_mib": _peak_resident_mib(),
    }


def _peak_resident_mib() -> float:
    """Peak resident size of this process, from Linux's own accounting.

    getrusage would not do: its maximum is inherited from the parent process.
    """
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10


if __name__ == "__main__":
    print(json.dumps(_run(int(sys.argv[1]))))
