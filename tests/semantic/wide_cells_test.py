"""Enclosures over wide, far, empty and odd cells: sound by sampling, or refused."""

import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import semantic
from robustjax.semantic import geometry

_IMAGE = np.random.default_rng(0).random((3, 3, 3))
# Of an attribute: the widths given, cells that must be enclosed, cells that must not.
_CELLS = {
    "hue": (
        (2.5,),
        [[0.5, 1.5], [-3.2, -2.9], [7.0, 9.5], [0.25, 0.25], [-0.5, 0.5]],
        [[0.0, 2.6], [0.2, 0.1], [np.nan, 0.1], [0.0, np.inf]],
    ),
    "rotation": (
        (360.0,),
        [[-180.0, 180.0], [170.0, 530.0], [350.0, 365.0], [-7200.5, -7199.0]],
        [[-200.0, 200.0], [5.0, 4.0]],
    ),
    "saturation": (
        (np.inf,), [[-3.0, 2.0], [1.5, 2.5], [-2.5, -1.5]], [[1.0, 0.0]],
    ),
    "lightness": ((np.inf,), [[-3.0, 2.0], [1.5, 2.5], [-2.5, -1.5]], []),
    "contrast": ((np.inf,), [[-4.0, -0.5], [-3.0, -2.5], [5.0, 900.0]], []),
    "scale": (
        (20.0,),
        [[-0.95, -0.9], [5.0, 300.0], [-0.951, -0.95]],
        [[-1.0, -0.9], [-1.5, -1.2], [-0.999, 0.0], [-2.0, 0.0]],
    ),
    "translation_rows": (
        (1.5,), [[1e10 + 0.3, 1e10 + 1.7], [-7.4, -6.2]], [[0.0, 2.0]],
    ),
    "hue+saturation": (
        (1.5, np.inf), [[[0.7, -3.0], [2.1, 0.5]], [[-9.0, 0.2], [-8.9, 1.9]]], [],
    ),
    "brightness_contrast": (
        (np.inf, np.inf),
        [[[0.2, -4.0], [0.4, -2.5]], [[0.1, -0.3], [0.1, 0.2]]],
        [[[0.2, 0.0], [0.1, 0.1]]],
    ),
}  # fmt: skip


def _moving(name):
    """Translations are read with reflection: they go on without end."""
    return semantic.attribute(name, sampling=geometry.Sampling("reflect"))


def _cells(name, which):
    dimension = len(_moving(name).names)
    return np.array(_CELLS[name][which], np.float64).reshape(-1, 2, dimension)


@functools.partial(jax.jit, static_argnames="name")
def _both(image, cells, moves, *, name):
    enclose = functools.partial(
        semantic.enclosure, _moving(name), image, max_widths=_CELLS[name][0]
    )
    moved = jax.vmap(jax.vmap(functools.partial(_moving(name), image)))
    return jax.vmap(enclose)(cells), moved(moves)


class WideCellsTest(parameterized.TestCase):
    @parameterized.parameters(*_CELLS)
    def test_pixels_are_inside_and_what_is_not_promised_is_nan(self, name):
        good, bad = _cells(name, 1), _cells(name, 2)
        ways = np.random.default_rng(1).random((len(good), 1500, good.shape[2]))
        ways[:, :2] = np.array([0.0, 1.0])[None, :, None]
        moves = good[:, :1] + ways * (good[:, 1:] - good[:, :1])
        with jax.enable_x64(True):
            (lower, upper, planes), pixels = jax.device_get(
                _both(_IMAGE, np.concatenate([good, bad]), moves, name=name)
            )
        num = len(good)
        for found in (lower, upper, *planes[:4]):
            self.assertTrue(np.all(np.isfinite(found[:num])))
            self.assertTrue(np.all(np.isnan(found[num:])))
        error = 1e-12 + 1e-15 * np.abs(good).max()
        at = 1 / (1 + moves) if name == "scale" else moves
        below, above = (
            np.einsum("knd,kdhwc->knhwc", at, planes[side][:num])
            + planes[side + 1][:num, None]
            for side in (0, 2)
        )
        self.assertGreater((pixels - lower[:num, None]).min(), -error)
        self.assertGreater((upper[:num, None] - pixels).min(), -error)
        self.assertGreater((pixels - below).min(), -error)
        self.assertGreater((above - pixels).min(), -error)

    @pytest.mark.newest
    def test_hues_beyond_half_a_turn_against_colorsys(self):
        (low, high), *_ = _cells("hue", 1)
        with jax.enable_x64(True):
            (lower, upper, _), _ = jax.device_get(
                _both(
                    _IMAGE,
                    np.concatenate([_cells("hue", 1), _cells("hue", 2)]),
                    np.zeros((5, 1500, 1)),
                    name="hue",
                )
            )
        for place in np.ndindex(3, 3):
            hue, light, full = colorsys.rgb_to_hls(*_IMAGE[place])
            for turn in np.linspace(low[0], high[0], 101):
                pixel = colorsys.hls_to_rgb((hue + turn) % 1, light, full)
                self.assertTrue(np.all(pixel >= lower[0][place] - 1e-12))
                self.assertTrue(np.all(pixel <= upper[0][place] + 1e-12))


class RefusalTest(parameterized.TestCase):
    @parameterized.parameters(
        ("rotation", [[0.0], [361.0]], "360 degrees"),
        ("rotation", [[5.0], [4.0]], "low <= high"),
        ("hue", [[0.0], [1e6]], "hue that passes fewer than 4096"),
        ("scale", [[-1.0], [0.0]], "above -1, of scale"),
        ("scale", [[-1 + 1e-9], [0.0]], "scale that passes fewer than 4096"),
        ("shear", [[0.0], [1e9]], "shear that passes"),
        ("brightness", [[0.0], [np.nan]], "finite"),
        ("brightness", [0.0, 0.1], r"cell \[2, 1\]"),
        ("brightness_contrast", [[0.0], [0.1]], r"cell \[2, 2\]"),
    )
    def test_known_cells(self, name, cell, text):
        enclose = functools.partial(semantic.enclosure, semantic.attribute(name))
        with self.assertRaisesRegex(ValueError, text):
            jax.eval_shape(lambda x: enclose(x, np.array(cell)), _IMAGE)

    def test_a_traced_cell_needs_widths(self):
        enclose = functools.partial(semantic.enclosure, semantic.attribute("hue"))
        with self.assertRaisesRegex(ValueError, "max_widths"):
            jax.eval_shape(enclose, _IMAGE, jnp.zeros((2, 1)))


if __name__ == "__main__":
    absltest.main()
