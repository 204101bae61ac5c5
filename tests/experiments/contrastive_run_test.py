"""The script of robust representations: a run, how it resumes, what it refuses."""

import contextlib
import dataclasses
import functools
import json
import math
import pathlib
import tempfile
from unittest import mock

import contrastive
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_folders
from absl.testing import absltest, parameterized
from robustjax_experiments.configs.contrastive import METHODS
from robustjax_experiments.reports import contrastive as contrastive_report
from robustjax_experiments.studies import (
    contrastive_evaluation,
    contrastive_methods,
    contrastive_training,
)
from robustjax_experiments.studies.contrastive_methods import Objective
from robustjax_experiments.training import recipe

from robustjax import data, models, results

_QUICK = {  # attacks of probes in training and in evaluation are the same programs
    "methods": ("simclr", "intnacl"), "num_seeds": 2, "model": "mlp", "width": 8,
    "hidden": 8, "projection": 4, "epochs": 2, "batch_size": 64, "max_images": 128,
    "max_examples": 70, "probe_epochs": 1, "pgd_steps": 3, "apgd_steps": 5,
    "probes": ("standard", "adversarial", "full"), "save_every": 1,
    "eval_batch_size": 64,
}  # fmt: skip
_make_step = contrastive_training._make_step
_steps = {}


def _config(folder, **changes):
    return contrastive.ContrastiveConfig(workdir=str(folder), **(_QUICK | changes))


def _shared_step(objective, optimizer):
    """The training step of a method, compiled once for all runs with its settings."""
    settings = dataclasses.replace(
        objective.settings,
        workdir="any",
        methods=("adv",),
        probes=("standard",),
        transfer="",
        seed=0,
    )
    key = objective.method, settings
    if key not in _steps:
        _steps[key] = _make_step(objective, optimizer)
    return _steps[key]


@jax.jit
def _logits(apply_fn, images):
    return apply_fn(images)


def _metrics(folder, method):
    """The lines of metrics.tsv without the seconds, which are the last column."""
    lines = pathlib.Path(folder, "methods", method, "metrics.tsv").read_text()
    return [line.split("\t")[:-1] for line in lines.splitlines()]


class _SharesSteps(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.enterClassContext(
            mock.patch.object(contrastive_training, "_make_step", _shared_step)
        )

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.enterContext(run_folders.pictures(are_drawn=False))


@functools.cache
def _finished_run():
    """Files and summary of a run of two methods that was never interrupted."""
    with (
        tempfile.TemporaryDirectory() as folder,
        run_folders.pictures(are_drawn=True),
    ):
        summary = contrastive.run(_config(folder))
        return run_folders.read(pathlib.Path(folder)), summary


class RunTest(_SharesSteps):
    def setUp(self):
        super().setUp()
        files, self.summary = _finished_run()
        self.whole = self.folder / "whole"
        run_folders.write(files, self.whole)

    def test_a_run_leaves_tables_a_page_and_classifiers(self):
        names = {path.name for path in self.whole.iterdir()}
        wanted = {"flags.txt", "versions.json", "summary.json", "accuracies.tsv"}
        pictures = {f"accuracies_digits_{probe}.png" for probe in _QUICK["probes"]}
        wanted |= {"methods", "report.html", "starts"}
        self.assertEqual(names, wanted | pictures)
        summary = self.summary
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
        page = (self.whole / "report.html").read_text()
        for word in ("IntNaCl", "APGD 0.1", "base64", "full probe"):
            self.assertIn(word, page)
        self._check_classifier(table["intnacl", "full", "clean", 0.0])

    def _check_classifier(self, row):
        """What is saved is what was measured."""
        num_examples = _QUICK["max_examples"]
        images, labels = (
            a[:num_examples] for a in data.load("digits", split="test")[:2]
        )
        found = []
        for seed in (0, 1):
            path = self.whole / "methods" / "intnacl" / f"digits_full_{seed}"
            checkpoint = models.load(path)
            apply_fn = models.classifier(checkpoint.module, checkpoint.variables)
            predicted = np.asarray(_logits(apply_fn, images)).argmax(axis=1)
            found.append(np.mean(predicted == labels))
        self.assertAlmostEqual(np.mean(found), row["mean"], places=5)
        self.assertAlmostEqual(
            np.std(found, ddof=1), row["standard_deviation"], places=5
        )

    @pytest.mark.newest
    def test_a_step_is_compiled_once(self):
        """For all batches, epochs and, after a restart, states from a file."""
        methods = {method: step for (method, _), step in _steps.items()}
        for name in _QUICK["methods"]:
            self.assertEqual(methods[METHODS[name]]._cache_size(), 1)

    def test_goes_on_where_it_was_killed(self):
        """Also below a relative folder, which Orbax alone would not take."""
        self.enterContext(contextlib.chdir(self.folder))
        config = _config("run", methods=("intnacl",), probes=("standard",))
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
        self.assertTrue(pathlib.Path("run/methods/intnacl/state/1").is_dir())
        resumed = contrastive.run(config)
        expected = [
            row
            for row in self.summary["accuracies"]
            if row["method"] == "intnacl" and row["probe"] in ("knn", "standard")
        ]
        self.assertEqual(resumed["accuracies"], expected)
        self.assertEqual(_metrics("run", "intnacl"), _metrics(self.whole, "intnacl"))
        self.assertLen(_metrics("run", "intnacl"), 1 + 2 * 2)
        with self.assertRaisesRegex(ValueError, "temperature"):
            contrastive.run(dataclasses.replace(config, temperature=0.1))

    @pytest.mark.slow
    def test_a_seed_is_the_same_alone(self):
        self._check_seed_1(num_seeds=1)

    def test_a_seed_is_the_same_among_others(self):
        self._check_seed_1(num_seeds=2)

    def _check_seed_1(self, num_seeds):
        """It is the second seed of the whole run, and the first here."""
        images = data.load("digits", split="train").images[:128]
        other = _config("unused", num_seeds=num_seeds, seed=1)
        contrastive_training.train(
            other,
            _objective(other, "simclr", images),
            images,
            folder=self.folder / "methods" / "simclr",
            name="other",
        )
        (_, *others), (_, *both) = (
            _metrics(folder, "simclr") for folder in (self.folder, self.whole)
        )
        for place in (0, 1):
            first, second = (float(line[2]) for line in both[2 * place :][:2])
            found = float(others[num_seeds * place][2])
            self.assertAlmostEqual(second, found, delta=1e-4 * found)
            self.assertGreater(abs(first - second), 1e-3 * found)

    def test_transfer_has_tables_of_its_own(self):
        other = data.load("digits", split="test")
        real = data.load

        def load(name, **kwargs):
            return other if name == "other" else real(name, **kwargs)

        config = _config(
            self.folder / "run",
            methods=("simclr",),
            probes=("standard",),
            transfer="other",
        )
        with mock.patch.object(data, "load", load):
            summary = contrastive.run(config)
        places = {row["data"] for row in summary["accuracies"]}
        self.assertEqual(places, {"digits", "other"})
        own = self.folder / "run" / "methods" / "simclr"
        self.assertTrue((own / "other_standard_0").is_dir())
        with self.assertRaisesRegex(ValueError, "same shape"):
            contrastive.run(dataclasses.replace(config, transfer="digits"))

    def test_divergence_names_the_method_and_the_seed(self):
        config = _config(self.folder / "run", methods=("simclr",))
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


def _objective(config, method, images):
    options = config.model_options()
    mean, std = recipe.channel_statistics(images)
    module = contrastive_methods.create_encoder(
        config.model,
        hidden=config.hidden,
        width=config.projection,
        options=options | {"mean": mean, "std": std},
    )
    augment = contrastive_methods.augmentation("shift", image_shape=(8, 8, 1))
    return Objective(METHODS[method], module, augment, config)


class StartTest(_SharesSteps):
    def test_other_software_is_told(self):
        config = _config(self.folder, compile_cache="programs")
        with (
            mock.patch.object(jax.config, "update") as update,
            mock.patch.object(results, "start_run", return_value=["numpy was 1.0"]),
            mock.patch.object(contrastive, "_method", side_effect=OSError("stop")),
            self.assertLogs() as logs,
            self.assertRaisesRegex(OSError, "stop"),
        ):
            contrastive.run(config)
        self.assertIn("numpy was 1.0", logs.output[0])
        update.assert_called_once_with("jax_compilation_cache_dir", "programs")


class ReportTest(absltest.TestCase):
    def test_without_matplotlib_there_is_no_picture(self):
        page = mock.Mock()
        with run_folders.without_matplotlib(), self.assertLogs() as logs:
            contrastive_report._add_picture(page, pathlib.Path(), mock.Mock(), {}, {})
        page.picture.assert_not_called()
        self.assertIn("no plots without matplotlib", logs.output[0])


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


class DigitsTest(parameterized.TestCase):
    @pytest.mark.slow
    def test_integrated_losses_are_more_robust(self):
        """Three seeds, whose spread is a fifth of the gap of .20 that is asked for.

        APGD takes 30 steps instead of the 100 of a run: it is only compared with PGD.
        """
        with tempfile.TemporaryDirectory() as folder:
            config = contrastive.ContrastiveConfig(
                workdir=folder,
                methods=("simclr", "intcl", "intnacl"),
                num_seeds=3,
                probes=("standard",),
                apgd_steps=30,
                epsilons=("0.1",),
            )
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
