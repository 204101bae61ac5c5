"""Rules of signatures and docstrings over every public function of the package."""

import ast
import importlib
import inspect
import pathlib
import pkgutil

from absl.testing import absltest, parameterized

import robustjax

_MAX_POSITIONAL = 3
_MAX_LINES = 450
_MAX_BODY = 75


def _modules():
    found = pkgutil.walk_packages(robustjax.__path__, prefix="robustjax.")
    names = [info.name for info in found if not info.name.endswith("__main__")]
    return [importlib.import_module(name) for name in names]


def _public_functions():
    """(qualified name, function) of all functions without an underscore."""
    for module in _modules():
        for name, value in vars(module).items():
            is_own = getattr(value, "__module__", None) == module.__name__
            if name.startswith("_") or not is_own:
                continue
            if inspect.isfunction(value):
                yield f"{module.__name__}.{name}", value
            elif inspect.isclass(value):
                for method_name, method in vars(value).items():
                    if inspect.isfunction(method) and not method_name.startswith("_"):
                        yield f"{module.__name__}.{name}.{method_name}", method


_FUNCTIONS = sorted(_public_functions())


def _parameters(function):
    parameters = list(inspect.signature(function).parameters.values())
    return [p for p in parameters if p.name != "self"]


def _face() -> set[str]:
    """Functions that a package offers in its `__all__`."""
    packages = (
        "attacks",
        "contrastive",
        "data",
        "gaussian",
        "models",
        "probes",
        "results",
        "smoothing",
    )
    names = set()
    for package in packages:
        module = importlib.import_module(f"robustjax.{package}")
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isfunction(value):
                names.add(f"{value.__module__}.{value.__qualname__}")
    return names


class SignatureTest(parameterized.TestCase):
    def test_there_is_something_to_test(self):
        self.assertGreater(len(_FUNCTIONS), 40)
        self.assertGreater(len(_face()), 20)

    @parameterized.named_parameters(_FUNCTIONS)
    def test_signature(self, function):
        parameters = _parameters(function)
        positional = [p for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD]
        self.assertLessEqual(len(positional), _MAX_POSITIONAL)
        names = [p.name for p in parameters]
        self.assertNoCommonElements(names, ["rng", "prng_key", "seed_key"])
        if "key" in names:
            self.assertEqual(names[0], "key")
            self.assertIs(parameters[0].default, inspect.Parameter.empty)

    @parameterized.named_parameters(_FUNCTIONS)
    def test_annotations(self, function):
        for parameter in _parameters(function):
            self.assertIsNot(parameter.annotation, parameter.empty, parameter.name)
        annotation = inspect.signature(function).return_annotation
        self.assertIsNot(annotation, inspect.Signature.empty)

    @parameterized.named_parameters(_FUNCTIONS)
    def test_docstring(self, function):
        text = inspect.getdoc(function) or ""
        summary = text.split("\n\n")[0]
        self.assertRegex(summary, r"\.(\s*\[(host|device)\]\.?)?$")
        self.assertLessEqual(max(map(len, text.splitlines())), 88)

    @parameterized.parameters(*sorted(_face()))
    def test_face_documents_world_arguments_result_and_example(self, name):
        function = dict(_FUNCTIONS)[name]
        text = inspect.getdoc(function)
        self.assertRegex(text, r"\[(host|device)\]")
        if _parameters(function):
            self.assertIn("Args:", text)
            for parameter in _parameters(function):
                self.assertIn(f"{parameter.name}:", text)
        if inspect.signature(function).return_annotation not in (None, "None"):
            self.assertIn("Returns:", text)

    def test_defaults_are_keyword_only(self):
        allowed = {  # one optional argument whose meaning is plain
            "robustjax.results.commands.main",
            "robustjax.results.folder.RunFolder.merge",
            "robustjax.results.logs.Log.radius",
        }
        offenders = []
        for name, function in _FUNCTIONS:
            positional = {
                p.name
                for p in _parameters(function)
                if p.kind == p.POSITIONAL_OR_KEYWORD and p.default is not p.empty
            }
            if positional and name not in allowed:
                offenders.append(f"{name}: {positional}")
        self.assertEmpty(offenders)


class SizeTest(absltest.TestCase):
    def test_files_are_small(self):
        root = pathlib.Path(robustjax.__file__).parent.parent
        offenders = [
            path
            for folder in ("robustjax", "experiments", "benchmarks", "tests")
            for path in (root / folder).rglob("*.py")
            if len(path.read_text().splitlines()) > _MAX_LINES
        ]
        self.assertEmpty(offenders)

    def test_functions_are_short(self):
        offenders = [
            f"{path}:{node.name}"
            for path in pathlib.Path(robustjax.__file__).parent.rglob("*.py")
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.FunctionDef) and _body_lines(node) > _MAX_BODY
        ]
        self.assertEmpty(offenders)


def _body_lines(node: ast.FunctionDef) -> int:
    """Lines of a function below its docstring."""
    first = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0]
    return node.end_lineno - first.lineno + 1


if __name__ == "__main__":
    absltest.main()
