"""The graph of a traced function: a short list of nodes.

Value 0 is the input, value i + 1 the result of node i. Each node is affine in what is
bounded, an elementwise function of it, a product, or known to intervals alone.
"""

import math
from typing import NamedTuple

import jax

from robustjax.bounds.operations import Operation


class Node(NamedTuple):
    """One operation on values that depend on the bounded input."""

    operation: Operation
    inputs: tuple[int, ...]  # values; value 0 is the input, value i + 1 is node i
    shape: tuple[int, ...]  # of its result
    unit: float = 0.0  # roundoff that bounds have to cover, relative; 0: none
    num_terms: int = 1  # maximum number of terms in a sum, forward or backward
    is_float: bool = True  # its result is neither a count nor a truth value

    @property
    def rounding(self) -> float:
        """Rounding error of a sum, relative to the sum of absolute values.

        n terms, rounded once each and then n - 1 times in any order, are off by at most
        n unit / (1 - n unit): Higham (2002), Accuracy and Stability, section 3.1. Twice
        that, for the sums of rows times these, and a few for their factors.
        """
        return (2 * self.num_terms + 32) * self.unit


class Graph(NamedTuple):
    """What a function does to its bounded input."""

    nodes: tuple[Node, ...]
    output: int  # a value
    shape: tuple[int, ...]  # of the input
    unit: float = 0.0  # as of its nodes

    @property
    def rounding(self) -> float:
        """Relative rounding error of a sum over the input, as that of a node."""
        return (2 * math.prod(self.shape) + 32) * self.unit

    def at(self, x: jax.Array) -> jax.Array:
        """The output at one input, computed in the dtype of x. [device]."""
        values = [x]
        for node in self.nodes:
            values.append(node.operation.point(*(values[i] for i in node.inputs)))
        return values[self.output]

    def shape_of(self, value: int) -> tuple[int, ...]:
        """Shape of a value."""
        return self.nodes[value - 1].shape if value else self.shape
