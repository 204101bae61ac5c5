"""Survival of classes under noise against intervals, where it is known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax.hidden_cost.regions import survival

_SIGMAS = [0.05, 0.1, 0.2, 0.4]


def _slab(x):
    """Class 0 is |x_1 - 1/2| < 1/8; class 1 the rest; class 2 never wins."""
    score = 0.125 - jnp.abs(x[:, 0] - 0.5)
    return jnp.stack([score, -score, jnp.full_like(score, -9.0)], axis=-1)


def _survival(x, labels, **options):
    defaults = dict(sigmas=_SIGMAS, num_classes=3, num_samples=2000)
    return survival.class_survival(
        jax.random.key(0), _slab, x, labels=labels, **(defaults | options)
    )


class ClassSurvivalTest(parameterized.TestCase):
    def test_centre_of_an_interval_vanishes_where_the_closed_form_says(self):
        sigma = 0.125 * 1.4826022185  # of an interval of half-width 1/8
        x = np.full((5, 1), 0.5, np.float32)
        found = _survival(x, [0] * 5, sigmas=[0.9 * sigma, 1.1 * sigma])
        np.testing.assert_array_equal(found.fraction[0], [1, 0])
        np.testing.assert_allclose(found.sigma_before[0], 0.9 * sigma)
        np.testing.assert_allclose(found.sigma_after[0], 1.1 * sigma)

    @pytest.mark.newest
    def test_points_leave_one_after_another(self):
        """At sigma = .17, p is .538 in the centre of the interval and .465 at 0.6."""
        x = np.array([[0.5], [0.5], [0.6], [0.0], [1.0]], np.float32)
        sigmas = [0.05, 0.17, 0.4]
        found = _survival(x, [0, 0, 0, 1, 1], sigmas=sigmas, num_samples=5000)
        np.testing.assert_array_equal(found.num_points, [3, 2, 0])
        np.testing.assert_allclose(found.fraction[0], [1, 2 / 3, 0])
        np.testing.assert_array_equal(found.fraction[1], 1)
        np.testing.assert_array_equal(found.fraction[2], np.nan)
        np.testing.assert_array_equal(found.sigma_before, [0.17, 0.4, np.nan])
        np.testing.assert_array_equal(found.sigma_after, [0.4, np.inf, np.nan])

    def test_fit_never_rises(self):
        """Points of class 1 in the middle are won by more noise."""
        x = np.array([[0.5], [0.5], [0.5], [0.62], [0.65]], np.float32)
        found = _survival(x, [1, 0, 0, 0, 1])
        raw, fitted = found.fraction[1], found.fitted[1]
        self.assertGreater(raw[-1], raw[0])
        np.testing.assert_allclose(fitted, raw.mean())
        self.assertTrue((np.diff(found.fitted[:2], axis=1) <= 1e-12).all())
        np.testing.assert_array_equal(found.sigma_after[1], np.inf)

    def test_lost_from_the_start(self):
        found = _survival(np.full((5, 1), 0.5, np.float32), [1] * 5, sigmas=[0.05])
        self.assertEqual((found.sigma_before[1], found.sigma_after[1]), (0, 0.05))

    def test_order_of_sigmas(self):
        x = np.full((5, 1), 0.5, np.float32)
        found = _survival(x, [0] * 5, sigmas=[*_SIGMAS[::-1], 0.1])
        jax.tree.map(np.testing.assert_array_equal, found, _survival(x, [0] * 5))
        np.testing.assert_array_equal(found.sigmas, _SIGMAS)

    @parameterized.parameters(
        (dict(sigmas=[]), "sigmas"),
        (dict(sigmas=[0.1, -1.0]), "sigmas.*-1"),
        (dict(level=0.0), "level.* 0.0"),
        (dict(labels=[3]), "labels.* 3"),
        (dict(labels=[0, 1]), r"labels \[1\], got shape"),
        (dict(num_samples=0), "num_samples"),
        (dict(x=np.full((1, 1), 2.0)), r"x in \[0, 1\]"),
    )
    def test_refuses(self, arguments, text):
        defaults = dict(x=np.full((1, 1), 0.5), labels=[0])
        with self.assertRaisesRegex(ValueError, text):
            _survival(**(defaults | arguments))


if __name__ == "__main__":
    absltest.main()
