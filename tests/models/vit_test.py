"""Tests for vision transformers: sizes, values, options, and their positions."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import onnx.reference
import pytest
import random_variables
import scipy.ndimage
import vit_reference
from absl.testing import absltest, parameterized
from flax import traverse_util

from robustjax import models
from robustjax.models.vit import position_embeddings

_TINY = models.ViTConfig(
    width=8, heads=2, mlp=12, depth=2, patch=4, resolution=8, mean=(0.0,), std=(1.0,)
)


@jax.jit
def _apply(fns, x):
    return [fn(x) for fn in fns]


def _params(arrays, dtype="float32"):
    """Nested parameters of a network of `vit_reference`."""
    flat = vit_reference.parameters(arrays, np.dtype(dtype))
    return traverse_util.unflatten_dict(flat, sep="/")


class ConfigTest(parameterized.TestCase):
    @parameterized.parameters(
        # A row of the position table for the class token would add the width.
        ("vit_ti16", dict(width=192, mlp=768, heads=3, depth=12, patch=16), 5_524_224),
        ("vit_s16", dict(width=384, mlp=1536, heads=6, depth=12, patch=16), 21_665_280),
        ("vit_s32", dict(width=384, mlp=1536, heads=6, depth=12, patch=32), 22_493_568),
        ("vit_b8", dict(width=768, mlp=3072, heads=12, depth=12, patch=8), 85_807_104),
        (
            "vit_b16",
            dict(width=768, mlp=3072, heads=12, depth=12, patch=16),
            85_797_888,
        ),
        (
            "vit_b32",
            dict(width=768, mlp=3072, heads=12, depth=12, patch=32),
            87_454_464,
        ),
        (
            "vit_l16",
            dict(width=1024, mlp=4096, heads=16, depth=24, patch=16),
            303_300_608,
        ),
        (
            "vit_l32",
            dict(width=1024, mlp=4096, heads=16, depth=24, patch=32),
            305_509_376,
        ),
        (
            "vit_h14",
            dict(width=1280, mlp=5120, heads=16, depth=32, patch=14),
            630_763_520,
        ),
    )
    def test_sizes_are_those_of_the_table(self, name, fields, num_parameters):
        config = models.vit_config(name)
        self.assertEqual(config, models.ViTConfig(**fields))
        depth = 2 if name == "vit_ti16" else 1  # all blocks are alike
        module = models.VisionTransformer(dataclasses.replace(config, depth=depth))
        params = random_variables.shapes(module, (224, 224, 3))["params"]
        size, block = (
            sum(leaf.size for leaf in jax.tree.leaves(part))
            for part in (params, params["Transformer"]["encoderblock_0"])
        )
        self.assertEqual(size + (config.depth - depth) * block, num_parameters)

    def test_other_fields_can_be_changed(self):
        config = models.vit_config("vit_b14", resolution=518, registers=4)
        self.assertEqual((config.grid, config.registers, config.width), (37, 4, 768))

    @parameterized.parameters(
        (dict(heads=3), "heads=3 to divide self.width=8"),
        (dict(resolution=9), "self.patch=4 to divide self.resolution=9"),
        (dict(pool="max"), "Unknown pool 'max'"),
        (dict(gelu="relu"), "Unknown gelu 'relu'"),
        (dict(depth=0), "depth >= 1"),
        (dict(std=(0.0,)), "std to be positive"),
        (dict(class_token=False), "pool='cls' needs class_token"),
    )
    def test_impossible_values_are_named(self, changes, message):
        with self.assertRaisesRegex(ValueError, message):
            dataclasses.replace(_TINY, **changes)

    @parameterized.parameters("vit_x16", "b16", "vit_b", "vit_b16_224")
    def test_unknown_name(self, name):
        with self.assertRaisesRegex(ValueError, f"Unknown name '{name}'"):
            models.vit_config(name)


class VisionTransformerTest(parameterized.TestCase):
    @pytest.mark.newest
    def test_known_features(self):
        arrays = vit_reference.network()
        fns = [
            models.vit_features(dataclasses.replace(_TINY, gelu=gelu), _params(arrays))
            for gelu in ("tanh", "erf")
        ]
        found = _apply(fns, vit_reference.IMAGES)
        known = (vit_reference.TANH, vit_reference.ERF)
        for gelu, features, noted in zip(("tanh", "erf"), found, known, strict=True):
            reference = vit_reference.features_by_block(arrays, gelu=gelu)[-1]
            np.testing.assert_allclose(reference[0], noted, atol=1e-8)
            self.assertEqual(features.dtype, jnp.float32)
            np.testing.assert_allclose(features, reference, atol=1e-5)

    def test_every_option_equals_numpy_in_float64(self):
        options = (
            dict(),
            dict(gelu="quick", norm_pre=True, pool="gap"),
            dict(gelu="erf", registers=3, layer_scale=True),
            dict(swiglu=True, layer_scale=True, pool="map", class_token=False),
            dict(pool="gap", class_token=False, ln_eps=1e-3),
            dict(pool="fc_norm", registers=1),
        )
        fns, references = zip(
            *(self._blocks(**changes) for changes in options), strict=True
        )
        with jax.enable_x64(True):
            found = _apply(fns, vit_reference.IMAGES)
        for changes, blocks, reference in zip(options, found, references, strict=True):
            with self.subTest(str(changes)):
                np.testing.assert_allclose(blocks, reference, rtol=0, atol=1e-12)

    def _blocks(self, **options):
        """The function that gives all blocks in float64, and what NumPy makes of it."""
        config = dataclasses.replace(_TINY, **options)
        made = ("registers", "layer_scale", "swiglu", "norm_pre")
        arrays = vit_reference.network(
            probe=config.pool == "map", **{k: options[k] for k in made if k in options}
        )
        if not config.class_token:
            del arrays["cls"]
        reference = vit_reference.features_by_block(
            arrays, gelu=config.gelu, eps=config.ln_eps, pool=config.pool
        )
        params = _params(arrays, "float64")
        fn = models.vit_features(config, params, output="blocks", dtype="float64")
        return fn, reference

    def test_the_last_block_gives_the_features_and_they_give_the_logits(self):
        arrays = vit_reference.network(pre_logits=True)
        config = dataclasses.replace(_TINY, num_classes=5, pre_logits=True)
        fns = [
            models.vit_features(config, _params(arrays), output=output)
            for output in ("blocks", "features", "logits")
        ]
        blocks, features, logits = map(np.asarray, _apply(fns, vit_reference.IMAGES))
        hidden = blocks[-1] @ arrays["pre_logits/kernel"]
        hidden = np.tanh(hidden + arrays["pre_logits/bias"].reshape(1, -1))
        np.testing.assert_allclose(features, hidden, atol=1e-5)
        expected = features @ arrays["head/kernel"]
        expected = expected + arrays["head/bias"].reshape(1, -1)
        np.testing.assert_allclose(logits, expected, atol=1e-5)

    def test_bfloat16_gives_float32_near_the_exact_features(self):
        arrays = vit_reference.network(layer_scale=True, registers=2)
        config = dataclasses.replace(_TINY, layer_scale=True, registers=2)
        exact = vit_reference.features_by_block(arrays)[-1]
        fn = models.vit_features(config, _params(arrays), dtype="bfloat16")
        (features,) = _apply([fn], vit_reference.IMAGES)
        self.assertEqual(features.dtype, jnp.float32)
        self.assertGreater(np.abs(features - exact).max(), 1e-5)
        np.testing.assert_allclose(features, exact, atol=0.05)

    def test_bfloat16_keeps_softmax_and_statistics_in_float32(self):
        params = _params(vit_reference.network())
        fn = models.vit_features(_TINY, params, dtype="bfloat16")
        program = str(jax.make_jaxpr(fn)(vit_reference.IMAGES))
        for operation in ("exp", "rsqrt"):
            self.assertRegex(program, rf":f32\S+ = {operation} ")
            self.assertNotRegex(program, rf":bf16\S+ = {operation} ")
        self.assertRegex(program, r":bf16\S+ = dot_general")

    def test_normalises_inside_and_clips_nothing(self):
        arrays = _params(vit_reference.network())
        mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
        config = dataclasses.replace(_TINY, mean=mean, std=std)
        x = 3 * vit_reference.IMAGES
        (inside,) = _apply([models.vit_features(config, arrays)], x)
        outside = (x - np.reshape(mean, (1, 1, 1, 3))) / np.reshape(std, (1, 1, 1, 3))
        (expected,) = _apply([models.vit_features(_TINY, arrays)], np.float32(outside))
        np.testing.assert_allclose(inside, expected, atol=2e-5)

    def test_other_weights_of_the_same_model_compile_once(self):
        params = _params(vit_reference.network())
        apply = jax.jit(chex.assert_max_traces(lambda fn, x: fn(x), n=1))
        for scale in (1.0, 0.5):
            scaled = jax.tree.map(lambda leaf, s=scale: s * leaf, params)
            same = dataclasses.replace(_TINY)
            apply(models.vit_features(same, scaled), vit_reference.IMAGES)

    def test_errors_name_what_is_wrong(self):
        fn = models.vit_features(_TINY, _params(vit_reference.network()))
        with self.assertRaisesRegex(
            ValueError, r"\[n, 8, 8, channels\].*\(1, 12, 8, 3"
        ):
            fn(jnp.zeros((1, 12, 8, 3)))
        with self.assertRaisesRegex(ValueError, "floats, got uint8"):
            fn(jnp.zeros((1, 8, 8, 3), jnp.uint8))
        with self.assertRaisesRegex(ValueError, "Unknown output 'tokens'"):
            models.vit_features(_TINY, {}, output="tokens")
        with self.assertRaisesRegex(ValueError, "num_classes is 0"):
            models.vit_features(_TINY, fn.args[0], output="logits")(
                vit_reference.IMAGES
            )


def _cubic(distance, a):
    """The kernel of Keys in expanded form."""
    t = abs(distance)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def _resample(line, new, rule):
    """One line of numbers, one output at a time."""
    old, values = len(line), []
    for index in range(new):
        step = old / (new + 0.1) if rule == "dinov2" else old / new
        center, value, total = (index + 0.5) * step - 0.5, 0.0, 0.0
        for point in range(-10 * old, 11 * old):
            if rule == "timm":
                inside = 0 <= point < old
                weight = inside * _cubic((point - center) / max(step, 1), -0.5)
            elif rule in ("dinov2", "transformers"):
                weight = _cubic(point - center, -0.75)
            else:
                weight = max(0.0, 1 - abs(point - center))
            value += weight * line[min(max(point, 0), old - 1)]
            total += weight
        values.append(value / total)
    return np.array(values)


class PositionsTest(parameterized.TestCase):
    @parameterized.product(
        sizes=((4, 7), (7, 4), (5, 2)), rule=position_embeddings.RULES
    )
    def test_equals_another_implementation(self, sizes, rule):
        old, new = sizes
        grid = np.random.default_rng(0).standard_normal((old, old, 2))
        if rule == "vit_jax":
            expected = scipy.ndimage.zoom(grid, (new / old, new / old, 1), order=1)
        else:
            rows = np.apply_along_axis(_resample, 0, grid, new, rule)
            expected = np.apply_along_axis(_resample, 1, rows, new, rule)
        table = grid.reshape(1, -1, 2)
        actual = position_embeddings.resize_positions(table, new, rule=rule)
        np.testing.assert_allclose(actual.reshape(new, new, 2), expected, atol=1e-12)

    @parameterized.parameters(
        (
            "timm",
            5,
            [-0.7205411178, 1.7337369755, 8.4716981132, 26.0902562658, 37.0224279103],
        ),
        ("timm", 2, [2.8711691216, 30.2845291127]),
        ("timm_npz", 5, [0.0, 3.6, 9.0, 25.2, 36.0]),
        ("timm_npz", 2, [2.875, 32.125]),
        (
            "dinov2",
            5,
            [-0.9168638243, 1.2145704619, 7.5784485851, 23.9581767966, 36.8537149015],
        ),
        ("dinov2", 2, [1.2503161383, 29.1471598482]),
    )
    def test_equals_the_interpolation_of_pytorch(self, rule, side, expected):
        # torch.nn.functional.interpolate on 0, 1, 4, 9, ... as a 3 x 3 grid, its first
        # column: bicubic with antialias; bilinear; bicubic with a scale factor.
        table = np.arange(9.0).reshape(1, 9, 1) ** 2
        resized = position_embeddings.resize_positions(table, side, rule=rule)
        column = resized.reshape(side, side)[:, 0]
        np.testing.assert_allclose(column, expected, atol=1e-9)

    @parameterized.product(
        rule=("dinov2", "transformers", "timm_npz"), sizes=((9, 4), (4, 9), (6, 5))
    )
    def test_equals_the_operator_of_onnx(self, rule, sizes):
        old, new = sizes
        grid = np.random.default_rng(2).standard_normal((old, old))
        mode = "linear" if rule == "timm_npz" else "cubic"
        node = onnx.helper.make_node(
            "Resize", ["x", "", "scales"], ["y"], mode=mode, cubic_coeff_a=-0.75,
            coordinate_transformation_mode="half_pixel",
        )  # fmt: skip
        scale = (new + 0.1 * (rule == "dinov2")) / old
        (expected,) = onnx.reference.ReferenceEvaluator(node).run(
            None, {"x": grid, "scales": np.array([scale, scale])}
        )
        table = grid.reshape(1, -1, 1)
        actual = position_embeddings.resize_positions(table, new, rule=rule)
        np.testing.assert_allclose(actual.reshape(new, new), expected, atol=1e-5)

    def test_the_offset_of_dinov2_is_no_rounding_error(self):
        """From 37 x 37 to 16 x 16 patches, as published models at 224 pixels."""
        table = np.random.default_rng(3).standard_normal((1, 37**2, 4))
        resized = [
            position_embeddings.resize_positions(table, 16, rule=rule)
            for rule in ("dinov2", "transformers")
        ]
        self.assertGreater(np.abs(resized[0] - resized[1]).max(), 0.1)

    @parameterized.parameters("dinov2", "transformers")
    def test_models_with_registers_resize_as_timm(self, rule):
        table = np.random.default_rng(1).standard_normal((1, 16, 2))
        resize = position_embeddings.resize_positions
        np.testing.assert_array_equal(
            resize(table, 3, rule=rule, registers=4), resize(table, 3, rule="timm")
        )
        self.assertEqual(position_embeddings.effective_rule(rule, registers=4), "timm")
        self.assertEqual(position_embeddings.effective_rule(rule, registers=0), rule)

    def test_a_constant_stays_and_the_type_too(self):
        for rule in position_embeddings.RULES:
            table = np.full((1, 9, 2), 0.7, np.float32)
            resized = position_embeddings.resize_positions(table, 5, rule=rule)
            self.assertEqual((resized.shape, resized.dtype), ((1, 25, 2), np.float32))
            np.testing.assert_allclose(resized, 0.7, rtol=1e-6)

    def test_unknown_rule(self):
        with self.assertRaisesRegex(ValueError, "Unknown rule 'bicubic'"):
            position_embeddings.resize_positions(np.zeros((1, 4, 1)), 3, rule="bicubic")


if __name__ == "__main__":
    absltest.main()
