"""The standard's own tests of its operators: they agree or are rejected."""

import re

import numpy as np
import onnx_node_cases
import pytest
from absl.testing import absltest, parameterized

from robustjax.models.onnx import operators

_REJECTED = {  # by a part of the name of a case
    r"FLOAT[48]|e[45]m[23]|e8m0|float4": "floats of 4 or 8 bits",
    r"INT[24]|int[24]\b": "integers of 2 or 4 bits",
    r"identity_(sequence|opt)": "values other than arrays",
    r"training": "operators in training",
    r"mask|with_argmax": "second outputs of dropout and pools",
    r"nonzero": "values that decide on a shape",
}
_QUICK = (  # modules whose first case the default suite computes
    "argmax cast celu convtranspose cumsum depthtospace einsum elu erf expand gather "
    "gathernd gelu groupnormalization gru hardmax hardsigmoid hardswish "
    "instance_normalization layernormalization lstm lppool lrn max maxpool mean "
    "meanvariancenormalization mish mod onehot pad pow prelu quantizelinear "
    "reduce_log_sum_exp reducel2 reducemax reducemean resize rnn scatternd selu "
    "shrink slice softsign spacetodepth split tile topk trilu upsample where"
)
_NUM_PARTS = 6
_CHUNK = 25  # networks of one compiled program


def _is_rejected(name):
    return any(re.search(part, name) for part in _REJECTED)


class NodesTest(parameterized.TestCase):
    def compare(self, cases):
        """Compares (name, case, network, input) with the expected outputs; counts."""
        waiting, num_compared = [], 0
        for name, case, network, x in cases:
            for output, expected in onnx_node_cases.outputs(case):
                try:
                    model = onnx_node_cases.load(network, output)
                except ValueError as error:
                    self.assertRegex(
                        str(error), "net.onnx: (node|output|oper|constant)"
                    )
                    self.assertTrue(_is_rejected(case.name) or not name, str(error))
                    continue
                waiting.append((model, x, case, expected))
            if len(waiting) >= _CHUNK:
                num_compared += self.flush(waiting)
        return num_compared + self.flush(waiting)

    def flush(self, waiting):
        """Compares what waits in one compiled program, and counts it."""
        found = onnx_node_cases.evaluated([(model, x) for model, x, *_ in waiting])
        for (_, _, case, expected), value in zip(waiting, found, strict=True):
            self.assertEqual(value.shape, expected.shape, case.name)
            np.testing.assert_allclose(
                np.asarray(value, np.float64),
                np.asarray(expected, np.float64),
                err_msg=case.name,
                **onnx_node_cases.tolerance(case, expected),
            )
        count = len(waiting)
        waiting.clear()
        return count

    @pytest.mark.newest
    def test_first_cases(self):
        first = {}
        names = _QUICK.split()
        for module, case in onnx_node_cases.of_modules(names):
            first.setdefault(module, case)
        self.assertLen(first, len(names))
        cases = [
            (module, case, network, x)
            for module, case in first.items()
            for network, x in onnx_node_cases.networks(case)
        ]
        self.assertGreaterEqual(self.compare(cases), len(names))

    @parameterized.parameters(*range(_NUM_PARTS))
    @pytest.mark.slow
    def test_all_cases_and_inputs(self, part):
        names = onnx_node_cases.module_names()[part::_NUM_PARTS]
        supported = set(operators.names())
        cases = (
            (module, case, network, x)
            for module, case in onnx_node_cases.of_modules(names)
            if case.model.graph.node[0].op_type in supported
            for network, x in onnx_node_cases.networks(case, only_first=False)
        )
        self.assertGreater(self.compare(cases), 100)

    @pytest.mark.slow
    def test_operators_that_are_defined_by_others(self):
        names = (
            "affinegrid",
            "attention",
            "center_crop_pad",
            "rotaryembedding",
            "swiglu",
        )
        cases = (
            ("", case, network, x)
            for _, case in onnx_node_cases.of_modules(names)
            for network, x in onnx_node_cases.networks(case)
        )
        self.assertGreater(self.compare(cases), 100)


if __name__ == "__main__":
    absltest.main()
