"""Attacks against those of foolbox, on one network."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest

from robustjax import attacks

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports names that SciPy will drop
    import foolbox

_RNG = np.random.default_rng(0)
_FIRST, _SECOND = _RNG.normal(size=(12, 16)), _RNG.normal(size=(16, 5))


def _network(x):
    first, second = (jnp.asarray(w, x.dtype) for w in (_FIRST, _SECOND))
    return jnp.tanh(x @ first) @ second


class FoolboxTest(absltest.TestCase):
    @pytest.mark.newest
    @pytest.mark.slow
    def test_same_share_of_a_network_falls(self):
        x = np.random.default_rng(1).uniform(0.2, 0.8, (200, 12)).astype(np.float32)
        labels = np.argmax(np.tanh(x @ _FIRST) @ _SECOND, axis=-1)
        balls = {"linf": 0.1, "l2": 0.25}
        kinds = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}

        @jax.jit
        def attacked(x, labels):
            found = {}
            for norm, epsilon in balls.items():
                how = dict(labels=labels, epsilon=epsilon, norm=norm)
                key = jax.random.key(0)
                ours = attacks.pgd(key, _network, x, loss="cross_entropy", **how)
                automatic = attacks.apgd(key, _network, x, **how)
                found[norm] = ours.is_adversarial, automatic.is_adversarial
            return found

        model = foolbox.JAXModel(jax.jit(_network), bounds=(0, 1))
        for norm, (ours, automatic) in attacked(x, labels).items():
            with self.subTest(norm):
                attack = kinds[norm](steps=20, rel_stepsize=2.5 / 20, random_start=True)
                theirs = attack(
                    model, jnp.asarray(x), jnp.asarray(labels), epsilons=[balls[norm]]
                )[2][0]
                share = float(np.mean(np.asarray(theirs)))
                self.assertBetween(share, 0.2, 0.95)
                self.assertLess(abs(np.mean(ours) - share), 0.025)
                self.assertGreaterEqual(np.mean(automatic), share - 0.01)


if __name__ == "__main__":
    absltest.main()
