"""Tests for pretrained vision transformers: one small network in every layout."""

import json
import os

import jax
import ml_dtypes
import numpy as np
import pytest
import random_variables
import vit_reference
import vit_writers
from absl.testing import absltest, parameterized
from flax import traverse_util

from robustjax import models
from robustjax.models.vit import position_embeddings

_CHECKPOINT = os.environ.get("ROBUSTJAX_VIT_CHECKPOINT", "")
_apply = jax.jit(lambda fn, x: fn(x))


class LayoutsTest(vit_writers.FilesTest):
    @parameterized.named_parameters(
        ("augreg", vit_writers.augreg, {}),
        ("augreg_linen_numbering", vit_writers.augreg, dict(legacy=False)),
        ("augreg_opt_target", vit_writers.augreg, dict(prefix="opt/target/")),
        ("big_vision", vit_writers.big_vision, {}),
        ("big_vision_image_tower", vit_writers.big_vision, dict(prefix="params/img/")),
        ("big_vision_stacked", vit_writers.big_vision, dict(scan=True)),
    )
    def test_jax_layouts_give_the_known_features(self, write, options):
        stored = write(vit_reference.network(), **options)
        if "params/img/cls" in stored:
            stored["params/t"] = np.zeros(1, np.float32)  # another tower's
        config, params = self.load(stored)
        self.assertEqual((config.gelu, config.ln_eps), ("tanh", 1e-6))
        self.assertEqual((config.num_classes, config.resolution), (5, 8))
        features = _apply(models.vit_features(config, params), vit_reference.IMAGES)
        np.testing.assert_allclose(features[0], vit_reference.TANH, atol=1e-5)

    @parameterized.named_parameters(
        ("timm", vit_writers.timm, {}, "timm"),
        ("dino", vit_writers.timm, {}, "dino"),
        ("hf_model", vit_writers.hf, {}, "hf_vit"),
        ("hf_classifier", vit_writers.hf, dict(prefix="vit."), "hf_vit"),
    )
    def test_torch_layouts_give_the_known_features(self, write, options, layout):
        stored = write(vit_reference.network(), **options)
        config, params = self.load(stored, layout=layout, ln_eps=1e-6)
        self.assertEqual(config.gelu, "erf")
        features = _apply(models.vit_features(config, params), vit_reference.IMAGES)
        np.testing.assert_allclose(features[0], vit_reference.ERF, atol=1e-5)

    @parameterized.named_parameters(
        ("original", vit_writers.timm, {}),
        ("chunked", vit_writers.timm, dict(block="blocks.0.{}.")),
        ("timm", vit_writers.timm, dict(registers="reg_token")),
        ("hf", vit_writers.hf, dict(prefix="dinov2_with_registers.", dinov2=True)),
    )
    def test_dinov2_with_registers(self, write, options):
        arrays = vit_reference.network(registers=3, layer_scale=True)
        config, params = self.load(write(arrays, **options))
        self.assertEqual((config.registers, config.layer_scale), (3, True))
        self._assert_arrays(config, params, arrays)

    @parameterized.named_parameters(
        ("original", vit_writers.timm, dict(mlp=("mlp.w12", "mlp.w3"))),
        ("timm", vit_writers.timm, {}),
        ("hf", vit_writers.hf, dict(prefix="dinov2.", dinov2=True, swiglu=True)),
    )
    def test_dinov2_with_swiglu(self, write, options):
        arrays = vit_reference.network(layer_scale=True, swiglu=True)
        config, params = self.load(write(arrays, **options))
        self.assertEqual((config.swiglu, config.mlp), (True, 12))
        self._assert_arrays(config, params, arrays)

    def test_timm_positions_without_a_row_for_the_class_token(self):
        arrays = vit_reference.network(registers=2, layer_scale=True)
        table = arrays["pos_embedding"]
        split = arrays | {
            "cls": arrays["cls"] + table[:, :1], "pos_embedding": table[:, 1:].copy()
        }  # fmt: skip
        config, params = self.load(vit_writers.timm(split, registers="reg_token"))
        self._assert_arrays(config, params, arrays)

    @pytest.mark.newest
    def test_clip_needs_its_gelu(self):
        arrays = vit_reference.network(norm_pre=True)
        with self.assertRaisesRegex(ValueError, "clip: nothing tells gelu"):
            self.load(vit_writers.timm(arrays))
        config, params = self.load(vit_writers.timm(arrays), gelu="quick")
        self.assertEqual((config.norm_pre, config.ln_eps), (True, 1e-5))
        self._assert_arrays(config, params, arrays)

    @parameterized.parameters("gap", "map")
    def test_big_vision_without_a_class_token(self, pool):
        arrays = vit_reference.network(probe=pool == "map")
        del arrays["cls"]
        config, params = self.load(vit_writers.big_vision(arrays))
        self.assertEqual((config.pool, config.class_token), (pool, False))
        self._assert_arrays(config, params, arrays)

    def test_timm_with_average_pooling(self):
        arrays = vit_reference.network()
        config, params = self.load(vit_writers.timm(arrays, norm="fc_norm"))
        self.assertEqual((config.pool, config.class_token), ("fc_norm", True))
        self._assert_arrays(config, params, arrays)
        config, _ = self.load(vit_writers.timm(arrays), pool="gap")
        self.assertEqual((config.pool, config.class_token), ("gap", True))

    @parameterized.named_parameters(
        ("augreg", vit_writers.augreg), ("hf", vit_writers.hf)
    )
    def test_head_and_pre_logits_can_be_left_out(self, write):
        arrays = vit_reference.network(pre_logits=True)
        config, params = self.load(write(arrays))
        self.assertTrue(config.pre_logits)
        self.assertIn("pre_logits", params)
        config, params = self.load(write(arrays), head=False)
        self.assertEqual((config.pre_logits, config.num_classes), (False, 0))
        self.assertNoCommonElements(params, ["head", "pre_logits"])
        without = {k: v for k, v in arrays.items() if not k.startswith(("head", "pre"))}
        self._assert_arrays(config, params, without)

    @parameterized.parameters("npz", "safetensors")
    def test_bfloat16_becomes_float32(self, kind):
        arrays = vit_reference.network()
        rounded = {k: v.astype(ml_dtypes.bfloat16) for k, v in arrays.items()}
        write = vit_writers.augreg if kind == "npz" else vit_writers.timm
        config, params = self.load(write(rounded))
        exact = {k: v.astype(np.float32) for k, v in rounded.items()}
        for leaf in jax.tree.leaves(params):
            self.assertEqual(leaf.dtype, np.float32)
        self._assert_arrays(config, params, exact)
        if kind == "npz":
            with np.load(self.folder / "model.npz") as file:
                self.assertEqual(file["cls"].dtype, np.dtype("V2"))

    def _assert_arrays(self, config, params, arrays):
        """The very arrays that the file was made of, in our names and axis order."""
        flat = traverse_util.flatten_dict(params, sep="/")
        expected = vit_reference.parameters(arrays)
        self.assertCountEqual(flat, expected)
        for name, array in flat.items():
            np.testing.assert_array_equal(array, expected[name], name)
        module = models.VisionTransformer(config)
        shapes = random_variables.shapes(module, (8, 8, 3))["params"]
        self.assertEqual(jax.tree.map(np.shape, params), jax.tree.map(np.shape, shapes))


class SettingsTest(vit_writers.FilesTest):
    @parameterized.named_parameters(
        ("augreg", vit_writers.augreg, {}, {}, (0.5,)),
        ("big_vision", vit_writers.big_vision, {}, {}, (0.5,)),
        ("dinov2", vit_writers.timm, dict(layer_scale=True), {}, (0.485, 0.456, 0.406)),
        ("dino", vit_writers.timm, {}, dict(layout="dino"), (0.485, 0.456, 0.406)),
        ("clip", vit_writers.timm, dict(norm_pre=True), dict(gelu="erf"),
         (0.48145466, 0.4578275, 0.40821073)),
    )  # fmt: skip
    def test_normalisation_of_the_source(self, write, network, options, mean):
        stored = write(vit_reference.network(**network))
        config, _ = self.load(stored, mean=None, std=None, **options)
        self.assertEqual(config.mean, mean)

    def test_what_nothing_tells_must_be_given(self):
        path = self.write(vit_writers.timm(vit_reference.network()))
        with self.assertRaisesRegex(ValueError, "tells heads, mean, std; pass heads="):
            models.load_vit(path)

    def test_files_beside_tell_the_settings(self):
        path = self.write(vit_writers.hf(vit_reference.network()))
        config, _ = models.load_vit(path, heads=2, **vit_writers.RAW)
        self.assertEqual(config.ln_eps, 1e-12)
        settings = dict(num_attention_heads=2, layer_norm_eps=1e-5, hidden_act="gelu")
        (self.folder / "config.json").write_text(json.dumps(settings))
        images = dict(image_mean=[0.1, 0.2, 0.3], image_std=[1, 2, 3])
        (self.folder / "preprocessor_config.json").write_text(json.dumps(images))
        config, _ = models.load_vit(path)
        self.assertEqual((config.heads, config.ln_eps, config.gelu), (2, 1e-5, "erf"))
        self.assertEqual((config.mean, config.std), ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0)))
        config, _ = models.load_vit(path, ln_eps=1e-7)  # an argument is stronger
        self.assertEqual(config.ln_eps, 1e-7)
        settings["hidden_act"] = "relu"
        (self.folder / "config.json").write_text(json.dumps(settings))
        with self.assertRaisesRegex(ValueError, "Unknown hidden_act 'relu'"):
            models.load_vit(path)
        (self.folder / "config.json").write_text("{")
        with self.assertRaisesRegex(ValueError, "cannot read .*config.json"):
            models.load_vit(path)

    def test_timm_tells_the_normalisation_beside(self):
        path = self.write(vit_writers.timm(vit_reference.network()))
        text = json.dumps({"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}})
        (self.folder / "config.json").write_text(text)
        config, _ = models.load_vit(path, heads=2)
        self.assertEqual((config.mean, config.std), ((0.5,) * 3, (0.25,) * 3))


class ResolutionTest(vit_writers.FilesTest):
    def test_positions_follow_the_rule_and_the_class_token_stays(self):
        stored = vit_writers.augreg(vit_reference.network())
        _, before = self.load(stored)
        for rule in position_embeddings.RULES:
            config, params = self.load(stored, resolution=12, resize=rule)
            self.assertEqual((config.resolution, config.grid), (12, 3))
            expected = position_embeddings.resize_positions(
                np.asarray(before["pos_embedding"]), 3, rule=rule
            )
            np.testing.assert_array_equal(params["pos_embedding"], expected)
            np.testing.assert_array_equal(params["cls"], before["cls"])
        images = jax.ShapeDtypeStruct((1, 12, 12, 3), np.float32)
        features = jax.eval_shape(models.vit_features(config, params), images)
        self.assertEqual(features.shape, (1, 8))

    @parameterized.named_parameters(
        ("augreg", vit_writers.augreg, {}, {}, "vit_jax"),
        ("big_vision", vit_writers.big_vision, {}, {}, "vit_jax"),
        ("hf_vit", vit_writers.hf, {}, {}, "transformers"),
        ("hf_dinov2", vit_writers.hf, dict(layer_scale=True), dict(dinov2=True),
         "transformers"),
        ("hf_registers", vit_writers.hf, dict(layer_scale=True, registers=2),
         dict(dinov2=True), "timm"),
        ("dinov2", vit_writers.timm, dict(layer_scale=True), {}, "dinov2"),
        ("dinov2_registers", vit_writers.timm, dict(layer_scale=True, registers=2), {},
         "timm"),
        ("dinov2_registers_of_timm", vit_writers.timm,
         dict(layer_scale=True, registers=2), dict(registers="reg_token"), "timm"),
    )  # fmt: skip
    def test_the_rule_of_the_source_is_detected_and_told(self, write, net, form, rule):
        stored = write(vit_reference.network(**net), **form)
        config, before = self.load(stored)
        self.assertIsNone(config.position_rule)
        config, params = self.load(stored, resolution=12)
        self.assertEqual((config.position_rule, config.grid), (rule, 3))
        table = np.asarray(before["pos_embedding"])
        expected = position_embeddings.resize_positions(table, 3, rule=rule)
        np.testing.assert_array_equal(params["pos_embedding"], expected)
        config, params = self.load(stored, resolution=12, resize="timm_npz")
        expected = position_embeddings.resize_positions(table, 3, rule="timm_npz")
        np.testing.assert_array_equal(params["pos_embedding"], expected)
        self.assertEqual(config.position_rule, "timm_npz")

    def test_timm_tells_its_rule_beside(self):
        path = self.write(vit_writers.timm(vit_reference.network(layer_scale=True)))
        options = dict(heads=2, resolution=12)
        self.assertEqual(models.load_vit(path, **options)[0].position_rule, "dinov2")
        text = json.dumps({"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}})
        (self.folder / "config.json").write_text(text)
        self.assertEqual(models.load_vit(path, **options)[0].position_rule, "timm")

    @parameterized.parameters({}, dict(layer_scale=True), dict(norm_pre=True))
    def test_what_nothing_tells_needs_a_rule(self, **network):
        stored = vit_writers.timm(vit_reference.network(**network))
        del stored["mask_token"]  # timm leaves it out, and so may others
        message = "of 8 pixels, and nothing tells .*resize=, one of .*transformers[.]"
        with self.assertRaisesRegex(ValueError, message):
            self.load(stored, resolution=12, gelu="erf")
        with self.assertRaisesRegex(ValueError, "Unknown resize 'cubic'"):
            self.load(stored, resize="cubic", gelu="erf")
        config, _ = self.load(stored, resolution=8, gelu="erf")
        self.assertEqual((config.resolution, config.position_rule), (8, None))

    def test_rules_that_there_are_not(self):
        with self.assertRaisesRegex(ValueError, "Unknown position_rule 'cubic'"):
            models.vit_config("vit_b16", position_rule="cubic")


@absltest.skipUnless(_CHECKPOINT, "ROBUSTJAX_VIT_CHECKPOINT names no weight file")
class RealCheckpointTest(absltest.TestCase):
    def test_loads_and_gives_finite_features_that_tell_images_apart(self):
        config, params = models.load_vit(_CHECKPOINT, head=False, mean=0.5, std=0.5)
        side = config.resolution
        images = np.random.default_rng(0).random((2, side, side, 3), dtype=np.float32)
        features = models.vit_features(config, params)(images)
        self.assertEqual(features.shape, (2, config.width))
        self.assertTrue(np.isfinite(features).all())
        self.assertGreater(np.abs(features[0] - features[1]).max(), 1e-3)


if __name__ == "__main__":
    absltest.main()
