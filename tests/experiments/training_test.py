"""Tests for the training run: resumption, outputs, refusals."""

import dataclasses
import json
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from unittest import mock

import children
import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from robustjax_experiments.training import recipe, training_step

from robustjax import data, models
from tests import real_data

_TRAIN = pathlib.Path(recipe.__file__).parents[2] / "train.py"


class _StopError(Exception):
    """Stands for a kill."""


def _stop_after(epoch):
    def on_epoch(row):
        if row["epoch"] == epoch:
            raise _StopError

    return on_epoch


_SMALL = {"mlp": {"features": ()}, "resnet20": {"num_blocks": 0, "width": 4}}


def _create_small(name, *, create=models.create, **options):
    """Models that compile fast: a linear one, and one of batch norm alone."""
    return create(name, **options, **_SMALL[name])


class _InFolder(parameterized.TestCase):
    """Gives each test a folder with a small data set: two classes, one brighter."""

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 2, 90)
        images = rng.random((90, 8, 8, 1)) / 2 + labels[:, None, None, None] / 2
        np.savez(
            self.folder / "data.npz",
            x_train=images[:60].astype(np.float32),
            y_train=labels[:60],
            x_test=images[60:].astype(np.float32),
            y_test=labels[60:],
        )

    def config(self, name="run", **changes):
        settings = {
            "dataset": str(self.folder / "data.npz"),
            "model": "mlp",
            "sigma": 0.3,
            "epochs": 5,
            "batch_size": 25,
            "save_every": 2,
            "learning_rate": 0.01,
        }
        return recipe.TrainConfig(workdir=str(self.folder / name), **settings | changes)

    def metrics(self, name="run"):
        """The rows of metrics.tsv without the seconds, which are the last column."""
        lines = (self.folder / name / "metrics.tsv").read_text().splitlines()
        return [line.rsplit("\t", 1)[0] for line in lines]


class ResumeTest(_InFolder):
    def setUp(self):
        super().setUp()
        self.enterContext(mock.patch.object(models, "create", _create_small))

    @parameterized.parameters(
        {"augment": "crop_flip", "stops": (3, 5)},  # between two saves, after the last
        {"optimizer": "sgd", "model": "resnet20", "stops": (3,)},
    )
    @pytest.mark.slow
    def test_resumed_equals_straight(self, stops, **changes):
        straight = recipe.run(self.config("straight", **changes))
        config = self.config("resumed", **changes)
        for stop in stops:
            with self.assertRaises(_StopError):
                recipe.run(config, on_epoch=_stop_after(stop))
            self.assertFalse((self.folder / "resumed" / "checkpoint").exists())
        log = self.folder / "resumed" / "metrics.tsv"
        log.write_text(log.read_text() + "6\t12\t0.1")  # as a kill may leave it
        resumed = recipe.run(config)
        one, two = (models.load(result["checkpoint"]) for result in (straight, resumed))
        jax.tree.map(np.testing.assert_array_equal, one.variables, two.variables)
        self.assertEqual("batch_stats" in one.variables, "model" in changes)
        self.assertEqual(self.metrics("straight"), self.metrics("resumed"))
        self.assertLen(self.metrics("resumed"), 6)

    def test_finished_run_returns_at_once_or_names_other_settings(self):
        first = recipe.run(self.config(epochs=1))
        with mock.patch.object(data, "load", side_effect=AssertionError):
            moved = self.config(epochs=1, save_every=7)
            self.assertEqual(recipe.run(moved), first)
            message = r"sigma \(0.3 there, 0.5 asked\), seed \(0 there, 3 asked\)"
            with self.assertRaisesRegex(ValueError, message):
                recipe.run(self.config(epochs=1, sigma=0.5, seed=3))

    @pytest.mark.newest
    def test_damaged_or_other_unfinished_run_is_named(self):
        config = self.config(epochs=4)
        with self.assertRaises(_StopError):
            recipe.run(config, on_epoch=_stop_after(3))
        with self.assertRaisesRegex(ValueError, r"sigma \(0.3 there, 0.5 asked\)"):
            recipe.run(dataclasses.replace(config, sigma=0.5))
        for name in ("metrics.tsv", "state/2/default/_METADATA"):
            file = self.folder / "run" / name
            content = file.read_bytes()
            file.write_bytes(b"")
            with self.assertRaisesRegex(ValueError, "state.*from the start") as caught:
                recipe.run(config)
            self.assertNotIn("\n", str(caught.exception))
            file.write_bytes(content)
        self.assertEqual(recipe.run(config)["epoch"], 4)


class RunTest(_InFolder):
    def setUp(self):
        super().setUp()
        self.enterContext(mock.patch.object(models, "create", _create_small))

    def test_leaves_a_checkpoint_that_knows_its_training(self):
        config = self.config(dtype="bfloat16", max_images=55)
        augmented = mock.Mock(wraps=training_step.augmented)
        with (
            mock.patch.object(training_step, "augmented", augmented),
            mock.patch.object(recipe, "_TEST_BATCH", 7),  # the last one is filled up
        ):
            result = recipe.run(config)
        self.assertEqual(augmented.call_count, 1)  # called while tracing: no retrace
        self.assertEqual((result["epoch"], result["step"]), (5, 10))

        checkpoint = models.load(result["checkpoint"], expect="mlp")
        facts = checkpoint.training
        self.assertEqual((facts["sigma"], facts["epochs"]), (0.3, 5))
        self.assertEqual(
            facts["metrics"] | {"checkpoint": result["checkpoint"]}, result
        )
        self.assertEqual(checkpoint.input_shape, (8, 8, 1))
        self.assertEqual(checkpoint.module.dtype, "bfloat16")
        settings = json.loads((self.folder / "run" / "train.json").read_text())
        self.assertEqual(settings, {k: v for k, v in facts.items() if k != "metrics"})
        self.assertNotIn("workdir", settings)
        self.assertFalse((self.folder / "run" / "state").exists())

        train = data.load(config.dataset, split="train").images[:55]
        self.assertAlmostEqual(checkpoint.module.mean[0], train.mean(), places=3)
        self.assertAlmostEqual(checkpoint.module.std[0], train.std(), places=3)
        test = data.load(config.dataset, split="test")
        logits = checkpoint.apply_fn(test.images)
        accuracy = (np.argmax(logits, axis=1) == test.labels).mean()
        self.assertAlmostEqual(result["test_accuracy"], accuracy, places=5)
        self.assertGreater(accuracy, 0.9)

    def test_divergence_is_named(self):
        config = self.config(optimizer="sgd", learning_rate=1e30, warmup=0.0)
        with self.assertRaisesRegex(ValueError, "diverged in epoch.*learning_rate"):
            recipe.run(config)

    def test_too_large_batch_is_refused_before_anything_is_written(self):
        with self.assertRaisesRegex(ValueError, "batch_size <= 60.*got 61"):
            recipe.run(self.config(batch_size=61))
        self.assertFalse((self.folder / "run").exists())


class ConfigTest(parameterized.TestCase):
    @parameterized.parameters(
        ({"workdir": ""}, "workdir"),
        ({"model": "vgg"}, "model 'vgg'"),
        ({"dtype": "float64"}, "dtype 'float64'"),
        ({"augment": "mixup"}, "augment 'mixup'.*crop_flip"),
        ({"optimizer": "lion"}, "optimizer 'lion'"),
        ({"sigma": -0.5}, "sigma.*-0.5"),
        ({"sigma": float("nan")}, "sigma.*nan"),
        ({"sigma": float("inf")}, "sigma.*inf"),
        ({"epsilon": 0.1}, "sigma=0 with a certified loss"),
        ({"model": "resnet20", "hidden": 8}, "hidden=0"),
        ({"weight_decay": -1.0}, "weight_decay.*-1"),
        ({"learning_rate": 0.0}, "learning_rate.*0"),
        ({"warmup": 1.0}, "warmup.*1.0"),
        ({"epochs": 0}, "epochs >= 1, got 0"),
        ({"batch_size": 0}, "batch_size >= 1, got 0"),
        ({"save_every": 0}, "save_every >= 1, got 0"),
        ({"max_images": -1}, "max_images >= 0, got -1"),
        ({"seed": -1}, "seed >= 0, got -1"),
    )
    def test_bad_setting_is_named(self, changes, message):
        with self.assertRaisesRegex(ValueError, message):
            recipe.TrainConfig(**{"workdir": "run"} | changes)


class ReportTest(absltest.TestCase):
    def test_a_terminal_shows_the_accuracies_beside_the_bar(self):
        row = {"loss": 0.5, "test_accuracy": 0.9, "test_accuracy_noisy": 0.75}
        bar = mock.Mock(disable=False)
        recipe._report(row, mock.Mock(), bar)
        bar.set_postfix_str.assert_called_once_with(
            "loss 0.500, test accuracy 0.9000, noisy 0.7500"
        )

    def test_test_images_that_are_those_of_training_are_told(self):
        train, test = (data.load("digits", split=s) for s in ("train", "test"))
        with self.assertNoLogs():
            recipe.warn_without_test("mine", train, test)
        with self.assertLogs() as logs:
            recipe.warn_without_test("mine", train, train)
        self.assertIn("mine has no test images of its own", logs.output[0])


class ScriptTest(_InFolder):
    def _train(self, *arguments):
        command = [sys.executable, str(_TRAIN), *arguments]
        return subprocess.run(
            command,
            env=children.environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    @pytest.mark.slow
    def test_trains_and_prints_the_accuracies(self):
        config = self.config(epochs=2, sigma=3.0)
        settings = [
            f"--{field.name}={getattr(config, field.name)}"
            for field in dataclasses.fields(config)
        ]
        process = self._train(*settings)
        self.assertEqual(process.returncode, 0, process.stderr)
        line = r"run/checkpoint: test accuracy (\S+), with noise (\S+) \(sigma 3.0\)"
        found = re.search(line, process.stdout)
        self.assertEqual(process.stderr.count("compiling"), 1)
        self.assertNotIn("%|", process.stderr)  # no bar: not a terminal
        metrics = recipe.run(config)  # finds the run: flags became this config
        self.assertEqual(metrics["epoch"], 2)
        for text, name in zip(found.groups(), ("", "_noisy"), strict=True):
            self.assertEqual(text, f"{metrics[f'test_accuracy{name}']:.4f}")


@pytest.mark.slow
class SlowTest(_InFolder):
    def test_killed_at_any_moment_it_continues(self):
        flags = {"dataset": "digits", "model": "mlp", "epochs": 60, "save_every": 3}
        straight = recipe.TrainConfig(workdir=str(self.folder / "one"), **flags)
        killed = recipe.TrainConfig(workdir=str(self.folder / "two"), **flags)
        command = [sys.executable, str(_TRAIN), f"--workdir={killed.workdir}"]
        command += [f"--{name}={value}" for name, value in flags.items()]
        log = self.folder / "two" / "metrics.tsv"
        for delay in (0.0, 0.13, 0.37, 0.61):
            process = subprocess.Popen(
                command, env=children.environment(), stderr=subprocess.DEVNULL
            )
            before = log.stat().st_mtime_ns if log.exists() else 0
            while process.poll() is None and (
                not log.exists() or log.stat().st_mtime_ns == before
            ):
                time.sleep(0.01)
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            process.wait()
        results = [recipe.run(config) for config in (straight, killed)]
        prints = [models.load(r["checkpoint"]).fingerprint for r in results]
        self.assertEqual(prints[0], prints[1])
        self.assertEqual(self.metrics("one"), self.metrics("two"))

    def test_cnn_on_digits(self):
        """At sigma 0.5; flagfiles_test looks at the same model at 0.25."""
        result = recipe.run(
            recipe.TrainConfig(workdir=str(self.folder), sigma=0.5, epochs=200)
        )
        self.assertGreater(result["test_accuracy"], 0.95)
        self.assertGreater(result["test_accuracy_noisy"], 0.78)

    def test_cnn_on_mnist(self):
        data_dir = str(real_data.folder("mnist").parent)
        config = recipe.TrainConfig(
            workdir=str(self.folder),
            dataset="mnist",
            data_dir=data_dir,
            sigma=0.5,
            epochs=2,
            batch_size=256,
        )
        result = recipe.run(config)
        self.assertGreater(result["test_accuracy"], 0.97)
        self.assertGreater(result["test_accuracy_noisy"], 0.94)


if __name__ == "__main__":
    absltest.main()
