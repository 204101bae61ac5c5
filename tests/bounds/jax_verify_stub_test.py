"""A stub of the shape of jax_verify's head: the layer below it, and the adapter.

It has what the head asks of JAX and what is corrected in it, in the same modules.
"""

import contextlib
import pathlib
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import on_the_path
import pytest
from absl.testing import absltest

from robustjax import bounds
from robustjax.bounds import jax_verify
from robustjax.bounds.jax_verify import programs

_METHODS = ("ibp", "crown-ibp", "crown")
_STUB = {
    "__init__.py": """
        from jax_verify.src.bound_propagation import IntervalBound
        from jax_verify.src.ibp import interval_bound_propagation
        from jax_verify.src.linear.backward_crown import (
            backward_crown_bound_propagation, crownibp_bound_propagation)
    """,
    "src/synthetic_primitives.py": """
        import functools
        import jax
        from jax import lax
        from jax.experimental import pjit
        from jax.interpreters import mlir
        import jax.numpy as jnp

        SUBGRAPH_PRIMITIVES = (
            jax.custom_derivatives.custom_jvp_call_jaxpr_p,
            jax.custom_derivatives.custom_jvp_call_p,
            jax.interpreters.pxla.xla_pmap_p,
            pjit.pjit_p,
        )
        LINEAR_OP = [lax.add_p, lax.broadcast_in_dim_p]

        class FakePrimitive(jax.core.Primitive):
            def __init__(self, name, impl):
                self.name, self.bind = name, impl
                mlir.register_lowering(self, mlir.lower_fun(impl))

        softplus_p = FakePrimitive("Softplus", jax.nn.softplus)
        relu_p = FakePrimitive("ReLU", jax.nn.relu)
        sigmoid_p = FakePrimitive("Sigmoid", jax.nn.sigmoid)

        class Spec:
            def __init__(self, fn, primitive, **params):
                jaxpr = jax.make_jaxpr(functools.partial(fn, **params))(jnp.zeros(()))
                self.graph, self.primitive = jaxpr.jaxpr, primitive

        def activation_specs():
            return [
                Spec(jax.nn.relu, relu_p),
                Spec(jnp.clip, None, a_min=0.0, a_max=1.0),
                Spec(jax.nn.softplus, softplus_p),
            ]

        def _get_count_and_suffix(graph):
            raise ValueError("variables have no number")

        def detect(graph):
            names = [eqn.primitive for eqn in graph.eqns]
            for spec in activation_specs():
                size = len(spec.graph.eqns)
                if names[:size] == [eqn.primitive for eqn in spec.graph.eqns]:
                    new = jax.core.new_jaxpr_eqn(
                        graph.invars, graph.eqns[size - 1].outvars, spec.primitive, {},
                        jax.core.no_effects, graph.eqns[0].source_info)
                    return jax.core.Jaxpr(
                        constvars=[], invars=graph.invars, outvars=graph.outvars,
                        eqns=[new, *graph.eqns[size:]])
            return graph

        def renamed(graph):
            count, suffix = _get_count_and_suffix(graph)
            (x,) = graph.invars
            new = jax.core.Var(count + 1, suffix, x.aval)
            return jax.core.eval_jaxpr(graph, [], jnp.ones(new.aval.shape))
    """,
    "src/bound_propagation.py": """
        from jax import lax

        RESHAPE_PRIMITIVES = [lax.squeeze_p, lax.broadcast_in_dim_p]

        class IntervalBound:
            def __init__(self, lower, upper):
                self.lower, self.upper = lower, upper
    """,
    "src/ibp.py": """
        import jax
        from jax import lax
        import jax.numpy as jnp
        from jax_verify.src import bound_propagation

        MONOTONE = [
            *bound_propagation.RESHAPE_PRIMITIVES, lax.reshape_p, lax.max_p, lax.exp_p,
            lax.tanh_p, lax.add_p]

        def interval_bound_propagation(function, bound):
            jaxpr = jax.make_jaxpr(function)(bound.lower).jaxpr
            known = dict(zip(jaxpr.invars, [bound]))

            def read(atom):
                is_literal = isinstance(atom, jax.core.Literal)
                return atom.val if is_literal else known[atom]

            for eqn in jaxpr.eqns:
                values = jax.tree_map(read, eqn.invars)
                ends = [[getattr(v, side, v) for v in values]
                        for side in ("lower", "upper")]
                found = [eqn.primitive.bind(*end, **eqn.params) for end in ends]
                if any(hasattr(v, "lower") for v in values):
                    if eqn.primitive not in MONOTONE:
                        found = [jnp.minimum(*found), jnp.maximum(*found)]
                    found = bound_propagation.IntervalBound(*found)
                else:
                    found = found[0]
                known[eqn.outvars[0]] = found
            return read(jaxpr.outvars[0])
    """,
    "src/activation_relaxation.py": """
        import dataclasses
        import functools
        from typing import Any
        from jax import lax
        from jax_verify.src import synthetic_primitives

        def convex_fn_relaxation(primitive, inp):
            fun = primitive.bind
            low, high = inp.lower, inp.upper
            y_low, y_high = fun(low), fun(high)
            slope = (y_high - y_low) / (high - low)
            offset = (y_low * high - y_high * low) / (high - low)
            return fun, lambda x: slope * x + offset

        @dataclasses.dataclass
        class ActivationRelaxation:
            relaxation_fn: Any

        relaxation_fns = {
            lax.exp_p: ActivationRelaxation(
                functools.partial(convex_fn_relaxation, lax.exp_p)),
            synthetic_primitives.relu_p: ActivationRelaxation(
                lambda inp: convex_fn_relaxation(synthetic_primitives.relu_p, inp)),
        }
    """,
    "src/linear/linear_relaxations.py": """
        from jax import lax
        import jax.numpy as jnp

        class ElementwiseChord:
            def __init__(self, fn):
                self._fn = fn

        from jax_verify.src import synthetic_primitives

        def _exp(inp):
            return jnp.exp, lambda x: jnp.exp(inp.upper) + 0 * x

        def _wrong(inp):
            return lambda x: x / 8 + 9, lambda x: x / 8 - 9

        _crown_mapper = {
            lax.exp_p: _exp,
            lax.tanh_p: _wrong,
            synthetic_primitives.sigmoid_p: _wrong,
        }
        _fastlin_mapper = dict(_crown_mapper)
    """,
    "src/linear/backward_crown.py": """
        from jax import lax
        import jax.numpy as jnp
        from jax_verify.src import activation_relaxation
        from jax_verify.src import bound_propagation
        from jax_verify.src import ibp
        from jax_verify.src import synthetic_primitives
        from jax_verify.src.linear import linear_relaxations

        CONCRETIZE_ARGS_PRIMITIVE = (lax.exp_p,)

        class Transform:
            def __init__(self, primitives):
                self._primitive_needs_concrete_bounds = primitives

        backward_crown_transform = Transform(CONCRETIZE_ARGS_PRIMITIVE)
        backward_fastlin_transform = Transform(CONCRETIZE_ARGS_PRIMITIVE)

        def crownibp_bound_propagation(function, bound):
            found = ibp.interval_bound_propagation(function, bound)
            low = found.lower.at[0, 0].set(jnp.nan)
            return bound_propagation.IntervalBound(low, found.upper - 0.25)

        def backward_crown_bound_propagation(function, bound):
            found = ibp.interval_bound_propagation(function, bound)
            return bound_propagation.IntervalBound(found.lower + 0.125, found.upper)
    """,
}


@contextlib.contextmanager
def _stub():
    with tempfile.TemporaryDirectory() as folder:
        for name, text in _STUB.items():
            path = pathlib.Path(folder, "jax_verify", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [line[8:] for line in text.splitlines()]
            path.write_text("\n".join(lines))
        with on_the_path.first_on_the_path(folder):
            yield jax_verify.load()


class StubTest(absltest.TestCase):
    @pytest.mark.newest
    def test_its_methods_are_called_and_nan_says_nothing(self):
        box = np.zeros(2, np.float32), np.ones(2, np.float32)

        def fn(x):
            return jnp.tanh(jax.nn.relu(x) + 0.5)

        with _stub():
            found = [
                bounds.linear_bounds(fn, *box, method=m, engine="jax_verify")
                for m in _METHODS
            ]
        low, high = np.tanh([0.5, 0.5]), np.tanh([1.5, 1.5])
        np.testing.assert_allclose(found[0], [low, high], rtol=1e-6)
        np.testing.assert_allclose(
            found[1], [low, high - np.array([0, 0.25])], rtol=1e-6
        )
        np.testing.assert_allclose(found[2], [low + 0.125, found[1].upper], rtol=1e-6)

    def test_patterns_with_equal_beginnings(self):
        with _stub() as jv:
            synthetic = sys.modules["jax_verify.src.synthetic_primitives"]
            box = jv.IntervalBound(-jnp.ones((1, 2)), jnp.ones((1, 2)))
            graphs = [
                synthetic.detect(programs.make_jaxpr(fn)(box.lower).jaxpr)
                for fn in (jax.nn.softplus, jax.nn.relu)
            ]
            names = [[eqn.primitive.name for eqn in graph.eqns] for graph in graphs]
            (found,) = synthetic.renamed(graphs[0])
            cut = synthetic.jnp.clip(np.array([-1.0, 0.5, 2.0]), a_min=0, a_max=1)
        self.assertEqual(names, [["Softplus"], ["ReLU"]])
        self.assertEqual(cut.tolist(), [0, 0.5, 1])
        np.testing.assert_allclose(found, np.full((1, 2), np.log1p(np.e)), rtol=1e-6)

    def test_chords_of_narrow_intervals(self):
        with _stub() as jv:
            activations = sys.modules["jax_verify.src.activation_relaxation"]
            lines = sys.modules["jax_verify.src.linear.linear_relaxations"]
            low = np.float32(32.60492)
            bound = jv.IntervalBound(low, np.nextafter(low, np.float32(99)))
            chords = [
                e.relaxation_fn(bound)[1] for e in activations.relaxation_fns.values()
            ]
            chords.append(lines.ElementwiseChord(jax.nn.relu).linearize((), bound))
            ends = [
                [float(chord(x)) for x in (bound.lower, bound.upper)]
                for chord in chords
            ]
            point = lines.ElementwiseChord(jax.nn.relu).linearize(
                (), jv.IntervalBound(low, low)
            )
            at_zero = [float(chords[index](0.0)) for index in (1, 2)]
        exact = np.array([float(bound.lower), float(bound.upper)])
        for found, expected in zip(ends, (np.exp(exact), exact, exact), strict=True):
            np.testing.assert_allclose(found, expected, rtol=3e-7)
        np.testing.assert_allclose(at_zero, 0, atol=1e-5)  # that of the head: 7
        self.assertEqual(float(point(low)), float(low))

    def test_lines_of_exp_end_at_12(self):
        with _stub() as jv:
            lines = sys.modules["jax_verify.src.linear.linear_relaxations"]
            bound = jv.IntervalBound(jnp.zeros(2), jnp.array([12.0, 12.1]))
            for table in (lines._crown_mapper, lines._fastlin_mapper):
                (exp,) = (table[p] for p in table if p.name == "exp")
                for line in exp(bound):
                    self.assertEqual(
                        np.isnan(line(jnp.zeros(2))).tolist(), [False, True]
                    )

    def test_lines_of_tanh_and_sigmoid_touch_them(self):
        exact = {"tanh": np.tanh, "Sigmoid": lambda x: 1 / (1 + np.exp(-x))}
        low = np.array([-3.0, -0.5, 2.0, -30.0, -4.0], np.float32)
        high = np.array([4.0, 0.7, 60.0, -12.0, -3.0], np.float32)
        share = np.linspace(0, 1, 2001, dtype=np.float32)[:, None]
        grid = low + share * (high - low)
        with _stub() as jv:
            lines = sys.modules["jax_verify.src.linear.linear_relaxations"]
            for primitive, rule in lines._fastlin_mapper.items():
                if primitive.name in exact:
                    values = exact[primitive.name](grid.astype(float))
                    below, above = rule(jv.IntervalBound(low, high))
                    for gaps in (
                        values - jax.vmap(below)(grid),
                        jax.vmap(above)(grid) - values,
                    ):
                        np.testing.assert_allclose(gaps.min(axis=0), 0, atol=1e-6)

    def test_tables_are_extended(self):
        with _stub():
            module = sys.modules["jax_verify.src.linear.backward_crown"]
            names = [
                [getattr(p, "name", p) for p in primitives]
                for primitives in (
                    module.CONCRETIZE_ARGS_PRIMITIVE,
                    module.backward_crown_transform._primitive_needs_concrete_bounds,
                    module.backward_fastlin_transform._primitive_needs_concrete_bounds,
                )
            ]
            linear = module.synthetic_primitives.LINEAR_OP
            moving = module.bound_propagation.RESHAPE_PRIMITIVES
        self.assertEqual(names, 3 * [["exp", "tanh", "Softplus"]])
        for table in (linear, moving):
            self.assertContainsSubset(("pad", "rev", "cumsum"), [p.name for p in table])
            self.assertLen(set(table), len(table))

    def test_methods_and_operations_that_it_lacks(self):
        box = np.zeros(2, np.float32), np.ones(2, np.float32)
        with _stub():
            with self.assertRaisesRegex(NotImplementedError, "the head .* no method"):
                jax_verify.bounds(jnp.tanh, *box, method="alpha")
            with self.assertRaisesRegex(bounds.UnsupportedError, "'sin'"):
                jax_verify.bounds(jnp.sin, *box, method="ibp")


if __name__ == "__main__":
    absltest.main()
