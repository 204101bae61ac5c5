"""A small vision transformer with known weights, and its forward pass in NumPy.

Arrays have Linen names; the position table has a row for the class token, which is
added to it behind the class token, as in the original code. Everything is float64, one
token and one head at a time.
"""

import numpy as np
from scipy import special

WIDTH, HEADS, MLP, DEPTH, PATCH, RESOLUTION, CLASSES = 8, 2, 12, 2, 4, 8, 5
NUM_PATCHES = (RESOLUTION // PATCH) ** 2
IMAGES = np.sin(0.05 * np.arange(2 * 8 * 8 * 3)).reshape(2, 8, 8, 3).astype(np.float32)
# Class feature of the first image with tanh and with erf GELU, LN eps 1e-6, float64.
TANH = [1.238129643, -0.256676340, -0.169237420, -0.363534324, -1.649423169,
        -0.867836437, 1.448416551, 1.379220033]  # fmt: skip
ERF = [1.23816579, -0.25665590, -0.16923439, -0.36353946, -1.64942731, -0.86785218,
       1.44840041, 1.37920607]  # fmt: skip


def weights(shape, k):
    """0.3 sin(0.7 n + 1.3 k) cos(0.11 n (k + 1)) for n = 1, 2, ..., in float32."""
    n = np.arange(1, np.prod(shape) + 1)
    values = 0.3 * np.sin(0.7 * n + 1.3 * k) * np.cos(0.11 * n * (k + 1))
    return values.reshape(shape).astype(np.float32)


def scales(k):
    """Scales of a layer normalisation, around 1."""
    return (1 + weights((WIDTH,), k)).astype(np.float32)


def network(*, registers=0, layer_scale=False, swiglu=False, norm_pre=False,
            pre_logits=False, probe=False):  # fmt: skip
    """Arrays by flat name, with those that the options add."""
    d = WIDTH
    arrays = {
        "cls": weights((1, 1, d), 1),
        "embedding/kernel": weights((PATCH, PATCH, 3, d), 2),
        "embedding/bias": weights((d,), 3),
        "pos_embedding": weights((1, NUM_PATCHES + 1, d), 4),
        "Transformer/encoder_norm/scale": scales(5),
        "Transformer/encoder_norm/bias": weights((d,), 6),
        "head/kernel": weights((d, CLASSES), 7),
        "head/bias": weights((CLASSES,), 8),
    }
    for index in range(DEPTH):
        block, base = f"Transformer/encoderblock_{index}/", 20 * (index + 1)
        arrays |= {
            f"{block}LayerNorm_0/scale": scales(base),
            f"{block}LayerNorm_0/bias": weights((d,), base + 1),
            f"{block}LayerNorm_1/scale": scales(base + 2),
            f"{block}LayerNorm_1/bias": weights((d,), base + 3),
            **_attention(block, base + 4),
            **_mlp(block, base + 12, swiglu),
        }
        if layer_scale:
            arrays[f"{block}LayerScale_0"] = scales(base + 16)
            arrays[f"{block}LayerScale_1"] = scales(base + 17)
    if registers:
        arrays["registers"] = weights((1, registers, d), 80)
    if norm_pre:
        arrays |= {"norm_pre/scale": scales(81), "norm_pre/bias": weights((d,), 82)}
    if pre_logits:
        arrays["pre_logits/kernel"] = weights((d, d), 83)
        arrays["pre_logits/bias"] = weights((d,), 84)
    if probe:
        arrays |= {
            "MAPHead_0/probe": weights((1, 1, d), 90),
            "MAPHead_0/LayerNorm_0/scale": scales(91),
            "MAPHead_0/LayerNorm_0/bias": weights((d,), 92),
            **_attention("MAPHead_0/", 93),
            **_mlp("MAPHead_0/", 101, swiglu),
        }
    return arrays


def _attention(before, k):
    name, split = f"{before}MultiHeadDotProductAttention_0", (HEADS, WIDTH // HEADS)
    arrays = {}
    for offset, part in zip((0, 2, 4), ("query", "key", "value"), strict=True):
        arrays[f"{name}/{part}/kernel"] = weights((WIDTH, *split), k + offset)
        arrays[f"{name}/{part}/bias"] = weights(split, k + offset + 1)
    arrays[f"{name}/out/kernel"] = weights((*split, WIDTH), k + 6)
    arrays[f"{name}/out/bias"] = weights((WIDTH,), k + 7)
    return arrays


def _mlp(before, k, swiglu):
    name, hidden = f"{before}MlpBlock_0", 2 * MLP if swiglu else MLP
    return {
        f"{name}/Dense_0/kernel": weights((WIDTH, hidden), k),
        f"{name}/Dense_0/bias": weights((hidden,), k + 1),
        f"{name}/Dense_1/kernel": weights((MLP, WIDTH), k + 2),
        f"{name}/Dense_1/bias": weights((WIDTH,), k + 3),
    }


def parameters(arrays, dtype=np.float32):
    """By flat name in our module: the class token takes its row of the table."""
    arrays = {name: array.astype(dtype) for name, array in arrays.items()}
    table = arrays["pos_embedding"]
    arrays["pos_embedding"] = table[:, -NUM_PATCHES:]
    if "cls" in arrays:
        arrays["cls"] = arrays["cls"] + table[:, :1]
    return arrays


def features_by_block(arrays, *, images=IMAGES, gelu="tanh", eps=1e-6, pool="cls"):
    """`[depth, n, width]`: what pooling gives behind each block."""
    arrays = {name: array.astype(np.float64) for name, array in arrays.items()}
    per_image = [_blocks(arrays, x.astype(np.float64), gelu, eps) for x in images]
    return np.array(
        [
            [_pooled(arrays, tokens[index], gelu, eps, pool) for tokens in per_image]
            for index in range(DEPTH)
        ]
    )


def _blocks(arrays, image, gelu, eps):
    kernel = arrays["embedding/kernel"]
    patch, rows = len(kernel), []
    for top in range(0, image.shape[0], patch):
        for left in range(0, image.shape[1], patch):
            pixels = image[top : top + patch, left : left + patch]
            token = np.tensordot(pixels, kernel, 3) + arrays["embedding/bias"]
            rows.append(token)
    table = arrays["pos_embedding"][0]
    tokens = np.array(rows) + table[-len(rows) :]
    if "registers" in arrays:
        tokens = np.concatenate([arrays["registers"][0], tokens])
    if "cls" in arrays:
        first = arrays["cls"][0]
        if len(table) > len(rows):
            first = first + table[:1]
        tokens = np.concatenate([first, tokens])
    if "norm_pre/scale" in arrays:
        tokens = _layer_norm(arrays, "norm_pre", tokens, eps)
    outputs = []
    for index in range(DEPTH):
        block = f"Transformer/encoderblock_{index}/"
        y = _layer_norm(arrays, f"{block}LayerNorm_0", tokens, eps)
        y = _attend(arrays, block, y, y)
        tokens = tokens + y * arrays.get(f"{block}LayerScale_0", 1)
        y = _layer_norm(arrays, f"{block}LayerNorm_1", tokens, eps)
        y = _two_layers(arrays, block, y, gelu)
        tokens = tokens + y * arrays.get(f"{block}LayerScale_1", 1)
        outputs.append(tokens)
    return outputs


def _pooled(arrays, tokens, gelu, eps, pool):
    norm = "Transformer/encoder_norm"
    if pool == "fc_norm":
        mean = tokens[-NUM_PATCHES:].mean(axis=0, keepdims=True)
        return _layer_norm(arrays, norm, mean, eps)[0]
    tokens = _layer_norm(arrays, norm, tokens, eps)
    if pool == "cls":
        return tokens[0]
    if pool == "gap":
        return tokens[-NUM_PATCHES:].mean(axis=0)
    x = _attend(arrays, "MAPHead_0/", arrays["MAPHead_0/probe"][0], tokens)
    y = _layer_norm(arrays, "MAPHead_0/LayerNorm_0", x, eps)
    return (x + _two_layers(arrays, "MAPHead_0/", y, gelu))[0]


def _layer_norm(arrays, name, tokens, eps):
    centered = tokens - tokens.mean(axis=1, keepdims=True)
    variance = (centered**2).mean(axis=1, keepdims=True)
    scale, bias = arrays[f"{name}/scale"], arrays[f"{name}/bias"]
    return centered / np.sqrt(variance + eps) * scale + bias


def _attend(arrays, before, queries, tokens):
    name = f"{before}MultiHeadDotProductAttention_0"

    def heads(part, rows, head):
        kernel, bias = arrays[f"{name}/{part}/kernel"], arrays[f"{name}/{part}/bias"]
        return rows @ kernel[:, head] + bias[head]

    total = arrays[f"{name}/out/bias"]
    for head in range(HEADS):
        q, k = heads("query", queries, head), heads("key", tokens, head)
        probabilities = special.softmax(q @ k.T / np.sqrt(WIDTH / HEADS), axis=1)
        mixed = probabilities @ heads("value", tokens, head)
        total = total + mixed @ arrays[f"{name}/out/kernel"][head]
    return total


def _two_layers(arrays, before, tokens, gelu):
    name = f"{before}MlpBlock_0"
    h = tokens @ arrays[f"{name}/Dense_0/kernel"] + arrays[f"{name}/Dense_0/bias"]
    if h.shape[1] == 2 * MLP:
        h = h[:, :MLP] * special.expit(h[:, :MLP]) * h[:, MLP:]
    elif gelu == "tanh":
        h = h / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
    elif gelu == "erf":
        h = h * special.ndtr(h)
    else:
        h = h * special.expit(1.702 * h)
    return h @ arrays[f"{name}/Dense_1/kernel"] + arrays[f"{name}/Dense_1/bias"]
