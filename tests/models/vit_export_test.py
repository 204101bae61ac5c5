"""Tests for vision transformers written in the layouts of other tools."""

import dataclasses

import jax
import numpy as np
import pytest
import vit_reference
import vit_writers
from absl.testing import absltest, parameterized
from safetensors import numpy as safetensors_numpy

from robustjax import models


def _read(path):
    if path.suffix == ".safetensors":
        return safetensors_numpy.load_file(path)
    with np.load(path) as file:
        return dict(file)


class SaveTest(vit_writers.FilesTest):
    @parameterized.named_parameters(
        ("augreg", "augreg", vit_writers.augreg, dict(pre_logits=True)),
        ("big_vision", "big_vision", vit_writers.big_vision, dict(probe=True)),
        ("timm", "timm", vit_writers.timm, {}),
        ("clip", "timm", vit_writers.timm, dict(norm_pre=True)),
        ("dinov2", "timm", vit_writers.timm,
         dict(registers=2, layer_scale=True, swiglu=True)),
    )  # fmt: skip
    def test_round_trip_is_exact(self, layout, write, network):
        arrays = vit_reference.network(**network)
        if layout == "big_vision":
            del arrays["cls"]
        options = {"gelu": "quick"} if layout == "timm" else {}
        config, params = self.load(write(arrays), **options)
        suffix = ".safetensors" if layout == "timm" else ".npz"
        path = self.folder / f"again{suffix}"
        self.assertEqual(models.save_vit(path, config, params, layout=layout), path)
        again, same = models.load_vit(path, heads=2, **vit_writers.RAW, **options)
        self.assertEqual(again, config)
        jax.tree.map(np.testing.assert_array_equal, same, params)

    @parameterized.named_parameters(
        ("augreg", "augreg", vit_writers.augreg, dict(legacy=False)),
        ("big_vision", "big_vision", vit_writers.big_vision, dict(prefix="")),
        ("timm", "timm", vit_writers.timm, {}),
        ("fc_norm", "timm", vit_writers.timm, dict(norm="fc_norm")),
    )
    def test_file_is_the_one_of_an_independent_writer(self, layout, write, options):
        arrays = vit_reference.network()
        arrays["cls"] = arrays["cls"] + arrays["pos_embedding"][:, :1]
        arrays["pos_embedding"][:, 0] = 0
        stored = write(arrays, **options)
        config, params = self.load(stored)
        suffix = ".safetensors" if layout == "timm" else ".npz"
        path = self.folder / f"again{suffix}"
        models.save_vit(path, config, params, layout=layout)
        stored.pop("mask_token", None)
        written = _read(path)
        self.assertCountEqual(written, stored)
        for name, array in stored.items():
            np.testing.assert_array_equal(written[name], array, name)

    @pytest.mark.newest
    def test_refuses(self):
        config, params = self.load(vit_writers.augreg(vit_reference.network()))
        path = self.folder / "again.npz"

        def save(path, layout, **changes):
            changed = dataclasses.replace(config, **changes)
            models.save_vit(path, changed, params, layout=layout)

        with self.assertRaisesRegex(ValueError, "again.npz to end in .safetensors"):
            save(path, "timm")
        with self.assertRaisesRegex(ValueError, "Unknown layout 'hf_vit'"):
            save(path, "hf_vit")
        with self.assertRaisesRegex(ValueError, "no place for registers, layer_scale"):
            save(path, "augreg", registers=4, layer_scale=True)
        with self.assertRaisesRegex(ValueError, "Unknown pool 'map'; .*: cls, gap"):
            save(path, "augreg", pool="map")
        self.assertFalse(path.exists())
        save(path, "augreg")
        with self.assertRaisesRegex(FileExistsError, "again.npz exists"):
            save(path, "augreg")


if __name__ == "__main__":
    absltest.main()
