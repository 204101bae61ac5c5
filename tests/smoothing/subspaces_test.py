"""Subspaces against projection matrices in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax.smoothing import subspaces

_SHAPE, _DIM = (3, 4, 3), 36
_RNG = np.random.default_rng(1)
_V = _RNG.normal(size=(2, 5, _DIM))
_BASIS = np.linalg.qr(_RNG.normal(size=(_DIM, 4)))[0]
_MASK = (np.arange(_DIM) % 5 == 0).reshape(_SHAPE)


def _expected(basis: np.ndarray) -> np.ndarray:
    """Least squares: another way to project."""
    flat = _V.reshape(-1, _DIM).T
    return (basis @ np.linalg.lstsq(basis, flat, rcond=None)[0]).T.reshape(_V.shape)


class ProjectionTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("mask", _MASK, np.eye(_DIM)[:, _MASK.ravel()]),
        ("flat_mask", _MASK.ravel().astype(int), np.eye(_DIM)[:, _MASK.ravel()]),
        ("basis", _BASIS, _BASIS),
        ("projector", _BASIS @ _BASIS.T, _BASIS),
        ("float32_projector", (_BASIS @ _BASIS.T).astype(np.float32), _BASIS),
    )
    def test_projection_matches_least_squares(self, given, basis):
        subspace = subspaces.subspace(given, shape=_SHAPE)
        self.assertEqual(subspace.dim, _DIM)
        tolerance = 1e-6 if given.dtype == np.float32 else 1e-12
        projected, rest = subspace.project(_V), subspace.complement(_V)
        self.assertIsInstance(projected, np.ndarray)
        self.assertEqual(projected.dtype, np.float64)
        np.testing.assert_allclose(projected, _expected(basis), atol=tolerance)
        np.testing.assert_allclose(projected + rest, _V, atol=1e-14)
        products = np.sum(projected * rest, axis=-1)
        np.testing.assert_allclose(products, 0, atol=1e-12)

    @parameterized.parameters("mask", "basis")
    def test_device_matches_host(self, kind):
        given = _MASK if kind == "mask" else _BASIS
        subspace = subspaces.subspace(given, shape=_SHAPE)
        v = jnp.asarray(_V, jnp.float32)
        exact = np.asarray(v, np.float64)
        for name in ("project", "complement"):
            actual = jax.jit(lambda s, v, name=name: getattr(s, name)(v))(subspace, v)
            self.assertEqual((actual.dtype, actual.shape), (jnp.float32, v.shape))
            expected = getattr(subspace, name)(exact)
            np.testing.assert_allclose(actual, expected, atol=1e-6)
        with jax.enable_x64(True):
            actual = subspace.project(jnp.asarray(exact))
            np.testing.assert_allclose(actual, subspace.project(exact), atol=1e-14)

    def test_lengths_in_float64_do_not_suffer_from_a_float32_basis(self):
        """Columns that are orthonormal to 1e-7 only would misjudge them by as much."""
        rough = _BASIS.astype(np.float32)
        inside = rough.astype(np.float64) @ _RNG.normal(size=4)
        naive = np.linalg.norm(rough.T.astype(np.float64) @ inside)
        length = np.linalg.norm(inside)
        self.assertGreater(abs(naive / length - 1), 1e-9)
        subspace = subspaces.subspace(rough, shape=_SHAPE)
        np.testing.assert_allclose(
            np.linalg.norm(subspace.project(inside)), length, rtol=1e-14
        )
        identity = subspace.basis.T @ subspace.basis
        np.testing.assert_allclose(identity, np.eye(4), atol=1e-14)

    @pytest.mark.newest
    def test_large_projections_on_the_device_are_right_to_1e_6(self):
        basis = np.linalg.qr(_RNG.normal(size=(400, 250)))[0]
        subspace = subspaces.subspace(basis, shape=(20, 20))
        v = _RNG.normal(size=(3, 400)).astype(np.float32)
        exact = subspace.project(v.astype(np.float64))
        error = np.linalg.norm(subspace.project(jnp.asarray(v)) - exact, axis=-1)
        self.assertLess(np.max(error / np.linalg.norm(v, axis=-1)), 1e-6)

    @parameterized.named_parameters(
        ("mask", np.ones(_SHAPE)), ("projector", np.eye(_DIM))
    )
    def test_whole_space_has_no_complement(self, given):
        subspace = subspaces.subspace(given, shape=_SHAPE)
        np.testing.assert_allclose(subspace.complement(_V), 0, atol=1e-14)

    def test_rank_one_basis_may_have_the_shape_of_one_column(self):
        subspace = subspaces.subspace([[0.6], [0.8]], shape=(2,))
        np.testing.assert_allclose(subspace.project(np.array([1.0, 0.0])), [0.36, 0.48])


class NamedTest(parameterized.TestCase):
    @parameterized.parameters(
        ("red", 0), ("green", 1), ("blue", 2), ("channel0", 0), ("channel2", 2)
    )
    def test_channels_of_a_picture(self, name, channel):
        subspace = subspaces.named_subspace(name, shape=_SHAPE)
        picture = _V.reshape(2, 5, *_SHAPE).copy()
        picture[..., [c for c in range(3) if c != channel]] = 0
        expected = picture.reshape(_V.shape)
        np.testing.assert_array_equal(subspace.project(_V), expected)
        np.testing.assert_array_equal(subspace.complement(_V), _V - expected)

    def test_channels_of_other_inputs(self):
        mask = subspaces.named_subspace("channel11", shape=(2, 12)).mask
        np.testing.assert_array_equal(np.flatnonzero(mask), [11, 23])

    @parameterized.parameters(
        ("red", (28, 28, 1), r"\[h, w, 3\].*\(28, 28, 1\)"),
        ("blue", (4, 3), r"\[h, w, 3\].*\(4, 3\)"),
        ("purple", (4, 4, 3), "'purple'.*red, green, blue, channel0"),
        ("channel3", (4, 4, 3), "'channel3'.*channel1, channel2"),
        ("channel01", (4, 4, 3), "channel01"),
        ("channel0", (), "channel0"),
    )
    def test_refuses(self, name, shape, text):
        with self.assertRaisesRegex(ValueError, text):
            subspaces.named_subspace(name, shape=shape)


class RefusalTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("shape", np.ones((4, 3, 3)), r"shape \(4, 3, 3\)"),
        ("length", np.ones(35), "shape"),
        ("wide", np.ones((_DIM, _DIM + 1)), "shape"),
        ("no_column", np.ones((_DIM, 0)), "shape"),
        ("empty_mask", np.zeros(_SHAPE), "empty"),
        ("grey_mask", np.full(_SHAPE, 0.5), "mask of 0 and 1"),
        ("negative_mask", -_MASK.astype(int), "mask of 0 and 1"),
        ("nan_mask", np.where(_MASK, np.nan, 0), "finite"),
        ("nan_basis", np.where(_BASIS > 0, np.nan, _BASIS), "finite"),
        ("text", "red", "numbers"),
        ("long_basis", 1.001 * _BASIS, "orthonormal"),
        ("skew_basis", _BASIS[:, [0, 0, 1]], "orthonormal"),
        ("rank_zero", np.zeros((_DIM, _DIM)), "rank"),
        ("half_projector", 0.5 * np.eye(_DIM), "eigenvalues"),
        ("oblique_projector", np.eye(_DIM, k=1) + np.eye(_DIM), "symmetric"),
        ("reflection", np.eye(_DIM)[::-1], "eigenvalues"),
    )
    def test_refuses(self, given, text):
        with self.assertRaisesRegex(ValueError, text):
            subspaces.subspace(given, shape=_SHAPE)


if __name__ == "__main__":
    absltest.main()
