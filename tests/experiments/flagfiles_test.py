"""The committed flag files: they parse, say what they give, and give it."""

import pathlib
import re
import tempfile

import certify
import contrastive
import hidden_cost
import pytest
import synbench
import verify_linf
import verify_semantic
from absl import flags
from absl.testing import absltest, parameterized
from robustjax_experiments.harness import flags_from_config

from robustjax import models, results

_FOLDER = pathlib.Path(certify.__file__).parent / "flags"
_FILES = sorted(path.name for path in _FOLDER.glob("*.flags"))
_SCRIPTS = {  # by the first word of the file
    "contrastive": ("contrastive", contrastive.ContrastiveConfig),
    "semantic": ("verify_semantic", verify_semantic.SemanticConfig),
    "hidden": ("hidden_cost", hidden_cost.HiddenCostConfig),
    "synbench": ("synbench", synbench.SynBenchConfig),
    "verify": ("verify_linf", verify_linf.VerifyConfig),
}


def _script(name: str) -> tuple[str, type]:
    """The script that a flag file is for, and its settings."""
    word = re.split(r"[_.]", name)[0]
    return _SCRIPTS.get(word, ("certify", certify.CertifyConfig))


def _command(name: str) -> str:
    """The command in the comment of a flag file, with the name of the file in it."""
    text = (_FOLDER / name).read_text().replace("$flags", f"experiments/flags/{name}")
    return next(line for line in text.splitlines() if "python experiments/" in line)


def _config(name: str, **changes: str):
    script, config_class = _script(name)
    values = flags.FlagValues()
    flags_from_config.define_flags(config_class, flag_values=values)
    flags.DEFINE_string("flagfile", "", "", flag_values=values)
    overrides = [f"--{flag}={value}" for flag, value in changes.items()]
    given = _command(name).split("--flagfile=")[1].split()[1:]  # behind the file
    values([f"{script}.py", f"--flagfile={_FOLDER / name}", *given, *overrides])
    return flags_from_config.config_from_flags(config_class, flag_values=values)


class FlagFilesTest(parameterized.TestCase):
    @parameterized.parameters(*_FILES)
    def test_parses_and_states_its_command(self, name):
        config = _config(name)
        script, _ = _script(name)
        command = f"python experiments/{script}.py --flagfile=experiments/flags/{name}"
        self.assertIn(command, _command(name))
        self.assertTrue(config.workdir.startswith("runs/"))

    @pytest.mark.newest
    def test_all_flags_of_the_smallest_are_read(self):
        config = _config("smoke.flags", workdir="elsewhere")
        self.assertEqual(config.workdir, "elsewhere")
        self.assertEqual(config.train, ("epochs=2",))
        self.assertEqual((config.num_estimation, config.max_examples), (512, 8))

    @parameterized.parameters(
        "digits.flags",
        "mnist.flags",
        "cifar10.flags",
        "mnist_first_order.flags",
        "cifar10_first_order.flags",
        "cifar10_resnet20_first_order.flags",
    )
    def test_states_hardware_minutes_and_numbers(self, name):
        text = (_FOLDER / name).read_text()
        for pattern in (r"CPU", r"minutes?", r"radius", r"certified", r"ACR"):
            self.assertRegex(text, pattern)

    @pytest.mark.slow
    def test_digits_gives_its_numbers(self):
        text = (_FOLDER / "digits.flags").read_text()
        expected = float(re.search(r"ACR (0\.\d+)", text)[1])
        with tempfile.TemporaryDirectory() as folder:
            summary = certify.run(_config("digits.flags", workdir=folder))
            self.assertEmpty(results.verify_run(folder).findings)
            trained = models.manifest(pathlib.Path(folder, "model", "checkpoint"))
        metrics = trained["training"]["metrics"]
        self.assertGreater(metrics["test_accuracy"], 0.95)
        self.assertGreater(metrics["test_accuracy_noisy"], 0.95)
        average = summary["norms"]["l2"]["average_certified_radius"]
        self.assertAlmostEqual(average, expected, delta=0.02)


if __name__ == "__main__":
    absltest.main()
