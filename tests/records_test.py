"""The history of benchmarks keeps every run and names no host."""

import json
import pathlib
import platform
import tempfile

from absl.testing import absltest

from benchmarks import records


class HistoryTest(absltest.TestCase):
    def test_each_run_is_a_file_of_its_own_with_the_machine(self):
        root = self.enterContext(tempfile.TemporaryDirectory())
        folder = pathlib.Path(root) / "history"
        paths = [records.add({"radii": [{"n": n}]}, folder=folder) for n in (1, 2, 3)]
        self.assertLen(set(paths), 3)
        for number, path in enumerate(paths, start=1):
            kept = json.loads(path.read_text("utf-8"))
            self.assertEqual(kept["results"], {"radii": [{"n": number}]})
            self.assertGreaterEqual(kept["machine"]["cpu_count"], 1)
            self.assertIn(kept["machine"]["jax"], path.name)
            self.assertTrue(path.name.startswith(kept["machine"]["date"]))
        self.assertNotIn(platform.node(), json.dumps(records.machine()).split('"'))


if __name__ == "__main__":
    absltest.main()
