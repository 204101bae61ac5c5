"""The cases of `make bench-device`: exactness first, then speed, dearest last."""

import collections
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import bound_propagation, certification, contrastive, moments, timing
from benchmarks import torch_loop as torch_reference
from robustjax import attacks, models, smoothing, synbench
from robustjax.smoothing.sampling import vote_counts

_KEY = jax.random.key(0)
_SIGMA = 0.25


class Case(NamedTuple):
    """A measurement, with the seconds that it is expected to take at most."""

    name: str
    seconds: float
    measure: Callable[[], dict[str, Any]]


class Sizes(NamedTuple):
    """What differs between an accelerator and a trial on a CPU."""

    rounds: int
    samples: int  # votes that are compared with those of the CPU
    network: tuple[str, tuple[int, ...], dict[str, Any]]  # of exactness and attacks
    throughput: tuple[tuple[str, tuple[int, ...], dict[str, Any], tuple[int, ...]], ...]
    estimation: tuple[tuple[int, int], ...]  # images, samples of `certify`
    boxes: int
    embeddings: tuple[int, ...]
    attacked: int  # images
    encoder: models.ViTConfig
    inputs: int  # of training and of test


_FULL = Sizes(
    rounds=5,
    samples=4096,
    network=("resnet20", (32, 32, 3), {}),
    throughput=(
        ("resnet20", (32, 32, 3), {}, (4096, 1024, 16_384, 512, 8192)),
        ("resnet110", (32, 32, 3), {}, (4096, 1024)),
        ("resnet50", (224, 224, 3), {}, (256, 1024)),
    ),
    estimation=((1, 100_000), (14, 10_000), (132, 1000)),
    boxes=100,
    embeddings=(4096, 16_384, 65_536),
    attacked=256,
    encoder=models.vit_config("vit_b16"),
    inputs=2048,
)
_SMALL = Sizes(
    rounds=1,
    samples=256,
    network=("mlp", (4, 4, 1), {"features": (16,)}),
    throughput=(("mlp", (4, 4, 1), {"features": (16,)}, (128,)),),
    estimation=((1, 256),),
    boxes=2,
    embeddings=(512,),
    attacked=4,
    encoder=models.ViTConfig(8, heads=2, mlp=16, depth=1, patch=4, resolution=8),
    inputs=64,
)


def cases(*, small: bool = False) -> list[Case]:
    """All cases in order of importance.

    Args:
        small: a fraction of the sizes, so that a CPU finishes in seconds.
    """
    sizes = _SMALL if small else _FULL
    first, *further = _throughput_cases(sizes)
    return [
        Case("noise against the CPU", 20, functools.partial(_noise, sizes)),
        Case("matmul error", 15, _matmul_error),
        *(
            Case(f"votes, precision {name}", 40, functools.partial(_votes, sizes, name))
            for name in ("default", "high", "highest")
        ),
        Case("moments against the CPU", 60, functools.partial(_moment_error, sizes)),
        first,
        *(
            Case(
                f"certify, order {order}, {images} x {samples}",
                60,
                functools.partial(_device_share, sizes, order, images, samples),
            )
            for order in (0, 1)
            for images, samples in sizes.estimation
        ),
        Case("retraces", 40, functools.partial(_retraces, sizes)),
        *further,
        *(
            Case(f"bounds, {name}", 60, functools.partial(_bounds, sizes, fn))
            for name, fn in (
                ("mlp", bound_propagation.mlp),
                ("cnn", bound_propagation.cnn),
            )
        ),
        Case("attack", 60, functools.partial(_attack, sizes)),
        *(
            Case(
                f"contrastive, {kind}, {rows} embeddings",
                40,
                functools.partial(_contrastive, sizes, kind, rows),
            )
            for rows in sizes.embeddings
            for kind in ("g0", "g2")
        ),
        Case("SynBench, one scale", 120, functools.partial(_synbench, sizes)),
    ]


def _throughput_cases(sizes: Sizes) -> list[Case]:
    """Certified samples a second against the bare forward pass; chunk sizes last."""
    dtypes = ("float32", "bfloat16")
    most = max(len(chunks) for *_, chunks in sizes.throughput)
    return [
        Case(
            f"{model}, {dtype}, chunk {chunks[i]}",
            90 if model == "resnet110" else 50,
            functools.partial(
                _throughput,
                certification.Case(model, shape, dtype, chunks[i], 4, options),
                sizes.rounds,
            ),
        )
        for i in range(most)
        for model, shape, options, chunks in sizes.throughput
        if i < len(chunks)
        for dtype in dtypes
    ]


def _classifier(sizes: Sizes, *, device: jax.Device, precision: Any = None) -> Any:
    """The network of exactness with equal weights on every device."""
    model, shape, options = sizes.network
    module = models.create(model, num_classes=10, **options)
    if precision is not None:
        module = module.clone(precision=precision)
    with jax.default_device(jax.devices("cpu")[0]):
        variables = jax.jit(module.init)(jax.random.key(1), jnp.zeros((1, *shape)))
    return models.classifier(module, jax.device_put(variables, device))


def _images(sizes: Sizes, num: int) -> np.ndarray:
    _, shape, _ = sizes.network
    return np.random.default_rng(0).uniform(size=(num, *shape)).astype(np.float32)


def _noise(sizes: Sizes) -> dict[str, Any]:
    """Whether a block of noise has the same bits as on the CPU."""
    _, shape, _ = sizes.network
    blocks = []
    for device in (jax.devices()[0], jax.devices("cpu")[0]):
        with jax.default_device(device):
            key = jax.random.key(0)
            blocks.append(np.asarray(vote_counts.noise_block(key, 7, 3, shape=shape)))
    own, host = (block.view(np.int32).astype(np.int64) for block in blocks)
    return {
        "largest difference in ulp": int(np.abs(own - host).max()),
        "share of equal numbers": float(np.mean(own == host)),
        "largest number": float(np.abs(blocks[0]).max()),
    }


def _matmul_error() -> dict[str, Any]:
    """Relative error of a product: 1e-7 is float32, 1e-4 is TF32, 1e-3 is bfloat16."""
    weight = np.random.default_rng(1).normal(size=(256, 256)).astype(np.float32)
    exact = weight.astype(np.float64) @ weight
    row = {}
    for name in ("default", "high", "highest"):
        product = jnp.matmul(weight, weight, precision=name)
        error = np.abs(np.asarray(product, np.float64) - exact).max()
        row[f"relative error, {name}"] = float(error / np.abs(exact).max())
    return row


def _votes(sizes: Sizes, precision: str) -> dict[str, Any]:
    """How many votes move, against the CPU and from one call to the next."""

    def counts(device: jax.Device) -> np.ndarray:
        with jax.default_device(device):
            return np.asarray(
                smoothing.class_counts(
                    jax.random.key(0),
                    _classifier(sizes, device=device, precision=precision),
                    _images(sizes, 2),
                    sigma=_SIGMA,
                    num_samples=sizes.samples,
                    num_classes=10,
                )
            )

    host = counts(jax.devices("cpu")[0])
    own, again = (counts(jax.devices()[0]) for _ in range(2))
    return {
        "votes": 2 * sizes.samples,
        "moved against the CPU": int(np.abs(own - host).sum() // 2),
        "moved at the second call": int(np.abs(own - again).sum() // 2),
    }


def _moment_error(sizes: Sizes) -> dict[str, Any]:
    """The sums of first-order moments against those of the CPU."""
    sums = []
    for device in (jax.devices()[0], jax.devices("cpu")[0]):
        with jax.default_device(device):
            found = smoothing.class_moments(
                jax.random.key(0),
                _classifier(sizes, device=device, precision="highest"),
                _images(sizes, 2),
                sigma=_SIGMA,
                num_samples=sizes.samples,
                num_classes=10,
                selected=np.zeros(2, int),
                baseline=np.full(2, 0.5),
            )
            sums.append(np.asarray(found.sum_even, np.float64))
    return {
        "largest difference": float(np.abs(sums[0] - sums[1]).max()),
        "largest sum": float(np.abs(sums[1]).max()),
    }


def _throughput(case: certification.Case, rounds: int) -> dict[str, Any]:
    """Samples a second of counts and moments, of the forward pass, of torch."""
    row = certification.measure(case, rounds=rounds)
    result = {
        "counts / s": row["samples_per_second"],
        "forward / s": row["forward_samples_per_second"],
        "time / forward": row["ratio_to_forward"],
        "time / (forward + noise)": row["ratio_to_forward_and_noise"],
        "compile s": row["compile_seconds"],
    }
    (first_order,) = moments.measure(rounds, cases=[case])
    result["moments / s"] = first_order["moments_samples_per_second"]
    try:
        speed = torch_reference.samples_per_second(case, rounds=rounds)
    except (ImportError, KeyError):
        return result | {"torch loop / s": None}
    return result | {"torch loop / s": speed}


def _device_share(
    sizes: Sizes, order: int, num_images: int, num_samples: int
) -> dict[str, Any]:
    """Share of the wall time of `certify` in which the device samples."""
    apply_fn = _classifier(sizes, device=jax.devices()[0])
    x = _images(sizes, num_images)
    options: dict[str, Any] = {"sigma": _SIGMA, "num_classes": 10}
    certify = functools.partial(
        smoothing.certify,
        _KEY,
        apply_fn,
        x,
        num_estimation=num_samples,
        order=order,
        **options,
    )
    sample: Callable[[], Any] = functools.partial(
        smoothing.class_counts, _KEY, apply_fn, x, num_samples=num_samples, **options
    )
    if order:
        sample = functools.partial(
            smoothing.class_moments,
            _KEY,
            apply_fn,
            x,
            num_samples=num_samples,
            selected=np.zeros(num_images, int),
            baseline=np.full(num_images, 0.5),
            **options,
        )
    seconds = timing.interleaved(
        {
            "certify": lambda: certify().radius,
            "sample": lambda: jax.tree.leaves(sample()),
        },
        rounds=sizes.rounds,
    )
    return {
        "seconds": float(np.median(seconds["certify"])),
        "samples / s": num_images * num_samples / float(np.median(seconds["certify"])),
        "share sampling": timing.median_ratio(seconds["sample"], seconds["certify"]),
    }


_COMPILED = "backend_compile_duration"
_compilations: collections.Counter[str] = collections.Counter()


@functools.cache
def _watch_compilations() -> None:
    """Counts compilations in `_compilations`, from the first call on."""
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: _compilations.update([event.rsplit("/", 1)[-1]])
    )


def _retraces(sizes: Sizes) -> dict[str, Any]:
    """Programs compiled by further images, noise levels and numbers of samples."""
    _watch_compilations()
    apply_fn = _classifier(sizes, device=jax.devices()[0])
    totals = [_compilations[_COMPILED]]
    for index, sigma in enumerate((0.25, 0.5, 1.0)):
        smoothing.certify(
            _KEY,
            apply_fn,
            _images(sizes, 1),
            sigma=sigma,
            num_classes=10,
            num_estimation=sizes.samples + 128 * index,
            example_ids=np.array([index]),
        )
        totals.append(_compilations[_COMPILED])
    return {"programs": totals[1] - totals[0], "compiled again": totals[-1] - totals[1]}


def _bounds(sizes: Sizes, network: Callable[[], Any]) -> dict[str, Any]:
    """Milliseconds of a batch of boxes by method."""
    case = bound_propagation.Case("", network(), sizes.boxes, 0.02, None)
    rows = bound_propagation.measure(sizes.rounds, of=(case,))
    return {f"{row['way']} ms": 1e3 * row["seconds"] for row in rows}


def _attack(sizes: Sizes) -> dict[str, Any]:
    """APGD against as many forward and backward passes."""
    apply_fn = _classifier(sizes, device=jax.devices()[0])
    x = _images(sizes, sizes.attacked)
    labels = np.asarray(apply_fn(x)).argmax(axis=-1)
    num_steps = 20

    @jax.jit
    def passes(apply_fn: Any, x: jax.Array) -> jax.Array:
        def loss(x: jax.Array) -> jax.Array:
            return jax.nn.logsumexp(apply_fn(x), axis=-1).sum()

        return jax.lax.fori_loop(
            0, num_steps, lambda _, x: x + 1e-6 * jax.grad(loss)(x), jnp.asarray(x)
        )

    seconds = timing.interleaved(
        {
            "apgd": lambda: (
                attacks.apgd(
                    _KEY, apply_fn, x, labels=labels, epsilon=0.03, num_steps=num_steps
                ).x
            ),
            "passes": lambda: passes(apply_fn, x),
        },
        rounds=sizes.rounds,
    )
    return {
        "images / s": len(x) / float(np.median(seconds["apgd"])),
        "time / passes": timing.median_ratio(seconds["apgd"], seconds["passes"]),
    }


def _contrastive(sizes: Sizes, kind: str, num_rows: int) -> dict[str, Any]:
    """Memory and milliseconds of value and gradient, in blocks and at once."""
    row = contrastive.row(kind, num_rows, sizes.rounds)
    return {name: value for name, value in row.items() if name.endswith(("MiB", "ms"))}


def _synbench(sizes: Sizes) -> dict[str, Any]:
    """Seconds of one scale through the encoder, and its inputs a second."""
    config, num = sizes.encoder, sizes.inputs
    shape = (config.resolution, config.resolution, 3)
    module = models.VisionTransformer(config)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, *shape)))
    feature_fn = models.vit_features(config, variables["params"])
    task = synbench.Task(shape, scales=(0.3,), num_train=num, num_test=num)
    call = functools.partial(synbench.measure_scale, _KEY, feature_fn, task, index=0)
    first = timing.once(lambda: call().sums)
    seconds = timing.once(lambda: call().sums)
    return {"seconds": seconds, "inputs / s": 2 * num / seconds, "first call s": first}
