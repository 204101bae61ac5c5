"""The notebooks: their .py halves run, and both halves say the same."""

import json
import pathlib
import re
import subprocess
import sys
import tomllib

import children
import pytest

import robustjax

_ROOT = pathlib.Path(__file__).parent.parent
_SCRIPTS = sorted((_ROOT / "colabs").glob("*.py"))
_MAGIC = re.compile(r"^( *)# (%\w+ )", re.MULTILINE)


def _cells_of_script(script: pathlib.Path) -> list[tuple[str, str]]:
    """(kind, text) of the cells of a percent script, as Jupytext reads it."""
    _, *parts = re.split(r"^# %%(.*)\n", script.read_text(), flags=re.MULTILINE)
    cells = []
    for title, lines in zip(parts[::2], parts[1::2], strict=True):
        body = lines.strip("\n")
        if title.strip() == "[markdown]":
            cells.append(("markdown", re.sub(r"^# ?", "", body, flags=re.MULTILINE)))
        else:
            cells.append(("code", _MAGIC.sub(r"\1\2", body)))
    return cells


def _notebook(script: pathlib.Path) -> dict:
    return json.loads(script.with_suffix(".ipynb").read_text())


@pytest.mark.newest
def test_both_halves_are_in_sync():
    assert len(_SCRIPTS) >= 7
    offenders = []
    for script in _SCRIPTS:
        cells = [
            (cell["cell_type"], "".join(cell["source"]))
            for cell in _notebook(script)["cells"]
        ]
        if cells != _cells_of_script(script):
            offenders.append(script.name)
    assert not offenders, "run: jupytext --sync colabs/*.py"


def test_kept_outputs_are_small_and_without_errors():
    offenders = []
    for script in _SCRIPTS:
        cells = _notebook(script)["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", ())]
        if len(json.dumps(outputs)) >= 200_000:
            offenders.append(f"{script.name}: large")
        for output in outputs:
            if output["output_type"] == "error" or output.get("name") == "stderr":
                offenders.append(f"{script.name}: {output}")
    assert not offenders


def test_badge_and_install_cell_name_this_release():
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    for script in _SCRIPTS:
        text = script.read_text()
        tags = re.findall(r"(?:/blob/|robustjax@)v([\d.]+\d)", text)
        assert set(tags) == {robustjax.__version__}, script.name
        (oldest,) = re.findall(r"< \((\d+), (\d+)\):", text)
        assert f"jax>={'.'.join(oldest)}.0" in project["dependencies"], script.name


@pytest.mark.slow
@pytest.mark.parametrize("script", _SCRIPTS, ids=lambda script: script.stem)
def test_script_runs_in_fast_mode(script, tmp_path):
    """In a process of its own, as a user starts it."""
    result = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=children.environment(ROBUSTJAX_FAST="1"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "average certified radius" in result.stdout
