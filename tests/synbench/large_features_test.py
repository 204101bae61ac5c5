"""Wide features and a vision transformer at full size: ceilings, memory, streams."""

import json
import subprocess
import sys

import children
import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import synbench

_GIBIBYTE = 2**30
_VIT_SCORE = """
import json, pathlib, sys

import jax
import jax.numpy as jnp
from robustjax import synbench, models

small = models.ViTConfig(width=64, heads=2, mlp=128, depth=1)
config = small if sys.argv[1] == "small" else models.vit_config(sys.argv[1])
module = models.VisionTransformer(config)
params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 224, 224, 3)))["params"]
num = int(sys.argv[2])
found = synbench.synbench(
    jax.random.key(0), models.vit_features(config, params), (224, 224, 3),
    scales=(3.0,), thresholds=(0.6,), num_train=num, num_test=num, batch_size=16,
    shrinkage="oas",
)
status = pathlib.Path("/proc/self/status").read_text()  # ru_maxrss is the parent's
peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
print(json.dumps({"peak": peak, "features": found.num_features,
                  "accuracy": found.accuracy.tolist()}))
"""


def _vit_score(name, num):
    """Peak memory and features of a child that scores a vision transformer."""
    result = subprocess.run(
        [sys.executable, "-c", _VIT_SCORE, name, str(num)],
        capture_output=True, text=True, timeout=600, check=False,
        env=children.environment(),
    )  # fmt: skip
    if result.returncode:
        raise AssertionError(result.stderr)
    found = json.loads(result.stdout)
    assert np.all(np.isfinite(found["accuracy"])), found
    return found["peak"], found["features"]


@pytest.mark.slow
class LargeFeaturesTest(parameterized.TestCase):
    def test_768_pixels_score_their_ceiling(self):
        with pytest.warns(UserWarning, match="perfect representation would score"):
            found = synbench.synbench(jax.random.key(3), lambda x: x, (768,))
        gap = abs(found.score[0] - found.ceiling)
        np.testing.assert_array_less(gap, 3 * found.standard_error[0])
        np.testing.assert_allclose(
            found.ceiling[[0, 2, 4, 6, 7]],
            [0.850, 0.849, 0.836, 0.804, 0.766],
            atol=5e-4,
        )

    def test_a_vision_transformer_of_base_size_needs_little_memory(self):
        peak, num_features = _vit_score("vit_b16", 16)
        self.assertEqual(num_features, 768)
        self.assertLess(peak, 4 * _GIBIBYTE)

    def test_memory_of_a_vision_transformer_does_not_grow_with_the_inputs(self):
        """From 64 to 768 inputs of 0.6 MB for each stream.

        Inputs of one stream, if they were kept, would add 400 MiB; how many of the
        four batches under way overlap changes the peak by up to 90 MiB.
        """
        (few, _), (many, _) = (_vit_score("small", num) for num in (64, 768))
        self.assertLess(many - few, 150 * 2**20)


if __name__ == "__main__":
    absltest.main()
