"""VNN-COMP mnistfc: properties verified by bounds alone, and falsified by PGD."""

import os
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import attacks, bounds, data, models

_NETWORKS = ("mnist-net_256x2", "mnist-net_256x4")
_METHODS = ("crown-ibp", "crown", "alpha", "alpha-all")
_NUM_STEPS, _NUM_RESTARTS = 200, 10  # of PGD


class Counts(NamedTuple):
    """Which properties of a network hold, which do not."""

    verified: dict[str, np.ndarray]  # method -> [n]
    falsified: np.ndarray  # [n], a counterexample was found and checked in float64


def measure() -> list[dict[str, Any]]:
    """One row a network and method; none without the data."""
    if "ROBUSTJAX_DATA_DIR" not in os.environ:
        return []
    folder = pathlib.Path(os.environ["ROBUSTJAX_DATA_DIR"], "vnncomp2021", "mnistfc")
    rows = []
    for network in _NETWORKS:
        properties = sorted(folder.glob("prop_*.vnnlib.gz"))
        began = time.perf_counter()
        counts = decide(folder / f"{network}.onnx", properties)
        seconds = time.perf_counter() - began
        for method, verified in counts.verified.items():
            rows.append(
                {
                    "network": network,
                    "properties": len(properties),
                    "method": method,
                    "verified": int(verified.sum()),
                    "falsified": int(counts.falsified.sum()),
                    "both": int((verified & counts.falsified).sum()),
                    "seconds": seconds,
                }
            )
    return rows


def decide(
    network: pathlib.Path,
    properties: list[pathlib.Path],
    *,
    methods: tuple[str, ...] = _METHODS,
) -> Counts:
    """Which properties, "the label wins everywhere in a box", hold or do not."""
    model = models.load_onnx(network)
    fn = bounds.single(model.apply_fn)
    boxes = [_box_and_label(data.read_vnnlib(path)) for path in properties]
    lower, upper, labels = (np.stack(part) for part in zip(*boxes, strict=True))
    lower, upper = (v.reshape(len(labels), *model.input_shape) for v in (lower, upper))
    verified = {
        method: bounds.verify(
            fn, lower, upper, labels=labels, method=method, num_steps=50
        ).is_verified
        for method in methods
    }
    return Counts(verified, _falsified(model, lower, upper, labels))


def _box_and_label(of: data.Property) -> tuple[np.ndarray, np.ndarray, int]:
    """The box, and the class that is not to lose to any other one in it."""
    cases = of.cases
    rows = np.concatenate([case.rows for case in cases])
    label = int(np.argmax(rows.sum(axis=0)))
    rivals = np.sort(np.argmin(rows, axis=1))
    same = all(np.array_equal(cases[0].lower, case.lower) for case in cases)
    others = np.setdiff1d(np.arange(of.num_outputs), label)
    assert same, "one box for all cases"
    np.testing.assert_array_equal(rivals, others)
    assert all(not np.any(case.offsets) for case in cases)
    return cases[0].lower, cases[0].upper, label


def _falsified(
    model: models.OnnxModel, lower: np.ndarray, upper: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Where PGD over the box finds another class, in float64."""
    low, width = jnp.asarray(lower), jnp.asarray(upper - lower)

    @jax.jit
    def attack(key: jax.Array) -> jax.Array:
        def at(share: jax.Array) -> jax.Array:
            return model.apply_fn(low + width * share)

        return attacks.pgd(
            key,
            at,
            jnp.full(low.shape, 0.5),
            labels=labels,
            epsilon=0.5,
            num_steps=_NUM_STEPS,
            num_restarts=_NUM_RESTARTS,
        ).x

    share = np.asarray(attack(jax.random.key(0)), np.float64)
    x = np.clip(lower + (upper - lower) * share, lower, upper)
    with jax.enable_x64(True):
        logits = np.asarray(model(jnp.asarray(x)))
    return logits.argmax(axis=-1) != labels
