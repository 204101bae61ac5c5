"""What JAX offers as functions of numbers can be bounded, but for a few that are named.

The names are read from the libraries, so that a function of a new version has to be
given a rule or a reason. Functions are traced alone: other tests check their bounds.
"""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest
from jax import nn
from jax.scipy import special

from robustjax import bounds
from robustjax.bounds import tracing

_SIZE = 4
_MOST = 10  # without a rule
# Function -> why it has none.
_WITHOUT = {
    "nextafter": "a step to the next float: bits",
    "spacing": "the distance to the next float: bits",
    "frexp": "exponent and mantissa: bits",
    "ldexp": "made of frexp",
    "hyp1f1": "a series of unknown length",
    "hyp2f1": "a series of unknown length",
    "sph_harm_y": "complex values",
    "wofz": "complex values",
}
# They have no argument that can be bounded: integers, settings or functions.
_OF_NO_FLOATS = {
    "bernoulli", "get_scaled_dot_general_config", "one_hot", "scaled_dot_general",
    "scaled_matmul",
}  # fmt: skip
# Calls of those that take anything but arrays of the size of x.
_CALLS = {
    "glu": nn.glu,
    "dot_product_attention": lambda x: nn.dot_product_attention(
        *[k * x.reshape(1, 2, 1, 2) for k in (1, 2, 3)]
    ),
    "ldexp": lambda x: jnp.ldexp(x, 2),
    "matvec": lambda x: jnp.matvec(x.reshape(2, 2), x[:2]),
    "vecmat": lambda x: jnp.vecmat(x[:2], x.reshape(2, 2)),
    "bessel_jn": lambda x: special.bessel_jn(x, v=2, n_iter=20),
    "expn": lambda x: special.expn(2, x),
    "multigammaln": lambda x: special.multigammaln(3 + x, 2),
    "zeta": lambda x: special.zeta(3.0, x),
    "polygamma": lambda x: special.polygamma(1, x),
    "sph_harm_y": lambda x: special.sph_harm_y(
        jnp.ones(_SIZE, int), jnp.ones(_SIZE, int), x, x, n_max=1
    ),
}


def _functions():
    """Name -> function of as many floats as it takes."""
    of_modules = {
        name: getattr(module, name)
        for module in (nn, special)
        for name in dir(module)
        if name[0] != "_"
    }
    of_numpy = {
        name: getattr(jnp, name)
        for name, value in vars(np).items()
        if isinstance(value, np.ufunc) and hasattr(jnp, name) and _takes_floats(value)
    }
    return {
        name: fn
        for name, fn in (of_numpy | of_modules).items()
        if callable(fn) and not inspect.isclass(fn) and name not in _OF_NO_FLOATS
    }


def _takes_floats(ufunc):
    return any("d" in types.partition("->")[0] for types in ufunc.types)


def _num_arrays(name, fn):
    if isinstance(getattr(np, name, None), np.ufunc):
        return getattr(np, name).nin
    empty, by_name = inspect.Parameter.empty, inspect.Parameter.KEYWORD_ONLY
    parameters = inspect.signature(fn).parameters.values()
    return sum(p.default is empty and p.kind != by_name for p in parameters)


def _call(name, fn):
    """The function as one of x."""
    if name in _CALLS:
        return _CALLS[name]
    count = _num_arrays(name, fn)
    return lambda x: fn(*[x + k for k in range(count)])


def _output(call, number, x):
    return jax.tree.leaves(call(x))[number]


class WalkTest(absltest.TestCase):
    @pytest.mark.newest
    def test_all_but_those_that_are_named_can_be_followed(self):
        x = jax.ShapeDtypeStruct((_SIZE,), jnp.result_type(float))
        refused, num_followed = {}, 0
        for name, fn in _functions().items():
            call = _call(name, fn)
            try:
                for k in range(len(jax.tree.leaves(jax.eval_shape(call, x)))):
                    tracing.trace(functools.partial(_output, call, k), x)
                num_followed += 1
            except bounds.UnsupportedError as error:
                refused[name] = str(error)
        self.assertEqual(refused.keys(), _WITHOUT.keys() & _functions().keys(), refused)
        self.assertLessEqual(len(_WITHOUT), _MOST)
        self.assertGreater(num_followed, 140)


if __name__ == "__main__":
    absltest.main()
