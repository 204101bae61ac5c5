"""Small files under the names that the commands of README.md and flag files use."""

import pathlib
import struct

import jax
import numpy as np
from onnx import helper

from robustjax import models
from tests.models import onnx_networks

_FACTORY = '''
def factory():
    """Ten of the pixels are the logits."""
    return lambda x: x.reshape(len(x), -1)[:, :10]
'''
_LOG = """idx\tlabel\tpredict\tradius\tcorrect\ttime
0\t0\t0\t0.5\t1\t1.0
1\t1\t0\t0.2\t0\t1.0
2\t2\t-1\t0.0\t0\t1.0
"""


def provide(folder: pathlib.Path) -> None:
    """Writes the files that stand for the user's own, but no data set."""
    _network(folder / "net.onnx", (28, 28, 1))
    _network(folder / "mnist-net_256x2.onnx", (28, 28, 1))
    _network(folder / "cifar10_small.onnx", (3, 32, 32))
    _property(folder / "property.vnnlib", num_inputs=28 * 28)
    _vision_transformer(folder / "B_16.npz")
    for name, text in (("my_package/my_module.py", _FACTORY), ("logs/a.tsv", _LOG)):
        (folder / name).parent.mkdir()
        (folder / name).write_text(text)
    module = models.create("mlp", num_classes=10, features=())
    shape = (32, 32, 3)
    variables = jax.jit(module.init)(jax.random.key(0), np.zeros((1, *shape)))
    path = folder / "runs" / "resnet20" / "checkpoint"
    facts = {"sigma": 0.25}
    models.save(path, module, variables, input_shape=shape, training=facts)


def provide_data(folder: pathlib.Path) -> None:
    """Writes tiny data sets in the formats of MNIST and CIFAR-10."""
    rng = np.random.default_rng(0)
    for split, size in (("train", 64), ("t10k", 24)):
        images = rng.integers(0, 256, (size, 28, 28), np.uint8)
        labels = np.arange(size, dtype=np.uint8) % 10
        place = folder / "mnist"
        place.mkdir(parents=True, exist_ok=True)
        for array, kind in ((images, "images-idx3"), (labels, "labels-idx1")):
            head = struct.pack(">HBB", 0, 8, array.ndim)
            sizes = struct.pack(f">{array.ndim}I", *array.shape)
            content = head + sizes + array.tobytes()
            (place / f"{split}-{kind}-ubyte").write_bytes(content)
    place = folder / "cifar-10-batches-bin"
    place.mkdir()
    for name, size in (("data_batch_1.bin", 64), ("test_batch.bin", 24)):
        records = rng.integers(0, 256, (size, 3073), np.uint8)
        records[:, 0] = np.arange(size) % 10
        (place / name).write_bytes(records.tobytes())


def _network(path: pathlib.Path, shape: tuple[int, ...]) -> None:
    """One hidden layer of four ReLUs, ten logits."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.normal(0, 0.05, (np.prod(shape), 4)).astype(np.float32),
        "b": np.zeros(4, np.float32),
        "v": rng.normal(0, 1, (4, 10)).astype(np.float32),
        "c": rng.normal(0, 1, 10).astype(np.float32),
    }
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "v", "c"], ["y"]),
    ]
    network = onnx_networks.network(nodes, (1, *shape), constants)
    path.write_bytes(network.SerializeToString())


def _property(path: pathlib.Path, *, num_inputs: int) -> None:
    """Unsafe is an output beyond what any input of a small box can give."""
    names = [f"X_{i}" for i in range(num_inputs)]
    lines = [f"(declare-const {name} Real)" for name in names]
    lines += [f"(declare-const Y_{i} Real)" for i in range(10)]
    lines += [f"(assert (>= {name} 0.5)) (assert (<= {name} 0.501))" for name in names]
    path.write_text("\n".join([*lines, "(assert (>= Y_0 1000))"]) + "\n")


def _vision_transformer(path: pathlib.Path) -> None:
    config = models.vit_config(
        "vit_ti8", resolution=16, width=8, mlp=8, depth=1, heads=2
    )
    module = models.VisionTransformer(config)
    example = np.zeros((1, 16, 16, 3), np.float32)
    variables = jax.jit(module.init)(jax.random.key(0), example)
    models.save_vit(path, config, variables["params"], layout="augreg")
