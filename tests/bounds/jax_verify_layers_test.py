"""SP-layers before networks, by every method of jax_verify: sound, and as tight.

Images of 4 x 4 pixels with a grey, a black and a white one, before an MLP, a CNN (NHWC)
or both side by side. jax_verify is the one that is found: release 1.0, or the head,
see `jax_verify_head_test.py`.
"""

import functools
import importlib.util
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax import lax

from robustjax import bounds
from robustjax.semantic import sp_layers

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jax_verify") is None,
    reason='jax_verify is not installed: pip install "robustjax[verify]"',
)

_METHODS = ("ibp", "crown-ibp", "crown")
_LAYERS = {
    "hue": (sp_layers.Hue, {}, 1, (-0.1, 0.15)),
    "saturation": (sp_layers.Saturation, {}, 1, (-0.3, 0.2)),
    "less saturation": (sp_layers.Saturation, {"side": "left"}, 1, (-0.4, 0.0)),
    "lightness": (sp_layers.Lightness, {}, 1, (-0.1, 0.2)),
    "more lightness": (sp_layers.Lightness, {"side": "right"}, 1, (0.0, 0.3)),
    "brightness and contrast": (sp_layers.BrightnessContrast, {}, 2, (-0.2, 0.1)),
    "contrast": (sp_layers.BrightnessContrast, {"only": "contrast"}, 1, (-0.3, 0.3)),
}
_SHORT = (  # that run by default
    ("hue", "mlp"),
    ("saturation", "cnn"),
    ("lightness", "cnn"),
    ("brightness and contrast", "mlp"),
)
# Forward CROWN of 1.0 against our backward CROWN, of two hidden layers: sums of widths
# that were measured, 2.50, 1.69 and less.
_FORWARD = 2.6


def _image():
    image = np.random.default_rng(3).uniform(size=(4, 4, 3))
    image[0, 0], image[0, 1], image[0, 2] = 0.5, 0.0, 1.0
    return image


def _weights(*shape, seed):
    scale = np.prod(shape[:-1]) ** -0.5
    weights = scale * np.random.default_rng(seed).normal(size=shape)
    return np.asarray(weights, jnp.result_type(float))


def _mlp(x, sizes):
    x = x.reshape(len(x), -1)
    for layer, size in enumerate(sizes):
        x = jax.nn.relu(x @ _weights(x.shape[1], size, seed=layer) - 0.1)
    return x @ _weights(x.shape[1], 3, seed=2)


def _cnn(x, sizes):
    for layer, channels in enumerate(sizes):
        kernel = _weights(3, 3, x.shape[-1], channels, seed=layer + 5)
        numbers = ("NHWC", "HWIO", "NHWC")
        x = lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=numbers
        )
        x = jax.nn.relu(x + 0.1)
    x = x.reshape(len(x), -1)
    return x @ _weights(x.shape[1], 3, seed=7)


def _both(x):
    return jnp.concatenate([_mlp(x, (12, 8)), _cnn(x, (4, 5))], axis=1)


_NETWORKS = {
    "mlp": lambda x: _mlp(x, (12,)),
    "cnn": lambda x: _cnn(x, (4,)),
    "both": _both,
}


def _samples(low, high, count=10_000):
    share = np.random.default_rng(1).uniform(size=(count, *low.shape))
    share[: count // 10] = np.round(share[: count // 10])
    return (low + share * (high - low)).astype(low.dtype)


@functools.cache
def _found(name, network):
    """Bounds by both engines, each method, and the values at samples."""
    layer, options, size, limits = _LAYERS[name]
    fn = sp_layers.compose(layer(_image(), **options), _NETWORKS[network])
    box = [np.full(size, limit, jnp.result_type(float)) for limit in limits]

    def bound(low, high, engine, method):
        return bounds.linear_bounds(fn, low, high, method=method, engine=engine)

    @jax.jit
    def evaluate(low, high, x):
        found = [bound(low, high, "jax_verify", method) for method in _METHODS]
        methods = _METHODS if network == "both" else _METHODS[:2]
        own = [bound(low, high, "robustjax", method) for method in methods]
        return found, own, jax.vmap(fn)(x)

    return jax.device_get(evaluate(*box, _samples(*box)))


def _width(interval):
    return np.sum(interval[1] - interval[0])


class LayersTest(parameterized.TestCase):
    def _check_soundness(self, found, values):
        for low, high in found:
            self.assertTrue(np.all(low - 1e-5 <= values.min(axis=0)))
            self.assertTrue(np.all(values.max(axis=0) <= high + 1e-5))
            self.assertTrue(np.all(np.isfinite(low) & np.isfinite(high)))
        for loose, tight in itertools.pairwise(found):
            self.assertTrue(np.all(loose[0] <= tight[0]))
            self.assertTrue(np.all(tight[1] <= loose[1]))

    def _check_tightness(self, found, own):
        """Equal intervals; a line of ReLU may be another where two are as good."""
        for ends, ours in zip(found[0], own[0], strict=True):
            np.testing.assert_allclose(ends, ours, atol=1e-5, rtol=1e-5)
        self.assertLess(_width(found[1]), 1.001 * _width(own[1]))

    @parameterized.parameters(*_SHORT)
    @pytest.mark.newest
    def test_a_layer_before_one_hidden_layer(self, name, network):
        found, own, values = _found(name, network)
        self._check_soundness(found, values)
        self._check_tightness(found, own)

    @parameterized.parameters(*_LAYERS)
    @pytest.mark.slow
    def test_a_layer_before_two_hidden_layers(self, name):
        found, own, values = _found(name, "both")
        self._check_soundness(found, values)
        self._check_tightness(found, own)
        self.assertLess(_width(found[2]), _FORWARD * _width(own[2]))


if __name__ == "__main__":
    absltest.main()
