"""The standard's own tests of its operators, as networks of one input of floats.

Each case has an operator with inputs and outputs. One input becomes that of a network,
the others become constants. Integers and booleans are cast from floats first.
"""

import importlib
import pkgutil

import jax
import numpy as np
import onnx
import onnx.backend.test.case.node as standard
import onnx_networks
from onnx import TensorProto, helper, numpy_helper

from robustjax.models.onnx import operators

_FLOATS = (
    TensorProto.FLOAT,
    TensorProto.DOUBLE,
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
)
_ROUNDING = {"bfloat16": 3e-2, "float16": 5e-3}  # of outputs that were rounded


def module_names():
    """Names of the modules that hold the cases, in order."""
    return sorted(info.name for info in pkgutil.iter_modules(standard.__path__))


def of_modules(names):
    """(name of the module, case) of all cases of one operator in these modules."""
    found = []
    with np.errstate(all="ignore"):
        for name in names:
            first = len(standard._NodeTestCases)
            importlib.import_module(f"{standard.__name__}.{name}")
            _CASES.setdefault(name, standard._NodeTestCases[first:])
            found += [(name, case) for case in _CASES[name] if _has_one_node(case)]
    return found


_CASES = {}  # by the module that defined them when it was imported


def _has_one_node(case):
    return len(case.model.graph.node) == 1 and "_expanded" not in case.name


def networks(case, *, only_first=True):
    """(network, its input) for each input that can vary, or for the first one.

    There is none if all inputs decide on shapes, or hold no numbers, or no entries.
    """
    inputs = [_array(value) for value in case.data_sets[0][0]]
    for position, name in enumerate(_varying(case.model.graph, inputs)):
        if position == 0 or not only_first:
            yield _network(case.model, inputs, name)


def outputs(case):
    """(name, array) of the expected outputs."""
    values = map(_array, case.data_sets[0][1])
    names = (value.name for value in case.model.graph.output)
    return list(zip(names, values, strict=True))


def tolerance(case, expected):
    """Relative and absolute tolerance of the case, at least that of rounding."""
    rounding = _ROUNDING.get(expected.dtype.name, 1e-5)
    return {"rtol": max(case.rtol, rounding), "atol": max(case.atol, 1e-6)}


@jax.jit
def evaluated(models_of_x):
    """Outputs for inputs with the batch axis as they are in the cases."""
    return [model.graph(model.params, x) for model, x in models_of_x]


def _array(value):
    is_proto = isinstance(value, TensorProto)
    return numpy_helper.to_array(value) if is_proto else np.asarray(value)


def _varying(graph, inputs):
    """Names of the inputs that hold numbers and need not be constants."""
    (node,) = graph.node
    positions = operators.CONSTANT_INPUTS.get(node.op_type, ())
    fixed = {node.input[i] for i in positions if i < len(node.input)}
    for value, array in zip(graph.input, inputs, strict=True):
        if value.name in fixed or not array.size or array.dtype.kind in "OSUc":
            continue
        with np.errstate(all="ignore"):
            wide = array.astype(np.float64)
            is_exact = np.array_equal(wide.astype(np.float32), wide, equal_nan=True)
            if is_exact or array.dtype == np.float64:
                yield value.name


def _network(model, inputs, name):
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph, arrays = model.graph, {}
    for value, array in zip(list(graph.input), inputs, strict=True):
        arrays[value.name] = array, value.type.tensor_type.elem_type
    x, kind = arrays.pop(name)
    del graph.input[:]
    source = "varied" if kind not in _FLOATS else name
    float_kind = kind if kind in _FLOATS else TensorProto.FLOAT
    graph.input.append(helper.make_tensor_value_info(source, float_kind, x.shape))
    if source != name:
        graph.node.insert(0, helper.make_node("Cast", [source], [name], to=kind))
    for other, (array, _) in arrays.items():
        graph.initializer.append(numpy_helper.from_array(array, other))
    model.ir_version = max(model.ir_version, 8)
    for opset in model.opset_import:  # the oldest cases are those of today as well
        opset.version = max(opset.version, 7)
    return model, np.asarray(x, np.float32)


def load(model, output):
    """The network up to an output, by way of a file."""
    return onnx_networks.load(model, output=output)
