"""Values and gradients that were computed before this code was there."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import waves as data
from absl.testing import absltest, parameterized

from robustjax import contrastive

_G1 = (contrastive.debias(0.1),)
_G2 = (contrastive.hard(1.0), contrastive.debias(0.1))


def _two_views(loss_fn, **options):
    def by_first(first):
        return loss_fn(jnp.stack([first, data.SECOND.astype(first.dtype)]), **options)

    return by_first, data.FIRST


def _nca(num_positives, estimator):
    def by_anchors(anchors):
        positives, negatives = _like(anchors, data.POSITIVES, data.NEGATIVES)
        return contrastive.nca(
            anchors, positives[:num_positives], negatives, estimator=estimator
        )

    return by_anchors, data.ANCHORS


def _nca_by_positives():
    def by_positives(positives):
        anchors, negatives = _like(positives, data.ANCHORS, data.NEGATIVES)
        return contrastive.nca(anchors, positives, negatives, estimator=_G2)

    return by_positives, data.POSITIVES


def _mix(**options):
    def by_anchors(anchors):
        positives, negatives, mixed = _like(
            anchors, data.POSITIVES, data.NEGATIVES, data.MIXED
        )
        return contrastive.mix_nca(
            anchors, positives, negatives, mixed=mixed, **options
        )

    return by_anchors, data.ANCHORS


def _integrated():
    def by_anchors(anchors):
        positives, negatives, attacked, others = _like(
            anchors,
            data.POSITIVES,
            data.NEGATIVES,
            data.ATTACKED,
            data.ATTACKED_NEGATIVES,
        )
        return contrastive.int_nacl(
            contrastive.from_arrays(anchors, positives, negatives),
            contrastive.from_arrays(anchors, attacked, others),
            estimator=_G2,
            weights=data.WEIGHTS.astype(anchors.dtype),
        )

    return by_anchors, data.ANCHORS


def _like(x, *arrays):
    return tuple(jnp.asarray(array, x.dtype) for array in arrays)


# name, (function, its argument), value, 2-norm of the gradient
_NOTED = (
    ("g0", _two_views(contrastive.nt_xent), 0.960269042164, 0.3383813255),
    ("g1", _two_views(contrastive.debiased), 0.749327888722, 0.4472540568),
    ("g2", _two_views(contrastive.hard_negative), 1.235626130128, 0.5924359483),
    ("g2_blocks", _two_views(contrastive.hard_negative, block_size=3),
     1.235626130128, 0.5924359483),
    ("g0_cold", _two_views(contrastive.nt_xent, temperature=0.1),
     0.259837577295, 0.7966183305),
    ("g1_all_clamped", _two_views(contrastive.debiased, tau_plus=0.6),
     0.121528642858, 0.0391065168),
    ("nca_1_g1", _nca(1, _G1), 0.536006210884, 0.2207486256),
    ("nca_2_g0", _nca(2, ()), 0.453181415082, 0.1178846831),
    ("nca_3_g1", _nca(3, _G1), 0.217875239198, 0.1072879452),
    ("nca_3_g2", _nca(3, _G2), 0.513949845457, 0.2920320360),
    ("nca_3_g2_by_positives", _nca_by_positives(), 0.513949845457, 0.0730933021),
    ("soft_target_g0", _mix(mixing=0.9), 1.040332708631, 0.2139567699),
    ("soft_target_g2", _mix(mixing=0.9, estimator=_G2), 1.358896125067, 0.5562384485),
    ("clean_plus_soft", _mix(mixing=0.9, estimator=_G2, form="clean_plus_soft"),
     2.429421213699, 1.0682305700),
    ("integrated", _integrated(), 1.503766333131, 0.6376217196),
)  # fmt: skip


# Whose gradients repeat those of the cases above.
_NOTED_VALUES = {
    "nca_1_g0": (_nca(1, ()), 0.763026008826),
    "nca_2_g1": (_nca(2, _G1), 0.306163596579),
    "nca_2_g2": (_nca(2, _G2), 0.686694005821),
    "nca_3_g0": (_nca(3, ()), 0.326550706728),
    "clean_plus_soft_half": (
        _mix(mixing=0.5, estimator=_G2, form="clean_plus_soft"),
        1.964712392080,
    ),
}
_IN_FLOAT32 = (  # each step, at once and in blocks
    "g2_blocks",
    "nca_3_g2_by_positives",
    "clean_plus_soft",
    "integrated",
)


@functools.cache
def _found(dtype):
    """Of each case (the loss, what is watched) and its gradient: one program."""
    cases = {name: how for name, how, *_ in _NOTED}
    if dtype == np.float32:
        cases = {name: cases[name] for name in _IN_FLOAT32}

    @jax.jit
    def derivatives(arguments):
        return {
            name: jax.value_and_grad(function, has_aux=True)(arguments[name])
            for name, (function, _) in cases.items()
        }

    with jax.enable_x64(dtype == np.float64):
        arguments = {name: np.asarray(x, dtype) for name, (_, x) in cases.items()}
        return jax.tree.map(np.asarray, derivatives(arguments))


@functools.cache
def _values():
    """Losses of three views, others by name, and the share clamped when cold."""

    @jax.jit
    def losses(views, two):
        clamped = contrastive.debiased(two, temperature=0.1)[1].clamped_fraction
        by_name = {
            how.__name__: contrastive.compose(contrastive.similarity(0.5), how())
            for how in (
                contrastive.sum_inside,
                contrastive.mean_of_logs,
                contrastive.supcon,
            )
        }
        others = {
            name: function(anchors)[0]
            for name, ((function, anchors), _) in _NOTED_VALUES.items()
        }
        three = {name: loss(views)[0] for name, loss in by_name.items()}
        return three, others, clamped

    with jax.enable_x64(True):
        found = losses(data.THREE_VIEWS, np.stack([data.FIRST, data.SECOND]))
        return jax.tree.map(np.asarray, found)


class NotedValuesTest(parameterized.TestCase):
    @parameterized.parameters(
        *((name, *own, np.float64, 1e-9) for name, _, *own in _NOTED),
        *(
            (name, *own, np.float32, 1e-5)
            for name, _, *own in _NOTED
            if name in _IN_FLOAT32
        ),
    )
    def test_value_and_gradient(self, name, value, length, dtype, tolerance):
        (found, _), gradient = _found(dtype)[name]
        self.assertEqual((found.dtype, gradient.dtype), (dtype, dtype))
        np.testing.assert_allclose(found, value, rtol=tolerance)
        np.testing.assert_allclose(
            np.linalg.norm(gradient), length, rtol=tolerance, atol=5e-11
        )  # noted to 10 places

    @parameterized.parameters(*_NOTED_VALUES)
    def test_value(self, name):
        np.testing.assert_allclose(
            _values()[1][name], _NOTED_VALUES[name][1], rtol=1e-9
        )

    @parameterized.parameters(
        ("sum_inside", 0.7210153756559, 1e-12),
        ("mean_of_logs", 1.1269103343747, 1e-12),
        ("supcon", 1.4145925568592, 3e-7),  # see below for more digits
    )
    def test_three_losses_of_three_views(self, name, value, tolerance):
        np.testing.assert_allclose(_values()[0][name], value, rtol=tolerance)

    @pytest.mark.newest
    def test_supcon_of_three_views_by_loops(self):
        rows = data.THREE_VIEWS.reshape(12, 3)
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        total = 0.0
        for i in range(12):
            others = [j for j in range(12) if j != i]
            mass = sum(np.exp(rows[i] @ rows[j] / 0.5) for j in others)
            own = [j for j in others if j % 4 == i % 4]
            total -= np.mean([rows[i] @ rows[j] / 0.5 - np.log(mass) for j in own])
        np.testing.assert_allclose(_values()[0]["supcon"], total / 12, rtol=1e-12)

    def test_clamped_fractions(self):
        for name, share in (("g1", 1 / 8), ("g1_all_clamped", 1)):
            (_, aux), _ = _found(np.float64)[name]
            self.assertEqual(aux.clamped_fraction, share)
        self.assertEqual(_values()[2], 6 / 8)


if __name__ == "__main__":
    absltest.main()
