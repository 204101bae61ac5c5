"""Runs of order 1, of soft votes and of adaptive size: rows, resume, refusals."""

import csv
import dataclasses
import math
import pathlib
import sys
import tempfile
from unittest import mock

import certify
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import norms, results
from robustjax.smoothing import moments

_HERE = pathlib.Path(__file__).parent
_NORMS = ("l2", "l1", "linf", "subspace:top")


def _rows(workdir) -> list[dict[str, str]]:
    with open(pathlib.Path(workdir) / "rows.tsv", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def _without_time(rows):
    return [{k: v for k, v in row.items() if k != "time"} for row in rows]


class _InFolder(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.enterContext(mock.patch.object(sys, "path", [*sys.path, str(_HERE)]))
        mask = np.zeros((8, 8, 1))
        mask[:4] = 1
        np.save(self.folder / "top.npy", mask)
        self.config = certify.CertifyConfig(
            workdir=str(self.folder / "run"),
            apply_fn="sample_classifiers:nearest_mean",
            num_estimation=20_000,
            max_examples=12,
            order=1,
            norms=_NORMS,
            masks=(f"top={self.folder / 'top.npy'}",),
            devices=1,
        )

    def replace(self, **changes):
        return dataclasses.replace(self.config, **changes)


class FirstOrderRunTest(_InFolder):
    def test_leaves_a_complete_run_that_verifies(self):
        summary = certify.run(self.config)
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

    @parameterized.parameters("radius_l1", "radius", "dual_upper_l1", "count")
    def test_a_changed_row_is_found(self, column):
        certify.run(self.config)
        path = pathlib.Path(self.config.workdir) / "rows.tsv"
        rows = _rows(self.config.workdir)
        log = results.read_log(self.config.workdir)
        gain = log.radius("l1") - log.columns["zeroth_radius_l1"]
        chosen = rows[int(np.argmax(gain))]
        value = float(chosen[column])
        chosen[column] = str(int(value) - 50 if column == "count" else value * 1.001)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        findings = results.verify_run(self.config.workdir).findings
        self.assertIn(f"idx {chosen['idx']}: ", "\n".join(findings))

    def test_resumes(self):
        certify.run(self.config)
        expected = _without_time(_rows(self.config.workdir))
        path = pathlib.Path(self.config.workdir) / "rows.tsv"
        path.write_bytes(path.read_bytes()[:3000])
        certify.run(self.config)
        self.assertEqual(_without_time(_rows(self.config.workdir)), expected)

    @pytest.mark.slow
    def test_rows_hardly_depend_on_the_devices(self):
        """Counts not at all; sums, and so bounds, by rounding."""
        certify.run(self.config)
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
        certify.run(self.replace(votes="soft", norms=("l2", "l1"), masks=()))
        self.assertEmpty(results.verify_run(self.config.workdir).findings)
        self.assertEqual({row["bound"] for row in _rows(self.config.workdir)},
                         {"betting"})  # fmt: skip

    def test_sums_that_are_not_finite_end_in_an_error_with_the_list(self):
        original = moments.class_moments

        def broken(*args, **kwargs):
            sums = original(*args, **kwargs)
            bad = jnp.isin(jnp.asarray(kwargs["example_ids"]), jnp.array([3, 9]))
            return sums._replace(
                sum_even=jnp.where(bad[:, None, None, None], jnp.nan, sums.sum_even)
            )

        with mock.patch.object(moments, "class_moments", broken):
            for _ in range(2):  # also when there is nothing left to do
                with self.assertRaisesRegex(ValueError, "idx 3, 9"):
                    certify.run(self.config)
        rows = _rows(self.config.workdir)
        self.assertLen(rows, 12)
        for row in rows:
            is_bad = row["idx"] in ("3", "9")
            self.assertEqual(row["failed"], str(int(is_bad)))
            if is_bad:
                self.assertEqual((row["predict"], row["radius"]), ("-1", "0.0"))
        self.assertEmpty(results.verify_run(self.config.workdir).findings)


class AdaptiveRunTest(_InFolder):
    def test_order_0_saves_samples_and_verifies(self):
        config = self.replace(
            order=0, norms=("l2",), masks=(), target_radius=0.4, max_samples=20_000
        )
        summary = certify.run(config)
        self.assertEmpty(results.verify_run(config.workdir).findings)
        sizes = [int(row["num_estimation"]) for row in _rows(config.workdir)]
        self.assertGreater(len(set(sizes)), 1)
        saved = 1 - sum(sizes) / (12 * 20_000)
        self.assertAlmostEqual(summary["samples_saved"], saved)
        self.assertGreater(saved, 0.3)

    def test_order_1_verifies(self):
        config = self.replace(target_radius=0.4, max_samples=20_000)
        certify.run(config)
        self.assertEmpty(results.verify_run(config.workdir).findings)
        stages = {row["stage"] for row in _rows(config.workdir)}
        self.assertLessEqual(stages, {"1", "2", "3"})
        self.assertIn("1", stages)


class RefusalTest(_InFolder):
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
