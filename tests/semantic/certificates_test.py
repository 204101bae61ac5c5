"""Searches that go on, and results that are kept in files and checked again."""

import functools
import pathlib
import tempfile
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax.tree_util import Partial

from robustjax import semantic
from robustjax._callables import as_partial
from robustjax.semantic import certificates, fingerprints
from robustjax.semantic.certificates import LOST, PROVEN
from robustjax.semantic.search import cell_grids

_IMAGE = np.full((1, 1, 1), 0.5)


def _logits(threshold, x):
    return jnp.stack([x[:, 0, 0, 0], 2 * threshold - x[:, 0, 0, 0]], axis=-1)


# Class 0 wins while the pixel is above 0.3: to a brightness of -0.2. As arguments of a
# Partial, numbers stay float64.
_model = Partial(_logits, np.float64(0.3))


def _other_model(x):
    return _model(x) * 2


_SETTINGS = {"attribute": "brightness", "limit": 0.125}


@functools.cache
def _certify(**options):
    return semantic.certify(_model, _IMAGE, 0, **_SETTINGS | options)


def _resumed(before, **options):
    return semantic.certify(_model, _IMAGE, 0, **_SETTINGS | options, resume=before)


_PAIR = np.array([[[0.25], [0.75]]])


def _pair_logits(limit, x):
    """Of two pixels: class 0 wins where 2 |x - 0.25| + |y - 0.75| < limit."""
    away = jnp.abs(x[:, 0, :, 0] - _PAIR[None, 0, :, 0])
    return jnp.stack([limit - 2 * away[:, 0] - away[:, 1], 0 * away[:, 0]], axis=1)


_pair_model = Partial(_pair_logits, np.float64(0.4))


class ResumeTest(parameterized.TestCase):
    @pytest.mark.newest
    def test_larger_limits_add_the_cells_that_were_missing(self):
        small = _certify()
        self.assertEqual((small.status, small.left), ("certified", 0.125))
        found = semantic.certify(
            _model, _IMAGE, 0, attribute="brightness", limit=(1.0, 0.25), resume=small
        )
        self.assertEqual((found.status, found.right), ("falsified", 0.25))
        self.assertBetween(found.left, 0.2 - 2 / 4096, 0.2)
        self.assertBetween(found.attack_left, 0.2 - 1e-12, 0.2 + 1e-3)
        self.assertGreater(found.num_bounded, 0)
        self.assertTrue(cell_grids.covers(found.cells, [(1.0, 0.25)]))
        kept = {cell.tobytes() for cell in found.cells}
        self.assertContainsSubset({cell.tobytes() for cell in small.cells}, kept)

    @pytest.mark.slow
    def test_larger_limits_of_several_parameters(self):
        certify = functools.partial(
            semantic.certify,
            _pair_model,
            _PAIR,
            0,
            attribute="brightness_contrast",
            max_cells=60,
        )
        found = certify(limit=((0.05, 0.05), (0.0, 0.2)))
        self.assertEqual((found.status, found.share, found.area), ("certified", 1, 1))
        more = certify(limit=((0.3, 0.05), (0.1, 0.4)), resume=found)
        self.assertTrue(cell_grids.covers(more.cells, [(0.3, 0.05), (0.1, 0.4)]))
        self.assertLess(more.share, 1)
        self.assertLessEqual(more.share, more.attack_share)
        proven = more.cells[more.states == PROVEN]
        b, c = _drawn(proven)
        away = [np.abs(np.clip(x + b + c * (x - 0.5), 0, 1) - x) for x in (0.25, 0.75)]
        self.assertGreater((0.4 - 2 * away[0] - away[1]).min(), 0)

    def test_nothing_left_to_do_bounds_nothing(self):
        again = _resumed(_certify())
        self.assertEqual((again.num_bounded, again[:6]), (0, _certify()[:6]))

    @parameterized.parameters(
        ({"limit": 0.0625}, "smaller limits"),
        ({"limit": (0.2, 0.1)}, "smaller limits"),
        ({"attribute": "contrast"}, "the same attribute"),
        ({"targets": "top2"}, "the same targets"),
        ({"relaxation": "layers"}, "the same relaxation"),
        ({"method": "ibp"}, "the same method"),
        ({"min_share": 0.5}, "the same min_share"),
        (
            {
                "attribute": semantic.attribute(
                    "brightness", sampling=semantic.Sampling("edge")
                )
            },
            "the same sampling",
        ),
    )
    def test_another_question_is_refused(self, change, text):
        with self.assertRaisesRegex(ValueError, f"with {text}"):
            _resumed(_certify(), **change)

    def test_another_label_image_or_model_is_refused(self):
        for model, image, label, text in (
            (_model, _IMAGE, 1, "label"),
            (_model, _IMAGE + 2.0**-50, 0, "image"),
            (_other_model, _IMAGE, 0, "model"),
        ):
            with self.assertRaisesRegex(ValueError, f"with the same {text}"):
                semantic.certify(model, image, label, **_SETTINGS, resume=_certify())

    def test_cells_that_do_not_fit_are_refused(self):
        found = _certify()
        for change, text in (
            (
                {
                    "cells": found.cells[1:],
                    "states": found.states[1:],
                    "margins": found.margins[1:],
                },
                "cover",
            ),
            ({"margins": found.margins * np.nan}, "above zero"),
            ({"states": found.states[1:]}, "states"),
            ({"states": found.states + 5}, "states"),
        ):
            with self.assertRaisesRegex(ValueError, text):
                _resumed(found._replace(**change))

    def test_proven_beyond_a_counterexample_is_an_error(self):
        found = semantic.attack(_model, _IMAGE, 0, attribute="brightness")
        cells = np.array([[[-1.0], [0.0]], [[0.0], [1.0]]])
        with self.assertRaisesRegex(RuntimeError, "left 1.0 is more than 0.2"):
            certificates.of_cells(
                cells, np.array([PROVEN, PROVEN]), ranges=[(1.0, 1.0)], found=found
            )


def _drawn(cells, count=4000):
    """Moves in cells: their corners, and others."""
    rng = np.random.default_rng(0)
    own = cells[rng.integers(0, len(cells), count)]
    return np.concatenate([rng.uniform(own[:, 0], own[:, 1]), *cells.swapaxes(0, 1)]).T


def _with_constant(kind, value):
    """A model with a number somewhere in it."""
    weight = np.arange(12.0).reshape(4, 3) + 0 * value
    weight[2, 1] += value
    own = jnp.asarray(weight, jnp.float32)

    @jax.custom_jvp
    def custom(y):
        return y @ own

    custom.defjvp(lambda p, t: (custom(*p), t[0] @ own))
    inner = jax.jit(lambda y: y @ weight)
    return {
        "closure": lambda x: x.ravel() @ weight,
        "jit": lambda x: inner(x.ravel()),
        "custom_jvp": lambda x: custom(x.ravel()),
        "remat": lambda x: jax.checkpoint(lambda y: y @ own)(x.ravel()),
        "scan": lambda x: jax.lax.scan(
            lambda c, _: (c, c @ weight), x.ravel(), None, length=1
        )[1][0],
        "cond": lambda x: jax.lax.cond(
            x.sum() > 0, lambda y: y @ weight, lambda y: y @ -weight, x.ravel()
        ),
        "literal": lambda x: x.ravel() * value,
        "argument": Partial(lambda w, x: x.ravel() @ w, weight),
        "static": Partial(functools.partial(lambda v, x: x.ravel() + v, value)),
    }[kind]


class FingerprintTest(parameterized.TestCase):
    @parameterized.parameters(
        "closure",
        "jit",
        "custom_jvp",
        "remat",
        "scan",
        "cond",
        "literal",
        "argument",
        "static",
    )
    def test_every_constant_of_a_model_enters(self, kind):
        image = np.zeros((2, 2, 1))
        one, same, other = (
            fingerprints.of_model(as_partial(_with_constant(kind, value)), image)
            for value in (0.125, 0.125, 0.12501)
        )
        self.assertEqual(one, same)
        self.assertNotEqual(one, other)

    def test_shape_and_values_of_an_image_enter(self):
        image = np.zeros((2, 2, 1))
        found = {
            fingerprints.of_image(x)
            for x in (image, image.reshape(4, 1, 1), image + 2.0**-60)
        }
        self.assertLen(found, 3)


class CheckTest(parameterized.TestCase):
    def _check(self, model=_model, image=_IMAGE, **change):
        found = _certify(limit=0.25)
        return semantic.check(found._replace(**change), model, image)

    def test_a_result_is_confirmed(self):
        found, known = self._check(), _certify(limit=0.25)
        self.assertTrue(found.is_confirmed)
        proven = known.states == PROVEN
        self.assertTrue(np.all(np.isnan(found.margins[~proven])))
        np.testing.assert_allclose(found.margins[proven], known.margins[proven])
        true = 2 * (0.5 + known.cells[proven, 0, 0]) - 0.6
        self.assertTrue(np.all(found.margins[proven] <= true))
        np.testing.assert_allclose(found.margins[proven], true, atol=1e-9)

    def test_nothing_more_can_be_claimed(self):
        known = _certify(limit=0.25)
        cells = known.cells.copy()
        cells[np.argmin(cells[:, 0, 0]), 1] -= 1e-12
        all_proven = known.states * 0 + PROVEN
        margins = np.where(known.margins > 0, known.margins, 1.0)
        for change, fields in (
            ({"left": 0.25}, {"are_claims_met"}),
            ({"right": 0.3}, {"are_claims_met"}),
            ({"share": 0.9}, {"are_claims_met"}),
            ({"area": 0.95}, {"are_claims_met"}),
            ({"left": np.nan}, {"are_claims_met"}),
            ({"status": "certified"}, {"are_claims_met"}),
            ({"status": "unknown"}, {"are_claims_met"}),
            ({"status": "none"}, {"are_claims_met"}),
            ({"attack_area": 0.99}, {"is_attack_met"}),
            (
                {"states": np.where(known.states == PROVEN, LOST, known.states)},
                {"is_attack_met"},
            ),
            ({"margins": known.margins + 1e-3}, {"are_claims_met"}),
            (
                {"states": all_proven, "margins": margins},
                {"are_cells_proven", "are_claims_met"},
            ),
            ({"cells": cells}, {"is_covered"}),
            ({"attack_left": 0.25}, {"is_attack_met"}),
            ({"attack_left": 0.05}, {"are_claims_met"}),  # proven beyond it
            ({"witnesses": known.witnesses + 0.01}, {"is_attack_met"}),
            (
                {"question": known.question._replace(ranges=((0.25, 0.5),))},
                {"is_covered"},
            ),
            ({"question": known.question._replace(image="0")}, {"is_same_image"}),
        ):
            with self.subTest(str(change)):
                found = self._check(**change)
                self.assertFalse(found.is_confirmed)
                failed = {n for n in found._fields[:6] if not getattr(found, n)}
                self.assertContainsSubset(fields, failed)

    def test_the_grid_of_several_parameters_is_evaluated_again(self):
        """By the formula of the model, and a point of 33 * 33 more or less."""
        known = semantic.certify(
            _pair_model,
            _PAIR,
            0,
            attribute="brightness_contrast",
            limit=0.3,
            max_cells=0,
        )
        line = (np.arange(33) + 0.5) / 33 * 0.6 - 0.3
        b, c = np.meshgrid(line, line)
        away = [np.abs(np.clip(x + b + c * (x - 0.5), 0, 1) - x) for x in (0.25, 0.75)]
        kept = (2 * away[0] + away[1] < 0.4).sum()
        self.assertEqual((known.attack_area, known.status), (kept / 33**2, "unknown"))
        for number, is_met in ((kept, True), (kept + 1, False), (kept - 1, False)):
            own = known._replace(attack_area=number / 33**2)
            found = semantic.check(own, _pair_model, _PAIR)
            self.assertEqual((found.is_attack_met, found.is_confirmed), (is_met,) * 2)
        for change in ({"attack_area": np.nan}, {"status": "falsified"}):
            found = semantic.check(known._replace(**change), _pair_model, _PAIR)
            self.assertFalse(found.is_confirmed)

    def test_arrays_that_do_not_fit_are_named(self):
        known = _certify(limit=0.25)
        for change, text in (
            ({"cells": known.cells[1:]}, r"cells \[n, 2, 1\] with n states"),
            ({"states": known.states[1:]}, r"cells \[n, 2, 1\] with n states"),
            ({"states": known.states[:, None]}, r"cells \[n, 2, 1\] with n states"),
            ({"states": np.int64(1)}, r"cells \[n, 2, 1\] with n states"),
            ({"margins": known.margins[1:]}, r"cells \[n, 2, 1\] with n states"),
            ({"witnesses": known.witnesses[0]}, r"witnesses \[m, 1\]"),
            ({"cells": known.cells.astype(str)}, "as numbers"),
            ({"states": known.states + 5}, "from 0 to 3"),
        ):
            with self.assertRaisesRegex(ValueError, text):
                self._check(**change)

    def test_of_another_image_or_model(self):
        found = self._check(image=_IMAGE - 0.1)
        self.assertFalse(found.is_same_image | found.are_cells_proven)
        low = _certify()._replace(margins=-np.ones(len(_certify().cells)))
        found = semantic.check(low, _model, _IMAGE - 0.1)
        self.assertFalse(found.are_claims_met)  # though it claims no margins
        found = self._check(model=_other_model)
        self.assertTrue(found.are_cells_proven)
        self.assertFalse(found.is_same_model | found.is_confirmed)


class FileTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.path = pathlib.Path(folder, "range.npz")

    def test_what_is_saved_is_loaded(self):
        known = _certify(limit=0.25)
        semantic.save(known, self.path)
        found = semantic.load(self.path)
        for name in certificates.Certification._fields:
            own, true = getattr(found, name), getattr(known, name)
            self.assertIs(type(own), type(true), name)
            if name == "question":
                self.assertEqual(own, true)
            else:
                np.testing.assert_array_equal(own, true, err_msg=name)
        self.assertEqual(_resumed(found, limit=0.25)[:6], known[:6])
        self.assertTrue(semantic.check(found, _model, _IMAGE).is_confirmed)

    def test_other_files_are_refused(self):
        for write in (
            lambda: self.path.write_text("no archive"),
            lambda: np.savez(self.path, cells=np.zeros(3)),
            lambda: np.savez(self.path, header=np.array({}, object)),
            lambda: semantic.save(
                _certify()._replace(states=_certify().states[1:]), self.path
            ),
            lambda: semantic.save(_certify()._replace(left="0.125"), self.path),
        ):
            write()
            with self.assertRaisesRegex(ValueError, "range.npz"):
                semantic.load(self.path)
        with mock.patch.object(certificates, "_FORMAT", "1967"):
            semantic.save(_certify(), self.path)
        with self.assertRaisesRegex(ValueError, "range.npz in the format .*got '1967'"):
            semantic.load(self.path)
        with self.assertRaises(FileNotFoundError):
            semantic.load(self.path.with_name("none.npz"))


if __name__ == "__main__":
    absltest.main()
