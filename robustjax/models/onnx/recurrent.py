"""Recurrent layers of ONNX: RNN, GRU and LSTM, one step after the other.

With inputs x_t, states h_t and c_t, weights W and R, biases b_W and b_R, the rows of
each gate in the order of the standard:

    RNN:  h_t = f(W x_t + R h_{t-1} + b_W + b_R)
    GRU:  z, r = f(...);  n = g(W x_t + R (r h_{t-1}) + b_W + b_R), or if
          linear_before_reset, g(W x_t + b_W + r (R h_{t-1} + b_R));
          h_t = (1 - z) n + z h_{t-1}
    LSTM: i, o, f = f(... + p c);  c_t = f c_{t-1} + i g(...);  h_t = o h(c_t)

The number of steps is known, so that they are written out, and bounds of the network
follow them as they follow other layers.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_MAX_INPUTS = 8  # x, W, R, b, lengths, h_0, c_0, peepholes
_Activation = Callable[[jax.Array], jax.Array]
_ACTIVATIONS: dict[str, _Activation] = {
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "softsign": jax.nn.soft_sign,
    "tanh": jnp.tanh,
}


class _Cell(NamedTuple):
    """The weights and functions of one direction."""

    inputs: jax.Array  # W, [gates * hidden, inputs]
    states: jax.Array  # R, [gates * hidden, hidden]
    input_bias: jax.Array  # [1, 1, gates * hidden]
    state_bias: jax.Array  # [1, gates * hidden]
    peepholes: jax.Array | None  # [1, 3 * hidden]
    activations: tuple[_Activation, ...]
    clip: float | None
    linear_before_reset: bool

    def clipped(self, x: jax.Array) -> jax.Array:
        return x if self.clip is None else jnp.clip(x, -self.clip, self.clip)


class _State(NamedTuple):
    h: jax.Array  # [n, hidden]
    c: jax.Array  # [n, hidden], unused except by the LSTM


def _times(x: jax.Array, weight: jax.Array) -> jax.Array:
    """X times the transposed weight, in full precision."""
    return jnp.matmul(x, weight.T, precision=lax.Precision.HIGHEST)


def _rnn_step(cell: _Cell, state: _State, gates: jax.Array) -> _State:
    (f,) = cell.activations
    total = gates + _times(state.h, cell.states) + cell.state_bias
    return _State(f(cell.clipped(total)), state.c)


def _gru_step(cell: _Cell, state: _State, gates: jax.Array) -> _State:
    f, g = cell.activations
    split = 2 * state.h.shape[-1]
    both = _times(state.h, cell.states[:split]) + cell.state_bias[:, :split]
    z, r = jnp.split(f(cell.clipped(gates[:, :split] + both)), 2, axis=1)
    weight, bias = cell.states[split:], cell.state_bias[:, split:]
    if cell.linear_before_reset:
        update = r * (_times(state.h, weight) + bias)
    else:
        update = _times(r * state.h, weight) + bias
    new = g(cell.clipped(gates[:, split:] + update))
    return _State((1 - z) * new + z * state.h, state.c)


def _lstm_step(cell: _Cell, state: _State, gates: jax.Array) -> _State:
    f, g, h = cell.activations
    total = gates + _times(state.h, cell.states) + cell.state_bias
    i, o, forget, c = jnp.split(total, 4, axis=1)
    if cell.peepholes is not None:
        of_i, of_o, of_forget = jnp.split(cell.peepholes, 3, axis=1)
        i, forget = i + of_i * state.c, forget + of_forget * state.c
    i, forget = f(cell.clipped(i)), f(cell.clipped(forget))
    new = forget * state.c + i * g(cell.clipped(c))
    if cell.peepholes is not None:
        o = o + of_o * new
    return _State(f(cell.clipped(o)) * h(new), new)


class _Kind(NamedTuple):
    step: Callable[[_Cell, _State, jax.Array], _State]
    gates: int
    activations: tuple[str, ...]  # defaults


_KINDS = {
    "GRU": _Kind(_gru_step, 3, ("sigmoid", "tanh")),
    "LSTM": _Kind(_lstm_step, 4, ("sigmoid", "tanh", "tanh")),
    "RNN": _Kind(_rnn_step, 1, ("tanh",)),
}


def _layer(
    kind: _Kind,
    *inputs: Any,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    activations: Sequence[bytes] | None = None,
    activation_alpha: Sequence[float] = (),
    activation_beta: Sequence[float] = (),
    clip: float | None = None,
    input_forget: int = 0,
    linear_before_reset: int = 0,
) -> tuple[jax.Array, ...]:
    """All states `[steps, directions, n, hidden]`, the last h, and the last c.

    With layout 1, n comes first in all of them and in the inputs.
    """
    del hidden_size  # that of the weights
    if activation_alpha or activation_beta or input_forget:
        raise ValueError(
            "activation_alpha, activation_beta and input_forget = 1 are not supported."
        )
    inputs += (None,) * (_MAX_INPUTS - len(inputs))
    x, weight, recurrent, bias, lengths, first, first_c, peepholes = inputs
    x = jnp.swapaxes(x, 0, 1) if layout else x  # [steps, n, inputs]
    if lengths is not None and not (
        isinstance(lengths, np.ndarray) and np.all(lengths == len(x))
    ):
        raise ValueError("only sequences of full length are supported.")
    directions, hidden = recurrent.shape[0], recurrent.shape[2]
    functions = _functions(activations, kind, directions)
    if bias is None:
        bias = jnp.zeros((directions, 2 * kind.gates * hidden), x.dtype)
    zeros = jnp.zeros((directions, x.shape[1], hidden), x.dtype)
    starts = [
        zeros if v is None else jnp.swapaxes(v, 0, 1) if layout else v
        for v in (first, first_c)
    ]
    outputs, ends = [], []
    for i in range(directions):
        is_backward = direction == "reverse" or i == 1
        cell = _Cell(
            inputs=weight[i],
            states=recurrent[i],
            input_bias=bias[i : i + 1, None, : kind.gates * hidden],
            state_bias=bias[i : i + 1, kind.gates * hidden :],
            peepholes=None if peepholes is None else peepholes[i : i + 1],
            activations=functions[i],
            clip=clip,
            linear_before_reset=bool(linear_before_reset),
        )
        state = _State(starts[0][i], starts[1][i])
        states, end = _run(kind, cell, state, x[::-1] if is_backward else x)
        outputs.append(states[::-1] if is_backward else states)
        ends.append(end)
    y = jnp.stack([jnp.stack(states) for states in outputs], axis=1)
    last = [jnp.stack(values) for values in zip(*ends, strict=True)]
    if layout:
        y = jnp.transpose(y, (2, 0, 1, 3))
        last = [jnp.swapaxes(v, 0, 1) for v in last]
    return (y, *last) if kind.gates == 4 else (y, last[0])


def _run(
    kind: _Kind, cell: _Cell, state: _State, x: jax.Array
) -> tuple[list[jax.Array], _State]:
    """The hidden states after each step, and the last state."""
    states = []
    gates = _times(x, cell.inputs) + cell.input_bias
    for step in range(len(x)):
        state = kind.step(cell, state, gates[step])
        states.append(state.h)
    return states, state


def _functions(
    names: Sequence[bytes] | None, kind: _Kind, directions: int
) -> list[tuple[_Activation, ...]]:
    """The activations of each direction."""
    count = len(kind.activations)
    given = [name.decode().lower() for name in names or ()]
    given = given or list(kind.activations) * directions
    unknown = set(given) - set(_ACTIVATIONS)
    if unknown or len(given) != count * directions:
        raise ValueError(
            f"expected {count * directions} activations of {sorted(_ACTIVATIONS)}, "
            f"got {given}."
        )
    functions = [_ACTIVATIONS[name] for name in given]
    return [tuple(functions[i * count :][:count]) for i in range(directions)]


def _rule(kind: _Kind) -> Callable[..., tuple[jax.Array, ...]]:
    return functools.partial(_layer, kind)


RULES = {name: _rule(kind) for name, kind in _KINDS.items()}
