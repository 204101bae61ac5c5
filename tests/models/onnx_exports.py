"""Networks that PyTorch exports, by both of its exporters, with what PyTorch computes.

    python tests/models/onnx_exports.py    # writes tests/models/onnx_exports.zip

It needs torch and onnxscript, which the tests of the frozen files do not. The weights
are random. Files lose what has no effect: documentation, metadata, inferred shapes.
"""

import io
import pathlib
import tempfile
import warnings
import zipfile

import numpy as np

ARCHIVE = pathlib.Path(__file__).with_name("onnx_exports.zip")
EXPORTERS = ("torchscript", "dynamo")
_OPSET = 17  # of the first exporter; the second one has a default of its own
_VECTOR, _TOKENS, _IMAGE = (8,), (4, 8), (3, 8, 8)
_DATE = (2024, 1, 1, 0, 0, 0)  # so that equal networks make equal archives


def modules():
    """Shapes of the inputs and networks, by name."""
    import torch

    torch.manual_seed(0)
    found = {}
    for make in (_activations, _functions, _convolutions, _images, _sequences):
        found |= {name: (shape, module.eval()) for name, shape, module in make()}
    for shape, module in found.values():
        module(torch.zeros(1, *shape, dtype=_dtype(module)))  # sets lazy widths
    return found


def _dtype(module):
    import torch

    return next(iter(module.parameters()), torch.zeros(())).dtype


def export(shape, module, *, exporter):
    """(serialized network, input, output) of one network by one exporter."""
    import onnx
    import torch

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, *shape, generator=generator, dtype=_dtype(module))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = pathlib.Path(folder, "net.onnx")
        if exporter == "dynamo":
            options = {"dynamo": True, "external_data": False, "verbose": False}
            torch.onnx.export(module, (x,), path, **options)
        else:
            torch.onnx.export(module, (x,), path, dynamo=False, opset_version=_OPSET)
        proto = onnx.load(path)
    with torch.no_grad():
        y = module(x).numpy()
    return _stripped(proto).SerializeToString(), x.numpy(), y


def _stripped(proto):
    """The network without what has no effect on its outputs."""
    for part in (proto, proto.graph, *proto.graph.node, *proto.graph.initializer):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    del proto.graph.value_info[:]
    return proto


def _module(function, *parts):
    """A network that computes a function of its parts and the input."""
    import torch

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = torch.nn.ModuleList(parts)

        def forward(self, x):
            return function(*self.parts, x)

    return Network()


def _activations():
    """Two dense layers with each activation."""
    from torch import nn

    chosen = {
        "relu": nn.ReLU(),
        "relu6": nn.ReLU6(),
        "leaky_relu": nn.LeakyReLU(0.1),
        "prelu": nn.PReLU(init=0.3),
        "elu": nn.ELU(0.7),
        "selu": nn.SELU(),
        "celu": nn.CELU(0.5),
        "gelu": nn.GELU(),
        "gelu_tanh": nn.GELU(approximate="tanh"),
        "silu": nn.SiLU(),
        "mish": nn.Mish(),
        "softplus": nn.Softplus(),
        "softsign": nn.Softsign(),
        "hard_sigmoid": nn.Hardsigmoid(),
        "hard_swish": nn.Hardswish(),
        "log_softmax": nn.LogSoftmax(1),
        "softmax": nn.Softmax(1),
        "layer_norm": nn.LayerNorm(12),
        "glu": nn.GLU(),
    }
    for name, activation in chosen.items():
        width = 6 if name == "glu" else 12
        layers = nn.Linear(8, 12), activation, nn.Linear(width, 3)
        yield name, _VECTOR, nn.Sequential(*layers)
    wide = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3))
    yield "float64", _VECTOR, wide.double()


def _functions():
    """Slices, sums and powers around a dense layer."""
    import torch
    from torch import nn

    def of(width, function):
        return _module(function, nn.Linear(width, 3))

    def halves(layer, x):
        a, b = x.chunk(2, dim=1)
        return layer(torch.cat([torch.relu(b), a * b], dim=1))

    def standardized(layer, x):
        mean, deviation = torch.tensor([0.4]), torch.tensor([0.3])
        return layer((x - mean) / deviation)

    def clipped(layer, x):
        return layer(torch.where(x > 0.2, x, 0.3 * x).clamp(-1.0, 1.5))

    def flipped(layer, x):
        return layer(torch.minimum(x, x.flip(1))) + x[:, ::3].abs()

    functions = {
        "slices": of(4, lambda f, x: f(x[:, 1:5] - torch.relu(x[:, 4:]))),
        "chunks": of(8, halves),
        "flip": of(8, flipped),
        "standardize": of(8, standardized),
        "where": of(8, clipped),
        "powers": of(8, lambda f, x: f(x**3 - x**2 / (1 + x.square()).sqrt())),
        "waves": of(8, lambda f, x: f(torch.cos(x) * torch.exp(-x.abs()))),
        "argmax": of(8, lambda f, x: f(x).argmax(1, keepdim=True).float() + x[:, :1]),
        "einsum": of(8, lambda f, x: torch.einsum("ni,oi->no", x, f.weight)),
        "norm": of(8, lambda f, x: f(x / x.norm(dim=1, keepdim=True))),
        "top": of(3, lambda f, x: f(x.topk(3, dim=1).values)),
    }
    for name, module in functions.items():
        yield name, _VECTOR, module


def _convolutions():
    """Networks of images with several kinds of convolutions."""
    from torch import nn

    def convolution(**options):
        return nn.Conv2d(3, 6, 3, **options)

    chosen = {
        "batch_norm": [convolution(padding=1), nn.BatchNorm2d(6), nn.ReLU()],
        "groups": [convolution(groups=3, dilation=2), nn.ReLU()],
        "transposed": [
            convolution(stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(6, 2, 3, 2, padding=1, output_padding=1),
        ],
        "reflect": [nn.ReflectionPad2d(2), convolution(), nn.ReLU()],
        "replicate": [nn.ReplicationPad2d((1, 0, 2, 1)), convolution(), nn.ReLU()],
        "shuffle": [nn.Conv2d(3, 8, 3), nn.PixelShuffle(2), nn.ReLU()],
    }
    for name, layers in chosen.items():
        yield name, _IMAGE, nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3))


def _images():
    """Pools, resizes and norms of images."""
    from torch import nn

    def features(channels=4):
        return nn.Sequential(nn.Conv2d(3, channels, 3), nn.ReLU())

    chosen = {
        "max_pool": nn.MaxPool2d(3, 2, padding=1, ceil_mode=True),
        "average_pool": nn.AvgPool2d(3, 2, ceil_mode=True, count_include_pad=False),
        "global_pool": nn.AdaptiveAvgPool2d(1),
        "group_norm": nn.GroupNorm(2, 4),
        "instance_norm": nn.InstanceNorm2d(4, affine=True),
        "nearest": nn.Upsample(scale_factor=2),
        "bilinear": nn.Upsample(size=(9, 5), mode="bilinear"),
    }
    for name, layer in chosen.items():
        layers = features(), layer, nn.Flatten(), nn.LazyLinear(3)
        yield name, _IMAGE, nn.Sequential(*layers)

    def viewed(network, layer, x):
        return layer(network(x).view(x.size(0), -1))

    yield "view", _IMAGE, _module(viewed, features(), nn.Linear(144, 3))
    averaged = _module(
        lambda f, g, x: g(f(x).mean((2, 3))), features(), nn.Linear(4, 3)
    )
    yield "mean", _IMAGE, averaged


def _sequences():
    """Recurrent layers and attention over a few tokens."""
    from torch import nn

    kinds = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
    for name, kind in kinds.items():
        layer = kind(8, 5, batch_first=True, bidirectional=name == "gru")
        width = 10 if name == "gru" else 5
        last = _module(lambda f, g, x: g(f(x)[0][:, -1]), layer, nn.Linear(width, 3))
        yield name, _TOKENS, last
    attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def attended(layer, dense, x):
        return dense(layer(x, x, x, need_weights=False)[0].flatten(1))

    yield "attention", _TOKENS, _module(attended, attention, nn.Linear(32, 3))
    options = {"batch_first": True, "dropout": 0.0, "activation": "gelu"}
    encoder = nn.TransformerEncoderLayer(8, 2, 16, **options)
    dense = nn.Sequential(encoder, nn.Flatten(), nn.Linear(32, 3))
    yield "encoder", _TOKENS, dense


def frozen():
    """(name, serialized network, input, output) of all networks in the archive."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        arrays = np.load(io.BytesIO(archive.read("arrays.npz")))
        for name in archive.namelist():
            stem, _, suffix = name.rpartition(".")
            if suffix == "onnx":
                content = archive.read(name)
                yield stem, content, arrays[f"{stem}.x"], arrays[f"{stem}.y"]


def _write():
    files, arrays = {}, {}
    for name, (shape, module) in modules().items():
        for exporter in EXPORTERS:
            stem = f"{name}_{exporter}"
            content, x, y = export(shape, module, exporter=exporter)
            files[f"{stem}.onnx"] = content
            arrays |= {f"{stem}.x": x, f"{stem}.y": y}
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    files["arrays.npz"] = packed.getvalue()
    with zipfile.ZipFile(ARCHIVE, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(
                zipfile.ZipInfo(name, _DATE), content, zipfile.ZIP_DEFLATED
            )
    print(f"wrote {len(files) - 1} networks, {ARCHIVE.stat().st_size} bytes")


if __name__ == "__main__":
    _write()
