"""Subspaces against projection matrices in float64."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import norms
from robustjax.smoothing import settings
from robustjax.smoothing.sampling import subspaces

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


class ByNameTest(parameterized.TestCase):
    def test_masks_and_channels_in_order(self):
        names = ["blue", "m-1.x_y", "channel0"]
        masks = {"m-1.x_y": _MASK, "unused": _BASIS}
        found = subspaces.by_name(names, masks=masks, shape=_SHAPE)
        self.assertEqual(list(found), names)
        np.testing.assert_array_equal(found["m-1.x_y"].mask, _MASK.ravel())
        for name in ("blue", "channel0"):
            expected = subspaces.named_subspace(name, shape=_SHAPE).mask
            np.testing.assert_array_equal(found[name].mask, expected)

    @parameterized.parameters("red", "green", "blue", "channel0", "channel12")
    def test_channels_cannot_be_redefined(self, name):
        """Also not by the same mask, nor for inputs that have no such channel."""
        red = subspaces.named_subspace("red", shape=_SHAPE).mask
        for shape, mask in ((_SHAPE, red), (_SHAPE, _MASK), ((36,), _MASK.ravel())):
            with self.assertRaisesRegex(ValueError, f"another name .*{name!r}"):
                subspaces.by_name([name], masks={name: mask}, shape=shape)

    @parameterized.parameters(
        "", "Red", " red", "a,b", "a=b", "a:b", "a\t", "a\n", "-a"
    )
    def test_names_fit_into_flags_and_columns(self, name):
        with self.assertRaisesRegex(ValueError, "name of a mask in a-z"):
            subspaces.by_name([name], masks={name: _MASK}, shape=_SHAPE)

    @parameterized.parameters(
        ("channel1", "green"),
        ("mask", "basis"),
        ("basis", "turned"),
        ("projector", "turned"),
        ("mask", "mask_projector"),
        ("red_mask", "red"),
    )
    def test_one_subspace_under_two_names_is_refused(self, first, second):
        eye = np.eye(_DIM)[:, _MASK.ravel()]
        turn = np.linalg.qr(_RNG.normal(size=(4, 4)))[0]
        masks = {
            "mask": _MASK,
            "mask_projector": eye @ eye.T,
            "basis": eye if first == "mask" else _BASIS,
            "turned": _BASIS @ turn,
            "projector": _BASIS @ _BASIS.T,
            "red_mask": np.broadcast_to([1, 0, 0], _SHAPE),
        }
        for names in ((first, second), (second, first)):
            with self.assertRaisesRegex(ValueError, f"one as {names[0]!r} and"):
                subspaces.by_name(names, masks=masks, shape=_SHAPE)

    def test_a_part_of_a_subspace_is_another_one(self):
        part = _MASK.copy()
        part[tuple(np.argwhere(_MASK)[0])] = False
        other = np.linalg.qr(_RNG.normal(size=(_DIM, 4)))[0]
        masks = {"a": _MASK, "b": part, "c": _BASIS, "d": _BASIS[:, :3], "e": other}
        found = subspaces.by_name(masks, masks=masks, shape=_SHAPE)
        self.assertLen(found, 5)


class SpellingTest(parameterized.TestCase):
    @parameterized.parameters(
        "l2.0",
        "l+2",
        "l2e0",
        "l02",
        "l 2",
        "l1.50",
        "l1_0",
        "l\uff12",
        "linfinity",
        "l1e999",
        "l+inf",
        "subspace:",
    )
    def test_other_spellings_are_no_further_norms(self, norm):
        expected = norms.canonical(norm)
        self.assertNotEqual(expected, norm)
        self.assertEqual(norms.canonical(expected), expected)
        message = re.escape(f"Expected the norm {expected!r}, got {norm!r}.")
        with self.assertRaisesRegex(ValueError, message):
            self._request(expected, norm)

    @parameterized.parameters("l1", "l2", "linf", "l1.5", "l3", "l10", "subspace:red")
    def test_the_one_spelling_is_accepted(self, norm):
        self.assertEqual(norms.canonical(norm), norm)
        self.assertEqual(self._request(norm).norms, (norm,))

    def test_a_run_cannot_redefine_red_or_count_it_twice(self):
        mask = np.broadcast_to([0, 1, 0], _SHAPE)
        with self.assertRaisesRegex(ValueError, "another name for the mask 'red'"):
            self._request("subspace:red", masks={"red": mask})
        with self.assertRaisesRegex(ValueError, "same one as 'red' and 'channel0'"):
            self._request("subspace:red", "subspace:channel0")
        with self.assertRaisesRegex(ValueError, "same one as 'green' and 'mine'"):
            self._request("subspace:green", "subspace:mine", masks={"mine": mask})

    def _request(self, *names, **options):
        return settings.Settings(
            sigma=0.5,
            shape=_SHAPE,
            num_classes=3,
            num_selection=10,
            num_estimation=1_000,
            alpha=0.01,
            norms=names,
            **options,
        )


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
