"""Who may import whom, and that `import robustjax` is light."""

import ast
import collections
import functools
import graphlib
import pathlib
import subprocess
import sys

import children
import pytest
from absl.testing import absltest

import robustjax

_ROOT = pathlib.Path(__file__).parent.parent / "robustjax"
_FLOORS = (
    {"_callables", "_loops", "_precision", "_validate"},
    {"metrics", "norms", "special"},
    {"attacks", "bounds", "synbench"},
    {"contrastive", "probes", "semantic", "smoothing"},
    {"hidden_cost"},
)
_SMOOTHING = (  # its parts, likewise
    {"sampling", "radii"},
    {"confidence", "derivatives"},
    {"certificate", "settings", "prediction"},
    {"assembly"},
    {"certification"},
    {"adaptive"},
)
_MOST_MODULES = 14  # in a folder
_BESIDE = {"data", "models", "plotting", "results"}  # methods never import these
_HEAVY = ("flax", "matplotlib", "onnx", "jax_verify", "sklearn", "PIL", "datasets",
          "orbax", "optax", "chex", "tqdm", "safetensors")  # fmt: skip
_PRIVATE = ("jax._src", "jax.core", "jax.interpreters")


def _topic(path: pathlib.Path) -> str:
    return path.relative_to(_ROOT).parts[0].removesuffix(".py")


@functools.cache
def _files() -> list[pathlib.Path]:
    return sorted(_ROOT.rglob("*.py"))


def _name(path: pathlib.Path) -> str:
    """Dotted name of a module."""
    parts = path.relative_to(_ROOT.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


@functools.cache
def _tree(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def _imports(path: pathlib.Path) -> set[str]:
    """Dotted names of everything a file imports, `from a import b` as `a.b`."""
    names = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _is_module(name: str) -> bool:
    """Whether a dotted name is a file of robustjax; packages are not counted."""
    is_ours = name.startswith("robustjax.")
    return is_ours and (_ROOT.parent / f"{name.replace('.', '/')}.py").exists()


class ImportsTest(absltest.TestCase):
    def test_every_topic_has_its_place(self):
        known = set.union(*_FLOORS, _BESIDE, {"__init__", "__main__"})
        self.assertLessEqual({_topic(path) for path in _files()}, known)

    @pytest.mark.newest
    def test_every_package_loads_from_the_top(self):
        topics = {_topic(path) for path in _files()} - {"__init__"}
        offered = {topic for topic in topics if not topic.startswith("_")}
        self.assertEqual(set(robustjax.__all__), offered)
        for name in robustjax.__all__:
            self.assertEqual(getattr(robustjax, name).__name__, f"robustjax.{name}")

    def test_methods_import_only_lower_floors(self):
        offenders = []
        for path in _files():
            topic = _topic(path)
            floor = next((i for i, f in enumerate(_FLOORS) if topic in f), None)
            if floor is None:
                continue
            allowed = {topic, *set().union(*_FLOORS[:floor])}
            used = {
                name.split(".")[1]
                for name in _imports(path)
                if name.startswith("robustjax.") and name != "robustjax.__version__"
            }
            offenders += [f"{path}: {name}" for name in used - allowed]
        self.assertEmpty(offenders)

    def test_parts_of_smoothing_import_only_lower_ones(self):
        floor_of = {part: i for i, parts in enumerate(_SMOOTHING) for part in parts}
        offenders = []
        for path in _files():
            if _topic(path) != "smoothing" or path.parent.name == path.name:
                continue
            own = path.relative_to(_ROOT / "smoothing").parts[0].removesuffix(".py")
            if own == "__init__":
                continue
            used = {
                name.split(".")[2]
                for name in _imports(path)
                if name.startswith("robustjax.smoothing.")
            }
            offenders += [
                f"{path}: {part}"
                for part in used - {own}
                if floor_of[part] >= floor_of[own]
            ]
        self.assertEmpty(offenders)

    def test_hidden_cost_uses_noise_and_confidence_bounds_alone(self):
        used = {
            name.split(".")[2]
            for path in _files()
            for name in _imports(path)
            if _topic(path) == "hidden_cost" and name.startswith("robustjax.smoothing.")
        }
        self.assertLessEqual(used, {"sampling", "confidence"})

    def test_settings_of_scripts_know_no_script(self):
        """They are imported by runs and reports, and import neither."""
        folder = _ROOT.parent / "experiments/robustjax_experiments"
        offenders = [
            f"{path}: {name}"
            for path in folder.glob("configs/*.py")
            for name in _imports(path)
            if name.startswith("robustjax_experiments.")
            and not name.startswith("robustjax_experiments.configs.")
        ]
        self.assertEmpty(offenders)

    def test_no_folder_is_crowded(self):
        count = collections.Counter(
            path.parent for path in _files() if path.name != "__init__.py"
        )
        crowded = [folder for folder, n in count.items() if n > _MOST_MODULES]
        self.assertEmpty(crowded)

    def test_no_imports_go_in_a_circle(self):
        """Also those inside of functions, and those for types alone."""
        known = {_name(path) for path in _files()}
        graph = {
            _name(path): {
                name if name in known else name.rpartition(".")[0]
                for name in _imports(path)
            }
            & known - {_name(path)}
            for path in _files()
            if path.name != "__init__.py"
        }
        packages: dict[str, set[str]] = collections.defaultdict(set)
        for path in _files():
            used = {n.split(".")[1] for n in _imports(path) if n[:10] == "robustjax."}
            packages[_topic(path)] |= used - {_topic(path)}
        for each in (graph, packages):
            try:
                graphlib.TopologicalSorter(each).prepare()
            except graphlib.CycleError as error:
                self.fail(f"circle: {error.args[1]}")

    def test_types_of_a_package_are_imported_as_they_are(self):
        """`if TYPE_CHECKING` would hide a circle."""
        offenders = [
            f"{path}: {node.module}"
            for path in _files()
            for branch in ast.walk(_tree(path))
            if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.dump(branch.test)
            for node in branch.body
            if isinstance(node, ast.ImportFrom)
            and str(node.module).startswith(f"robustjax.{_topic(path)}")
        ]
        self.assertEmpty(offenders)

    def test_no_private_jax_no_absl_and_no_pickle(self):
        forbidden = (*_PRIVATE, "absl", "pickle", "jax.extend")
        offenders = [
            f"{path}: {name}"
            for path in _files()
            for name in _imports(path)
            if name.startswith(forbidden)
            and not ("tracing" in path.parts and name.startswith("jax.extend"))
        ]
        self.assertEmpty(offenders)

    def test_a_majority_vote_needs_few_modules(self):
        """Those that `predict` imports, and those that they import."""
        needed, new = set(), {"robustjax.smoothing.prediction"}
        while new:
            needed |= new
            paths = (_ROOT.parent / f"{n.replace('.', '/')}.py" for n in new)
            names = set().union(*(_imports(path) for path in paths))
            modules = {n.rpartition(".")[0] for n in names} | names
            new = {m for m in modules if _is_module(m)} - needed
        self.assertLessEqual(len(needed), 8, sorted(needed))

    def test_no_module_is_a_drawer(self):
        drawers = {"utils", "helpers", "common", "base", "_src", "misc"}
        names = {part for path in _files() for part in (path.stem, path.parent.name)}
        self.assertEmpty(names & drawers)

    def test_no_public_function_bears_the_name_of_a_module(self):
        offenders = []
        for package in {path.parent for path in _files()}:
            tree = ast.parse((package / "__init__.py").read_text())
            exported = {
                alias.asname or alias.name
                for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom)
                for alias in node.names
            }
            modules = {path.stem for path in package.glob("*.py")}
            offenders += [f"{package.name}.{name}" for name in exported & modules]
        self.assertEmpty(offenders)

    def test_import_is_light(self):
        """What is loaded only grows, so one process imports one after the other."""
        unwanted = {
            "robustjax": {*_HEAVY, "jax", "scipy"},
            "robustjax.results": {*_HEAVY, "jax"},
            "robustjax.plotting": {*_HEAVY, "jax"},
            "robustjax.data": {*_HEAVY},
            "robustjax.smoothing": {*_HEAVY},
        }
        code = "".join(f"import {name}; print(*sys.modules)\n" for name in unwanted)
        output = subprocess.check_output(
            [sys.executable, "-c", f"import sys\n{code}"],
            env=children.environment(),
            text=True,
        )
        for name, line in zip(unwanted, output.splitlines(), strict=True):
            self.assertIn(name, line.split())
            loaded = {module.split(".")[0] for module in line.split()}
            self.assertEmpty(loaded & unwanted[name], name)


if __name__ == "__main__":
    absltest.main()
