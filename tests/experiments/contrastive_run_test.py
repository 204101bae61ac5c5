"""The script of robust representations: a run, how it resumes, what it refuses."""

import dataclasses
import json
import math
import pathlib
import tempfile
from unittest import mock

import contrastive
import contrastive_evaluation
import contrastive_methods
import contrastive_report
import contrastive_training
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from contrastive_methods import METHODS, Objective

from robustjax import contrastive as losses
from robustjax import data, models

_QUICK = {
    "methods": ("simclr", "intnacl"), "num_seeds": 2, "model": "mlp", "width": 8,
    "hidden": 8, "projection": 4, "epochs": 2, "batch_size": 64, "max_images": 128,
    "max_examples": 60, "probe_epochs": 1, "pgd_steps": 3, "apgd_steps": 5,
    "probes": ("standard", "adversarial", "full"), "save_every": 1,
    "eval_batch_size": 50,
}  # fmt: skip


def _config(folder, **changes):
    return contrastive.ContrastiveConfig(workdir=str(folder), **(_QUICK | changes))


class RunTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def test_a_run_leaves_tables_a_page_and_classifiers(self):
        summary = contrastive.run(_config(self.folder / "run"))
        names = {path.name for path in (self.folder / "run").iterdir()}
        wanted = {"flags.txt", "versions.json", "summary.json", "accuracies.tsv"}
        pictures = {f"accuracies_digits_{probe}.png" for probe in _QUICK["probes"]}
        self.assertEqual(names, wanted | pictures | {"methods", "report.html"})
        table = {
            (row["method"], row["probe"], row["attack"], row["epsilon"]): row
            for row in summary["accuracies"]
        }
        self.assertLen(table, 2 * (1 + 3 * 5))
        self.assertEqual({row["num_seeds"] for row in table.values()}, {2})
        self.assertEqual(summary["methods"]["intnacl"]["work"], 3.0)
        for method in _QUICK["methods"]:
            for probe in _QUICK["probes"]:
                clean, weak, strong = (
                    table[method, probe, *cell]["mean"]
                    for cell in (("clean", 0.0), ("pgd", 0.05), ("pgd", 0.1))
                )
                self.assertGreaterEqual(clean, weak)
                self.assertGreaterEqual(weak, strong)
        page = (self.folder / "run" / "report.html").read_text()
        for word in ("IntNaCl", "APGD 0.1", "base64", "full probe"):
            self.assertIn(word, page)
        self._check_classifier(table["intnacl", "full", "clean", 0.0])

    def _check_classifier(self, row):
        """What is saved is what was measured."""
        test = data.load("digits", split="test")
        found = []
        for seed in (0, 1):
            path = self.folder / "run" / "methods" / "intnacl" / f"digits_full_{seed}"
            checkpoint = models.load(path)
            apply_fn = models.classifier(checkpoint.module, checkpoint.variables)
            predicted = np.asarray(apply_fn(test.images[:60])).argmax(axis=1)
            found.append(np.mean(predicted == test.labels[:60]))
        self.assertAlmostEqual(np.mean(found), row["mean"], places=5)
        self.assertAlmostEqual(
            np.std(found, ddof=1), row["standard_deviation"], places=5
        )

    def test_goes_on_where_it_was_killed(self):
        config = _config(
            self.folder / "run", methods=("intnacl",), probes=("standard",)
        )
        whole = contrastive.run(
            dataclasses.replace(config, workdir=str(self.folder / "a"))
        )
        real = contrastive_training._epoch

        def killed(*args, epoch, **kwargs):
            if epoch == 2:
                raise KeyboardInterrupt
            return real(*args, epoch=epoch, **kwargs)

        with (
            mock.patch.object(contrastive_training, "_epoch", killed),
            self.assertRaises(KeyboardInterrupt),
        ):
            contrastive.run(config)
        resumed = contrastive.run(config)
        self.assertEqual(resumed["accuracies"], whole["accuracies"])
        lines = [
            (self.folder / run / "methods" / "intnacl" / "metrics.tsv").read_text()
            for run in ("a", "run")
        ]
        first, second = (
            [line.split("\t")[:-1] for line in text.splitlines()] for text in lines
        )
        self.assertEqual(first, second)
        self.assertLen(first, 1 + 2 * 2)
        with self.assertRaisesRegex(ValueError, "temperature"):
            contrastive.run(dataclasses.replace(config, temperature=0.1))

    def test_a_seed_is_the_same_alone_and_among_others(self):
        # wide enough that no gradient vanishes, whose sign would be that of rounding
        config = _config(self.folder, epochs=1, width=64, hidden=64, projection=32)
        alone = dataclasses.replace(config, num_seeds=1, seed=1)
        images = data.load("digits", split="train").images[:128]
        losses_found = []
        for name, settings in (("two", config), ("one", alone)):
            contrastive_training.train(
                settings, _objective(settings), images, folder=self.folder / name,
                name=name,
            )  # fmt: skip
            lines = (self.folder / name / "metrics.tsv").read_text().splitlines()[1:]
            losses_found.append([float(line.split("\t")[2]) for line in lines])
        (first, second), (single,) = losses_found
        self.assertAlmostEqual(second, single, delta=1e-4 * single)
        self.assertGreater(abs(first - second), 1e-3 * single)

    def test_a_step_is_compiled_once(self):
        config = _config(self.folder)
        compiled = []
        real = contrastive_training._make_step

        def counted(*args):
            compiled.append(real(*args))
            return compiled[-1]

        images = data.load("digits", split="train").images[:128]
        with mock.patch.object(contrastive_training, "_make_step", counted):
            contrastive_training.train(
                config, _objective(config), images, folder=self.folder, name="run"
            )
        self.assertEqual(compiled[0]._cache_size(), 1)

    def test_transfer_has_tables_of_its_own(self):
        other = data.load("digits", split="test")
        real = data.load

        def load(name, **kwargs):
            return other if name == "other" else real(name, **kwargs)

        config = _config(
            self.folder / "run", methods=("simclr",), probes=("standard",),
            transfer="other", num_seeds=1, epochs=1,
        )  # fmt: skip
        with mock.patch.object(data, "load", load):
            summary = contrastive.run(config)
        places = {row["data"] for row in summary["accuracies"]}
        self.assertEqual(places, {"digits", "other"})
        own = self.folder / "run" / "methods" / "simclr"
        self.assertTrue((own / "other_standard_0").is_dir())
        with self.assertRaisesRegex(ValueError, "same shape"):
            contrastive.run(dataclasses.replace(config, transfer="digits"))


def _objective(config, method="intnacl", module=None):
    if module is None:
        module = contrastive_methods.create_encoder(
            config.model, hidden=config.hidden, width=config.projection,
            options=config.model_options(),
        )  # fmt: skip
    augment = contrastive_methods.augmentation("shift", image_shape=(8, 8, 1))
    return Objective(METHODS[method], module, augment, config)


class _Pixels(nn.Module):
    """Embeddings that are the pixels."""

    @nn.compact
    def __call__(self, x, *, train=False):
        scale = self.param("scale", nn.initializers.ones, ())
        return scale * x.reshape(len(x), -1)


class ObjectiveTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.images = jax.random.uniform(jax.random.key(0), (6, 8, 8, 1))
        self.key = jax.random.key(1)

    def _loss(self, method, **settings):
        objective = _objective(_config("unused", **settings), method, _Pixels())
        params = objective.module.init(self.key, self.images)["params"]
        loss, (_, metrics) = jax.jit(objective)(params, {}, self.key, self.images)
        return loss, metrics

    def _views(self, num_views):
        view_key = jax.random.split(self.key, 3)[0]
        augment = contrastive_methods.augmentation("shift", image_shape=(8, 8, 1))
        return losses.make_views(view_key, self.images, augment, num_views=num_views)

    @parameterized.parameters(
        ("simclr", losses.nt_xent, {}),
        ("debiased", losses.debiased, {"tau_plus": 0.2}),
        ("hard", losses.hard_negative, {"tau_plus": 0.2, "beta": 2.0}),
    )
    def test_clean_methods_are_the_presets(self, name, preset, options):
        loss, _ = self._loss(name, tau_plus=0.2, beta=2.0)
        flat = self._views(2).reshape(2, 6, -1)
        np.testing.assert_allclose(loss, preset(flat, **options)[0], rtol=1e-5)

    @parameterized.parameters("adv", "intcl", "intnacl")
    def test_adversarial_methods_add_a_larger_term(self, name):
        loss, metrics = self._loss(name, train_epsilon=0.3, adversarial_weight=0.5)
        total = metrics["clean_loss"] + 0.5 * metrics["adversarial_loss"]
        np.testing.assert_allclose(loss, total, rtol=1e-6)
        _, near = self._loss(name, train_epsilon=1e-4, adversarial_weight=0.5)
        self.assertGreater(metrics["adversarial_loss"], near["adversarial_loss"] + 0.05)
        np.testing.assert_allclose(metrics["clean_loss"], near["clean_loss"], rtol=1e-5)

    def test_mixed_inputs_are_in_the_order_of_positives(self):
        seen = self._views(4)
        positives = losses.from_views(
            seen.reshape(4, 6, -1), num_anchor_views=2
        ).positives
        found = contrastive_methods._mixed_inputs(self.key, seen, mixing=1.0)
        np.testing.assert_array_equal(found.reshape(positives.shape), positives)
        numbers = jnp.broadcast_to(jnp.arange(6.0)[None, :, None], (4, 6, 1))
        others = contrastive_methods._mixed_inputs(self.key, numbers, mixing=0.0)
        found = np.asarray(others)[..., 0]
        self.assertTrue(np.all(found != np.tile(np.arange(6), 2)))

    @parameterized.parameters((1.0, losses.mean_of_logs()), (0.5, None))
    def test_mixed_neighbours_have_their_form(self, mixing, form):
        loss, _ = self._loss("nacl", form="soft_target", mixing=mixing)
        seen, mix_key = self._views(4), jax.random.split(self.key, 3)[2]
        inputs = contrastive_methods._mixed_inputs(mix_key, seen, mixing=mixing)
        batch = losses.from_views(
            seen.reshape(4, 6, -1), num_anchor_views=2, mixed=inputs.reshape(3, 12, -1)
        )
        expected, _ = losses.compose(
            losses.similarity(0.5), losses.hard(1.0), losses.debias(0.1),
            form or losses.soft_target(mixing),
        )(batch)  # fmt: skip
        np.testing.assert_allclose(loss, expected, rtol=1e-5)

    @parameterized.parameters(("simclr", 1.0), ("nacl", 2.0), ("adv", 2.0),
                              ("intcl", 2.0), ("intnacl", 3.0))  # fmt: skip
    def test_work_counts_encoder_passes(self, name, expected):
        config = _config("unused")
        objective = _objective(config, name)
        self.assertEqual(objective.work, expected)
        mixed = dataclasses.replace(config, form="soft_target", attack_steps=5)
        passes = {"nacl": 4 + 6, "intnacl": 4 + 6 + 6, "adv": 2 + 6, "intcl": 2 + 6}
        self.assertEqual(_objective(mixed, name).work, passes.get(name, 2) / 2)
        matched = dataclasses.replace(config, epochs=30, compute_matched=True)
        plan = contrastive_training.make_plan(matched, num_images=130, work=expected)
        self.assertEqual(plan.num_epochs, round(30 / expected))
        self.assertEqual(plan.steps_per_epoch, 2)

    def test_chunks_change_memory_alone(self):
        config = _config("unused")
        losses_found = []
        for size in (0, 6):
            objective = _objective(dataclasses.replace(config, chunk_size=size))
            params = objective.module.init(self.key, self.images)["params"]
            losses_found.append(
                jax.jit(jax.value_and_grad(lambda p, o=objective: o(
                    p, {}, self.key, self.images)[0]))(params)
            )  # fmt: skip
        one, two = map(jax.tree.leaves, losses_found)
        for a, b in zip(one, two, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

    def test_bfloat16_encodes_and_losses_are_float32(self):
        config = _config("unused", dtype="bfloat16")
        objective = _objective(config)
        params = objective.module.init(self.key, self.images)["params"]
        loss, _ = jax.jit(objective)(params, {}, self.key, self.images)
        full = _objective(_config("unused"))
        expected, _ = jax.jit(full)(params, {}, self.key, self.images)
        self.assertEqual(loss.dtype, jnp.float32)
        np.testing.assert_allclose(loss, expected, rtol=0.05)
        self.assertNotEqual(loss, expected)

    @pytest.mark.slow
    def test_batch_statistics_are_those_of_clean_views(self):
        config = _config("unused", model="resnet20", width=4)
        found = []
        for name in ("hard", "intcl"):
            objective = _objective(config, name)
            statistics = dict(objective.module.init(self.key, self.images))
            params = statistics.pop("params")
            _, (updated, _) = objective(params, statistics, self.key, self.images)
            self.assertGreater(_distance(updated, statistics), 0.01)
            found.append(updated)
        self.assertLess(_distance(*found), 1e-6)


def _distance(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)


class DifferencesTest(parameterized.TestCase):
    def test_noise_of_seeds_and_of_images(self):
        one, other = np.array([0.6, 0.7, 0.8]), np.array([0.5, 0.5, 0.5])
        found = contrastive_report._difference(one, other, 100)
        share = 71 / 102  # one more image right and one more wrong
        error = math.sqrt((share * (1 - share) + 0.25) / 100 + 0.01 / 3)
        self.assertAlmostEqual(found["standard_error"], error, places=6)
        self.assertAlmostEqual(found["difference"], 0.2, places=6)
        self.assertFalse(found["is_within_noise"])
        self.assertTrue(
            contrastive_report._difference(one, other, 30)["is_within_noise"]
        )
        alone = contrastive_report._difference(one[:1], other[:1], 100)
        share = 61 / 102
        error = math.sqrt((share * (1 - share) + 0.25) / 100)
        self.assertAlmostEqual(alone["standard_error"], error, places=6)
        none = contrastive_report._difference(np.zeros(1), np.zeros(1), 100)
        self.assertGreater(none["standard_error"], 0.01)

    def test_logits_that_are_no_numbers_are_no_hits(self):
        def apply_fn(x):
            return jnp.where(x[:, :1] > 0, jnp.array([[1.0, 0.0]]), jnp.nan)

        found = contrastive_evaluation._kept_clean(
            jax.tree_util.Partial(apply_fn), jnp.array([[1.0], [-1.0]]), jnp.zeros(2)
        )
        np.testing.assert_array_equal(found, [True, False])


class ConfigTest(parameterized.TestCase):
    @parameterized.parameters(
        ({"workdir": ""}, "workdir"),
        ({"methods": ("simclr", "simclr")}, "once"),
        ({"methods": ("moco",)}, "moco"),
        ({"probes": ()}, "standard"),
        ({"temperature": 0.0}, "temperature"),
        ({"tau_plus": 1.0}, "tau_plus"),
        ({"beta": -1.0}, "beta"),
        ({"mixing": 1.5}, "mixing"),
        ({"train_epsilon": -0.1}, "train_epsilon"),
        ({"epsilons": ("a",)}, "epsilons"),
        ({"epsilons": ()}, "epsilons"),
        ({"epsilons": ("0",)}, "epsilons"),
        ({"batch_size": 1}, "batch_size"),
        ({"form": "hard_target"}, "form"),
        ({"weights": "none"}, "weights"),
        ({"schedule": "linear"}, "schedule"),
        ({"dtype": "float16"}, "dtype"),
        ({"width": -1}, "width"),
        ({"channels": ("a",), "model": "cnn"}, "channels"),
        ({"channels": ("0",), "model": "cnn"}, "channels"),
        ({"channels": ("4",)}, "channels"),
        ({"num_positives": 0}, "num_positives"),
    )
    def test_bad_setting_is_named(self, changes, message):
        with self.assertRaisesRegex(ValueError, message):
            _config(changes.pop("workdir", "runs/x"), **changes)

    @parameterized.parameters(
        ({"batch_size": 500}, "batch_size"),
        ({"augment": "simclr"}, "3 channels"),
        ({"num_positives": 1}, "num_positives"),
        ({"model": "resnet20", "chunk_size": 8}, "chunk_size"),
        ({"transfer": "digits"}, "transfer"),
    )
    def test_what_does_not_suit_the_data_leaves_nothing(self, changes, message):
        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder, "run")
            with self.assertRaisesRegex(ValueError, message):
                contrastive.run(_config(place, **changes))
            self.assertFalse(place.exists())

    def test_divergence_names_the_method_and_the_seed(self):
        with tempfile.TemporaryDirectory() as folder:
            config = _config(pathlib.Path(folder, "run"), methods=("simclr",))
            real = contrastive_training._epoch

            def diverging(*args, **kwargs):
                state, figures = real(*args, **kwargs)
                figures["loss"] = np.array([1.0, math.nan])
                return state, figures

            with (
                mock.patch.object(contrastive_training, "_epoch", diverging),
                self.assertRaisesRegex(ValueError, "simclr diverged .* seed 1"),
            ):
                contrastive.run(config)


class DigitsTest(parameterized.TestCase):
    @pytest.mark.slow
    def test_integrated_losses_are_more_robust(self):
        with tempfile.TemporaryDirectory() as folder:
            config = contrastive.ContrastiveConfig(
                workdir=folder, methods=("simclr", "intcl", "intnacl"), num_seeds=3,
                probes=("standard",),
            )  # fmt: skip
            contrastive.run(config)
            text = pathlib.Path(folder, "summary.json").read_text()
        rows = json.loads(text)["accuracies"]
        table = {
            (row["method"], row["attack"], row["epsilon"]): row["mean"]
            for row in rows
            if row["probe"] == "standard"
        }
        robust, integrated, plain = (
            table[name, "pgd", 0.1] for name in ("intnacl", "intcl", "simclr")
        )
        self.assertGreaterEqual(robust, integrated - 0.02)
        self.assertGreaterEqual(robust, plain + 0.20)
        clean, other = (table[name, "clean", 0.0] for name in ("intnacl", "simclr"))
        self.assertGreaterEqual(clean, other - 0.01)
        for name in config.methods:
            weaker, stronger = (table[name, a, 0.1] for a in ("pgd", "apgd"))
            self.assertLessEqual(stronger, weaker + 0.01)


if __name__ == "__main__":
    absltest.main()
