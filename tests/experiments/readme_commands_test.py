"""Every command of README.md and of the flag files runs as it is written.

Commands are taken from the text and run by a shell in a fresh folder, with relative
paths. A program named python, first on the path, adds flags that make a run small and
notes how each one ended.
"""

import itertools
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile

import children
import pytest
import readme_files
import real_data
from absl.testing import absltest, parameterized

_FLAGS = children.ROOT / "experiments" / "flags"
_README = (children.ROOT / "README.md").read_text()
_NOT_RUN = ("git", "make", "pip", "srun", "gcloud")  # network, installation, cluster
_RUN = ("python", "for", "done;")
_DATA = {"mnist": "mnist", "cifar10": "cifar-10-batches-bin"}  # folders of real data
_FAST_XLA = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1"
)

# Added to the commands of each script. --train goes on with the value that is there;
# it and --model are added only to commands that train a model.
_MODEL = "--model=mlp --train=epochs=1,max_images=64,batch_size=32,hidden=8"
_SMALLER = {
    "certify.py": f"--num_estimation=512 --skip=1 --max_examples=3 --dtype= {_MODEL}",
    "contrastive.py": "--methods=simclr --num_seeds=1 --model=cnn --channels=4 "
    "--width=8 --hidden=8 --projection=4 --epochs=1 --max_images=64 --batch_size=32 "
    "--max_examples=16 --probes=standard --pgd_steps=2 --apgd_steps=0 --block_size=0",
    "hidden_cost.py": "--train_sigmas=0,0.5 --sigmas=0,0.5 --num_samples=64 "
    f"--max_examples=20 --num_rays=4 --num_ray_samples=64 --resolution=4 {_MODEL}",
    "synbench.py": "--scales=2 --num_train=256 --num_test=256 --max_images=256 "
    "--thresholds=0.7,0.8 --relative_epsilons=0 --model=mlp --hidden=8 --train=0",
    "train.py": "--epochs=1 --max_images=64 --batch_size=32 --hidden=8",
    "verify_linf.py": "--skip=1 --max_examples=2 --num_halvings=3 --attack_steps=2 "
    f"--attack_restarts=1 {_MODEL}",
    "verify_semantic.py": f"--max_examples=1 --max_cells=8 {_MODEL}",
    "verify_vnnlib.py": "--attack_steps=3 --attack_restarts=1 --num_steps=2",
}
_NOT_WITH = {"--from_logs": "hidden_cost.py"}  # a report on logs is small already

_PYTHON = """#!{python} -IS
import json, os, pathlib, re, subprocess, sys
here = pathlib.Path(__file__).parent
setting = json.loads((here / "setting.json").read_text())
given = sys.argv[1:]
text = " ".join(given)
for file in re.findall(r"--flagfile=(\\S+)", text):
    text += " " + pathlib.Path(file).read_text()
script = pathlib.Path(given[0]).name
more = [] if any(
    flag in text and name == script for flag, name in setting["not_with"].items()
) else setting["smaller"].get(script, "").split()
trained = re.findall(r"--train=(\\S+)", text)
for i, flag in enumerate(more):
    if flag.startswith("--train=") and script != "synbench.py" and trained:
        more[i] = "--train=" + trained[-1] + "," + flag.removeprefix("--train=")
own = "--train=", "--train_sigmas=", "--model=mlp"
more = [flag for flag in more if trained or not flag.startswith(own)]
more += ["--coordinator=" + setting["coordinator"]] if "--distributed" in text else []
code = subprocess.run([sys.executable, *given, *more]).returncode
with (here / "ended.jsonl").open("a") as log:
    log.write(json.dumps([code, given]) + "\\n")
sys.exit(code)
"""


def _lines(block: str) -> list[str]:
    """Logical lines without comments."""
    joined = re.sub(r"\\\n\s*", "", block)
    lines = [line.strip() for line in joined.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _blocks() -> list[list[str]]:
    """The commands of each block of README.md that is not Python."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```", _README, re.MULTILINE | re.DOTALL)
    return [_lines(block) for language, block in fences if language != "python"]


def _kind(line: str) -> str:
    """The first word of a command, or the name of the variable that it sets."""
    return re.match(r"[^\s=]+", line)[0]


def _header(name: str) -> list[str]:
    """The commands in the comment of a flag file."""
    text = (_FLAGS / name).read_text()
    found = re.findall(r"^#   ((?:python |flags=|make ).*)$", text, re.MULTILINE)
    return [line for line in found if _kind(line) not in _NOT_RUN]


def _written_out(lines: list[str]) -> set[str]:
    """Commands with the value of $flags in them."""
    value, found = "", set()
    for line in lines:
        if line.startswith("flags="):
            value = line.removeprefix("flags=")
        elif line.startswith("python "):
            found.add(line.replace("$flags", value))
    return found


def _data_of(name: str) -> str | None:
    """The folder of real data that a flag file needs."""
    found = re.search(r"^--dataset=(\w+)$", (_FLAGS / name).read_text(), re.MULTILINE)
    return _DATA.get(found[1]) if found else None


_IN_README = set().union(*map(_written_out, _blocks()))
_HEADERS = {
    path.name: _header(path.name)
    for path in sorted(_FLAGS.glob("*.flags"))
    if not _written_out(_header(path.name)) <= _IN_README
}
_ON_DATA = tuple(name for name in _HEADERS if _data_of(name))
_EMBEDDED = tuple(name for name in _HEADERS if not _data_of(name))


class ReadingTest(parameterized.TestCase):
    @pytest.mark.newest
    def test_every_command_is_of_a_known_kind(self):
        for line in itertools.chain.from_iterable(_blocks()):
            self.assertIn(_kind(line), (*_RUN, *_NOT_RUN, "flags"), line)
        self.assertGreater(len(_IN_README), 12)

    def test_every_flag_file_has_a_command(self):
        for path in _FLAGS.glob("*.flags"):
            (command,) = _written_out(_header(path.name))
            self.assertIn(f"--flagfile=experiments/flags/{path.name}", command)


@pytest.mark.slow
class CommandsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        (self.folder / "experiments").symlink_to(children.ROOT / "experiments")
        readme_files.provide(self.folder)
        with socket.socket() as listener:
            listener.bind(("localhost", 0))
            port = listener.getsockname()[1]
        self.setting = {
            "smaller": _SMALLER, "not_with": _NOT_WITH,
            "coordinator": f"localhost:{port}",
        }  # fmt: skip

    def run_all(self, lines, *, data_dir):
        """Runs lines as one script of the shell; returns what it started."""
        tools = self.folder / "tools"
        tools.mkdir(exist_ok=True)
        (tools / "setting.json").write_text(json.dumps(self.setting))
        (tools / "python").write_text(_PYTHON.format(python=sys.executable))
        (tools / "python").chmod(0o755)
        ended = tools / "ended.jsonl"
        ended.write_text("")
        path = os.pathsep.join([str(tools), os.environ["PATH"]])
        done = subprocess.run(
            ["bash", "-euo", "pipefail"], input="\n".join(lines), text=True,
            cwd=self.folder, capture_output=True, check=False, timeout=600,
            env=children.environment(
                PATH=path, ROBUSTJAX_DATA_DIR=str(data_dir), XLA_FLAGS=_FAST_XLA
            ),
        )  # fmt: skip
        what = "\n".join(lines) + f"\n{done.stdout}\n{done.stderr}"
        self.assertEqual(done.returncode, 0, what)
        codes = [json.loads(line) for line in ended.read_text().splitlines()]
        self.assertEqual({code for code, _ in codes}, {0}, what)
        return [given for _, given in codes]

    def test_readme(self):
        """One folder for all blocks, since later ones use runs of earlier ones."""
        data_dir = self.folder / "data"
        readme_files.provide_data(data_dir)
        started = []
        for block in _blocks():
            lines = [line for line in block if _kind(line) not in _NOT_RUN]
            if lines:
                started += self.run_all(lines, data_dir=data_dir)
        (_,) = [line for line in _IN_README if "$i" in line]  # that of a loop of two
        self.assertLen(started, len(_IN_README) + 1)
        for name in ("digits", "digits-2", "mnist-0.5", "mine", "verify_digits"):
            self.assertTrue((self.folder / "runs" / name / "rows.tsv").is_file(), name)
        page = self.folder / "runs" / "contrastive_digits" / "report.html"
        self.assertTrue(page.is_file())

    @parameterized.parameters(*_EMBEDDED)
    def test_flag_file(self, name):
        self._run_header(name, data_dir=self.folder)

    @parameterized.parameters(*_ON_DATA)
    def test_flag_file_on_data(self, name):
        self._run_header(name, data_dir=real_data.folder(_data_of(name)).parent)

    def _run_header(self, name, *, data_dir):
        started = self.run_all(_header(name), data_dir=data_dir)
        self.assertLen(started, 1)
        text = (_FLAGS / name).read_text()
        workdir = re.search(r"^--workdir=(\S+)$", text, re.MULTILINE)[1]
        self.assertTrue((self.folder / workdir / "summary.json").is_file())


if __name__ == "__main__":
    absltest.main()
