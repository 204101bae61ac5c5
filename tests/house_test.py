"""The drawing of the house and the walk through it say what the imports say."""

import pathlib
import re

from absl.testing import absltest

from docs import house

_ROOT = pathlib.Path(__file__).parent.parent
_SMOOTHING = _ROOT / "robustjax" / "smoothing"
_STEP = re.compile(r"^\| \d+ \| `([\w/]+)` \|", re.MULTILINE)
_OTHER = re.compile(r"`((?:confidence|radii)/\w+)`")


def _walk() -> tuple[list[str], set[str]]:
    """The modules of the walk in docs/design.md, and those that other options visit."""
    text = (_ROOT / "docs" / "design.md").read_text("utf-8")
    section = text.split("## One image through", 1)[1].split("\n## ", 1)[0]
    _, _, rest = section.partition("Other options visit")
    return _STEP.findall(section), set(_OTHER.findall(rest))


class HouseTest(absltest.TestCase):
    def test_the_drawing_is_up_to_date(self):
        is_same = house.DRAWING.read_text("utf-8") == house.draw()
        self.assertTrue(is_same, "run: python docs/house.py")

    def test_arrows_leave_out_what_longer_ways_say(self):
        imports = {"a": frozenset("bc"), "b": frozenset("c"), "c": frozenset()}
        self.assertEqual(house.arrows(imports), [("a", "b"), ("b", "c")])

    def test_the_walk_names_each_module_once(self):
        steps, other = _walk()
        self.assertLen(set(steps), len(steps))
        there = {
            path.relative_to(_SMOOTHING).with_suffix("").as_posix()
            for path in _SMOOTHING.rglob("*.py")
            if path.stem != "__init__"
        }
        elsewhere = {"adaptive", "derivatives", "prediction"}
        self.assertEqual({*steps, *other, *elsewhere}, there)


if __name__ == "__main__":
    absltest.main()
