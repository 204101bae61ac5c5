"""Runs of order 1, of soft votes and of adaptive size: rows, resume, refusals."""

import csv
import dataclasses
import functools
import math
import pathlib
import sys
import tempfile
from unittest import mock

import certify
import jax.numpy as jnp
import numpy as np
import pytest
import run_folders
from absl.testing import absltest, parameterized

from robustjax import norms, results
from robustjax.results.certification import selection
from robustjax.smoothing.sampling import moments

_HERE = pathlib.Path(__file__).parent
_NORMS = ("l2", "l1", "linf", "subspace:top")


_NUM_SAMPLES = 8_000
_SAMPLES_PER_CALL = 3 * _NUM_SAMPLES  # two batches of three images
_rows = run_folders.rows


def _config(folder: pathlib.Path) -> certify.CertifyConfig:
    """A run of order 1 with a mask of its own."""
    mask = np.zeros((8, 8, 1))
    mask[:4] = 1
    np.save(folder / "top.npy", mask)
    return certify.CertifyConfig(
        workdir=str(folder / "run"),
        apply_fn="sample_classifiers:nearest_mean",
        num_estimation=_NUM_SAMPLES,
        max_examples=6,
        order=1,
        norms=_NORMS,
        masks=(f"top={folder / 'top.npy'}",),
        devices=1,
    )


KINDS = {  # runs that tests start from, as changes of `_config`
    "first order": {},
    "soft": dict(
        votes="soft", norms=("l2", "l1"), masks=(), num_estimation=4_096
    ),
    "adaptive": dict(
        order=0, norms=("l2",), masks=(), max_examples=12, target_radius=0.4,
        max_samples=_NUM_SAMPLES,
    ),
    "adaptive first order": dict(
        norms=("l2", "l1"), masks=(), target_radius=0.4, max_samples=_NUM_SAMPLES
    ),
}  # fmt: skip


@functools.cache
def _finished_run(kind: str) -> tuple[str, run_folders.Files, dict]:
    """Folder, files and summary of a run that tests start from."""
    drawn = run_folders.pictures(are_drawn=kind == "first order")
    with tempfile.TemporaryDirectory() as folder, drawn:
        config = dataclasses.replace(_config(pathlib.Path(folder)), **KINDS[kind])
        summary = certify.run(config)
        return folder, run_folders.read(pathlib.Path(folder, "run")), summary


class InFolder(parameterized.TestCase):
    """Tests that start from a finished run, in a folder of their own."""

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.enterContext(run_folders.pictures(are_drawn=False))
        self.enterContext(mock.patch.object(sys, "path", [*sys.path, str(_HERE)]))
        self.enterContext(
            mock.patch.object(selection, "_SAMPLES_PER_CALL", _SAMPLES_PER_CALL)
        )
        self.config = _config(self.folder)

    def finished(self, kind="first order"):
        """Puts a finished run into the folder of the configuration."""
        made_in, files, summary = _finished_run(kind)
        old, new = made_in.encode(), str(self.folder).encode()  # --masks names it
        files = {name: content.replace(old, new) for name, content in files.items()}
        run_folders.write(files, self.config.workdir)
        return summary

    def replace(self, **changes):
        return dataclasses.replace(self.config, **changes)


class FirstOrderRunTest(InFolder):
    def test_leaves_a_complete_run_that_verifies(self):
        summary = self.finished()
        workdir = pathlib.Path(self.config.workdir)
        names = {path.name for path in workdir.iterdir()}
        self.assertLessEqual({"curve.png", "orders.png", "rows.tsv"}, names)
        self.assertEmpty(results.verify_run(workdir).findings)
        log = results.read_log(workdir)
        self.assertEqual(tuple(log.radii), _NORMS)
        for norm in _NORMS:
            zeroth = log.columns[f"zeroth_radius_{norm}"]
            self.assertTrue(np.all(log.radius(norm) >= zeroth))
            ratio = zeroth / log.columns["zeroth_radius_l2"]
            np.testing.assert_allclose(ratio, 1 / norms.l2_circumradius(norm, 64))
            upper = log.columns[f"dual_upper_{norm}"]
            self.assertTrue(np.all(upper >= log.columns[f"dual_norm_{norm}"] * 0.99))
            figures = summary["norms"][norm]
            self.assertGreaterEqual(
                figures["average_certified_radius"],
                figures["zeroth_average_certified_radius"],
            )
        gain = log.radius("l1") - log.columns["zeroth_radius_l1"]
        self.assertGreater(gain.max(), 0.02)

    def test_changed_rows_are_found(self):
        """One column in each of the rows whose gradients help most."""
        self.finished()
        path = pathlib.Path(self.config.workdir) / "rows.tsv"
        rows = _rows(self.config.workdir, without=())
        log = results.read_log(self.config.workdir)
        gain = log.radius("l1") - log.columns["zeroth_radius_l1"]
        columns = ("radius_l1", "radius", "dual_upper_l1", "count")
        chosen = np.argsort(-gain)[: len(columns)]
        for place, column in zip(chosen, columns, strict=True):
            value = float(rows[place][column])
            rows[place][column] = str(
                int(value) - 50 if column == "count" else value * 1.001
            )
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        found = "\n".join(results.verify_run(self.config.workdir).findings)
        for i, row in enumerate(rows):
            self.assertEqual(f"idx {row['idx']}: " in found, i in chosen, found)

    @pytest.mark.newest
    def test_resumes(self):
        self.finished()
        expected = _rows(self.config.workdir)
        path = pathlib.Path(self.config.workdir) / "rows.tsv"
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:5]) + lines[5][:40])
        certify.run(self.config)
        self.assertEqual(_rows(self.config.workdir), expected)

    @pytest.mark.slow
    def test_rows_hardly_depend_on_the_devices(self):
        """Counts not at all; sums, and so bounds, by rounding."""
        self.finished()
        other = self.replace(workdir=str(self.folder / "other"), devices=4)
        certify.run(other)
        for row, twin in zip(
            _rows(self.config.workdir), _rows(other.workdir), strict=True
        ):
            self.assertEqual(row["count"], twin["count"])
            for column in ("radius", "radius_l1", "dual_upper_l2", "dual_norm_linf"):
                np.testing.assert_allclose(
                    float(row[column]), float(twin[column]), rtol=1e-4, atol=1e-9
                )

    def test_soft_votes(self):
        self.finished("soft")
        self.assertEmpty(results.verify_run(self.config.workdir).findings)
        self.assertEqual(
            {row["bound"] for row in _rows(self.config.workdir)}, {"betting"}
        )

    def test_sums_that_are_not_finite_end_in_an_error_with_the_list(self):
        original = moments.class_moments

        def broken(*args, **kwargs):
            sums = original(*args, **kwargs)
            bad = jnp.isin(jnp.asarray(kwargs["example_ids"]), jnp.array([1, 4]))
            return sums._replace(
                sum_even=jnp.where(bad[:, None, None, None], jnp.nan, sums.sum_even)
            )

        config = self.replace(norms=("l2", "l1"), masks=(), num_estimation=4_096)
        with mock.patch.object(moments, "class_moments", broken):
            for _ in range(2):  # also when there is nothing left to do
                with self.assertRaisesRegex(ValueError, "idx 1, 4"):
                    certify.run(config)
        rows = _rows(self.config.workdir)
        self.assertLen(rows, 6)
        for row in rows:
            is_bad = row["idx"] in ("1", "4")
            self.assertEqual(row["failed"], str(int(is_bad)))
            if is_bad:
                self.assertEqual((row["predict"], row["radius"]), ("-1", "0.0"))
        self.assertEmpty(results.verify_run(self.config.workdir).findings)


class AdaptiveRunTest(InFolder):
    def test_order_0_saves_samples_and_verifies(self):
        summary = self.finished("adaptive")
        self.assertEmpty(results.verify_run(self.config.workdir).findings)
        sizes = [int(row["num_estimation"]) for row in _rows(self.config.workdir)]
        self.assertGreater(len(set(sizes)), 1)
        saved = 1 - sum(sizes) / (12 * _NUM_SAMPLES)
        self.assertAlmostEqual(summary["samples_saved"], saved)
        self.assertGreater(saved, 0.3)

    def test_order_1_verifies(self):
        self.finished("adaptive first order")
        self.assertEmpty(results.verify_run(self.config.workdir).findings)
        stages = {row["stage"] for row in _rows(self.config.workdir)}
        self.assertLessEqual(stages, {"1", "2", "3"})
        self.assertIn("1", stages)


class RefusalTest(InFolder):
    @parameterized.parameters(
        (dict(order=2), "order 0 or 1, got 2"),
        (dict(norms=("l7x",)), "l7x"),
        (dict(num_estimation=128), "num_estimation >= 129"),
        (dict(votes="weak"), "votes"),
        (dict(form="ball"), "form"),
        (dict(method="best"), "method"),
        (dict(runner_up="bonferroni"), "complement"),
        (dict(target_radius=0.5), "max_samples"),
        (dict(target_radius=-1.0, max_samples=1000), "target_radius"),
        (dict(target_radius=math.nan, max_samples=1000), "target_radius"),
        (dict(max_samples=1000, votes="soft"), "adaptive"),
    )
    def test_settings(self, changes, text):
        with self.assertRaisesRegex(ValueError, text):
            self.replace(**changes)

    @parameterized.parameters(
        (dict(norms=("subspace:red",), masks=()), "shape"),
        (dict(norms=("subspace:pink",), masks=()), "pink"),
        (dict(norms=("l2",)), "none for top"),
        (dict(masks=("top",)), "NAME=FILE"),
        (dict(masks=("top=a.npy", "top=b.npy")), "each mask once"),
    )
    def test_what_only_the_data_tells(self, changes, text):
        with self.assertRaisesRegex(ValueError, text):
            certify.run(self.replace(**changes))
        self.assertFalse(pathlib.Path(self.config.workdir).exists())

    @parameterized.parameters((np.ones((8, 8)), "shape"), (np.zeros((8, 8, 1)), ""))
    def test_masks(self, mask, text):
        np.save(self.folder / "top.npy", mask)
        if mask.ndim == 2:
            mask = np.ones((7, 8, 1))
            np.save(self.folder / "top.npy", mask)
        with self.assertRaisesRegex(ValueError, text):
            certify.run(self.config)


if __name__ == "__main__":
    absltest.main()
