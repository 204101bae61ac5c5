"""The device functions lower for GPUs and TPUs, and none calls the host."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import (
    attacks,
    bounds,
    contrastive,
    hidden_cost,
    models,
    semantic,
    smoothing,
    special,
    synbench,
)
from robustjax.semantic import sp_layers

_SHAPE = (4, 4, 1)
_OF_IMAGE = {"sigma": 0.5, "num_samples": 256, "num_classes": 3}


def _linear(x):
    return jax.nn.relu(x.reshape(len(x), -1) @ jnp.ones((16, 3)))


def _counts(key, x):
    return smoothing.class_counts(key, _linear, x, **_OF_IMAGE)


def _moments(key, x):
    selected, baseline = jnp.zeros(len(x), int), jnp.full(len(x), 0.5)
    return smoothing.class_moments(
        key, _linear, x, selected=selected, baseline=baseline, **_OF_IMAGE
    )


def _smoothed_gradient(key, x):
    smooth = smoothing.smoothed(_linear, sigma=0.5, num_samples=256)
    return jax.grad(lambda x: smooth(key, x).sum())(x[0])


def _radii(key, x):
    p = jax.nn.sigmoid(x)
    return (
        smoothing.zeroth_order_radius(p, sigma=0.5),
        smoothing.first_order_radius(p, -0.1 * p, 0.1 * p, sigma=0.5),
    )


def _regions(key, x):
    return hidden_cost.smoothed_ball_radius(1.0, sigma=x, dim=16.0)


def _chi_square(key, x):
    return special.ncx2_cdf(x, 3.0, x), special.ncx2_ppf(jax.nn.sigmoid(x), 3.0, x)


def _bounds(method):
    def bound(key, x):
        def of_one(low, high):
            return bounds.linear_bounds(
                bounds.single(_linear), low, high, method=method
            )

        return jax.vmap(of_one)(x - 0.1, x + 0.1)

    return bound


def _fgsm(key, x):
    return attacks.fgsm(_linear, x, jnp.zeros(len(x), int), epsilon=0.1).x


def _attack(attack):
    def run(key, x):
        labels = jnp.zeros(len(x), int)
        return attack(key, _linear, x, labels=labels, epsilon=0.1).x

    return run


def _contrastive(block_size):
    def gradient(key, x):
        views = jax.random.normal(key, (2, 8, 16))
        return jax.grad(
            lambda v: contrastive.hard_negative(
                v, temperature=0.5, tau_plus=0.1, beta=1.0, block_size=block_size
            )[0]
        )(views)

    return gradient


def _synbench_inputs(key, x):
    task = synbench.Task((4, 4, 1), scales=(0.3,))
    return task.draw(key, jnp.float32(0.3), start=jnp.int32(0), num_samples=16)


def _rule(key, x):
    mean, spread = x.reshape(-1), jnp.eye(x.size)
    return synbench.robust_bayes(mean, spread, epsilon=0.1)


def _color(key, x):
    image = jnp.broadcast_to(x[0], (4, 4, 3))
    return [
        semantic.hue(image, 0.1),
        semantic.saturation(image, 0.1),
        semantic.lightness(image, 0.1),
        semantic.brightness_contrast(image, 0.1, 0.2),
    ]


def _space(key, x):
    return [
        semantic.rotate(x[0], 10.0),
        semantic.scale(x[0], 0.1),
        semantic.shear(x[0], 0.1),
        semantic.translate(x[0], (0.5, 0.5)),
    ]


def _sp_layer(key, x):
    layer = sp_layers.Hue(jnp.broadcast_to(x[0], (4, 4, 3)))
    delta = jnp.zeros(1)
    return layer.apply(layer.init(key, delta), delta)


def _model(name, shape, **options):
    def apply(key, x):
        module = models.create(name, num_classes=3, **options)
        example = jnp.zeros((2, *shape))
        return module.apply(module.init(key, example), example)

    return apply


_DEVICE_FUNCTIONS = {
    "class_counts": _counts,
    "class_moments": _moments,
    "smoothed": _smoothed_gradient,
    "radii": _radii,
    "regions": _regions,
    "chi_square": _chi_square,
    "ibp": _bounds("ibp"),
    "crown": _bounds("crown"),
    "alpha": _bounds("alpha"),
    "fgsm": _fgsm,
    "pgd": _attack(attacks.pgd),
    "apgd": _attack(attacks.apgd),
    "contrastive": _contrastive(None),
    "contrastive in blocks": _contrastive(4),
    "synbench inputs": _synbench_inputs,
    "robust_bayes": _rule,
    "color": _color,
    "space": _space,
    "SP-layer": _sp_layer,
    "resnet20": _model("resnet20", (8, 8, 3), num_blocks=1, width=4),
}


def _lower(function):
    """A function of a key and images, lowered for GPUs and TPUs."""
    export = jax.export.export(jax.jit(function), platforms=("cuda", "tpu"))
    return export(jax.random.key(0), jnp.full((2, *_SHAPE), 0.5))


class LoweringTest(parameterized.TestCase):
    @parameterized.parameters(*_DEVICE_FUNCTIONS)
    def test_lowers_for_every_platform(self, name):
        self.assertEqual(_lower(_DEVICE_FUNCTIONS[name]).platforms, ("cuda", "tpu"))

    @pytest.mark.newest
    def test_a_callback_does_not_lower(self):
        """So the test above finds one, since the host here is a CPU."""

        def calls_back(key, x):
            return jax.pure_callback(np.sin, x, x)

        with self.assertRaisesRegex(NotImplementedError, "callback"):
            _lower(calls_back)


if __name__ == "__main__":
    absltest.main()
