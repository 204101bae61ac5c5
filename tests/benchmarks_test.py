"""The benchmarks run, and memory stays flat in the number of samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import real_data
from absl.testing import absltest
from scipy import stats

from benchmarks import (
    bound_propagation,
    certification,
    contrastive,
    memory,
    moments,
    radii,
    regions,
    synbench,
    timing,
    vnncomp,
)
from robustjax import hidden_cost


class BenchmarksTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(False))  # the figures are of float32

    def test_a_small_case_gives_its_figures(self):
        case = certification.Case("mlp", (4, 4, 1), "float32", 128, 2, {"features": ()})
        row = certification.measure(case, rounds=2)
        self.assertEqual(case.num_samples, 256)
        for name in ("samples_per_second", "ratio_to_forward", "compile_seconds"):
            self.assertGreater(row[name], 0)
        self.assertLess(row["ratio_to_forward_and_noise"], row["ratio_to_forward"])

    @pytest.mark.slow
    def test_moments_give_their_ratio(self):
        case = certification.Case("mlp", (4, 4, 1), "float32", 128, 4, {"features": ()})
        (row,) = moments.measure(2, cases=[case])
        for name in ("ratio_to_counts", "ratio_with_channels"):
            self.assertGreater(row[name], 0)

    @pytest.mark.slow
    def test_scoring_stands_beside_extraction(self):
        row = synbench.scoring_row("mlp, 8 x 8", 2)
        self.assertGreater(row["seconds"], 0)
        self.assertGreater(row["seconds_beside"], 0)
        self.assertBetween(row["ratio"], 0.1, 100)

    @pytest.mark.slow
    def test_contrastive_losses_give_their_rows(self):
        row = contrastive.row("g0", 512, 0)
        self.assertLess(row["blocked MiB"], row["dense MiB"])
        self.assertLess(50 * row["dense MiB"], row["optax MiB"])
        timed = contrastive.row("g0", 128, 1)
        for name in ("blocked ms", "dense ms", "optax ms", "blocked / dense"):
            self.assertIsNone(row[name])
            self.assertGreater(timed[name], 0)
        alone = contrastive.row("g2", 65_536, 0)
        self.assertIsNone(alone["dense MiB"])
        self.assertIsNone(alone["blocked ms"])
        self.assertLess(alone["blocked MiB"], 1000)

    def test_random_certificates_are_possible(self):
        p, parallel, perpendicular = radii.random_certificates(100)
        self.assertTrue(np.all((p > 0.5) & (p < 1)))
        longest = stats.norm.pdf(stats.norm.ppf(p))
        self.assertTrue(np.all(np.hypot(parallel, perpendicular) <= longest))

    def test_plain_radii_are_those_of_the_closed_form(self):
        sigma, dim = np.array([0.3, 0.01]), np.array([3.0, 784.0])
        plain = regions._plain_radii(sigma, dim)
        with jax.enable_x64(True):
            own = jax.jit(hidden_cost.smoothed_ball_radius)(1.0, sigma=sigma, dim=dim)
        np.testing.assert_allclose(plain, own, rtol=1e-9)

    @pytest.mark.slow
    def test_bounds_give_their_rows(self):
        def fn(x):
            return jax.nn.relu(jnp.matmul(x.reshape(-1), jnp.ones((784, 3))))

        case = bound_propagation.Case("small", fn, 2, 0.01, None)
        rows = bound_propagation.measure(1, of=(case,))
        widths = {row["way"]: row["mean width"] for row in rows}
        self.assertLessEqual(widths["crown"], widths["ibp"] * (1 + 1e-5))
        self.assertIsNone(widths["forward"])

    @pytest.mark.slow
    def test_no_property_is_verified_and_falsified(self):
        """The counts of the page on benchmarks."""
        folder = real_data.folder("vnncomp2021") / "mnistfc"
        properties = sorted(folder.glob("prop_*.vnnlib.gz"))
        self.assertLen(properties, 30)
        for network, verified, falsified in (("256x2", 11, 9), ("256x4", 7, 4)):
            path = folder / f"mnist-net_{network}.onnx"
            counts = vnncomp.decide(path, properties, methods=("crown-ibp", "crown"))
            for found in counts.verified.values():
                self.assertFalse(np.any(found & counts.falsified))
            self.assertEqual(counts.verified["crown"].sum(), verified)
            self.assertGreaterEqual(counts.falsified.sum(), falsified - 1)

    def test_cases_are_whole_blocks(self):
        for platform in ("cpu", "gpu"):
            for case in certification.cases(platform):
                self.assertEqual(case.chunk_size % 128, 0)

    @pytest.mark.newest
    def test_ratio_is_taken_round_by_round(self):
        ratio = timing.median_ratio([2.0, 30.0, 4.0], [1.0, 10.0, 1.0], [1.0, 5.0, 0.0])
        self.assertEqual(ratio, 2.0)  # of 1, 2 and 4

    @pytest.mark.slow
    def test_memory_is_flat(self):
        """Peak resident size and compiled temporaries from 1e3 to 1e5 samples."""
        sizes = memory.measure()
        self.assertEqual([size["num_samples"] for size in sizes], [10**3, 10**4, 10**5])
        for name in ("resident_mib", "temporary_mib"):
            values = [size[name] for size in sizes]
            self.assertLessEqual(max(values) / min(values), 1.05, name)


if __name__ == "__main__":
    absltest.main()
