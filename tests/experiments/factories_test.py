"""Factories of the user are found, whatever the module is called."""

import pathlib
import subprocess
import sys
import tempfile

import certify
import children
from absl.testing import absltest

_EXPERIMENTS = pathlib.Path(certify.__file__).parent
_CODE = """
import sys
from robustjax import _callables
from robustjax_experiments.harness import classifiers, encoders
sys.path.remove("")  # as where a script runs, whose folder is the first
for name in sys.argv[1:]:
    print(_callables.named(f"{name}:factory")())
"""


class FactoriesTest(absltest.TestCase):
    def test_a_module_may_have_the_name_of_a_script_or_of_a_part(self):
        names = sorted({path.stem for path in _EXPERIMENTS.rglob("*.py")})
        self.assertContainsSubset({"certify", "recipe", "classifiers"}, names)
        names += ["training", "model", "data", "regions", "report"]
        with tempfile.TemporaryDirectory() as folder:
            for name in names:
                code = f"def factory():\n    return 'mine: {name}'\n"
                pathlib.Path(folder, f"{name}.py").write_text(code)
            printed = subprocess.check_output(
                [sys.executable, "-c", _CODE, *names],
                env=children.environment(_EXPERIMENTS), cwd=folder, text=True,
            )  # fmt: skip
        self.assertEqual(printed.splitlines(), [f"mine: {name}" for name in names])


if __name__ == "__main__":
    absltest.main()
