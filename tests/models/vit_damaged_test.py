"""Tests for files of vision transformers that are damaged, foreign or hostile."""

import pickle

import numpy as np
import pytest
import vit_reference
import vit_writers
from absl.testing import absltest, parameterized

from robustjax import models


class ErrorsTest(vit_writers.FilesTest):
    def test_all_missing_and_unexpected_keys_are_listed(self):
        stored = vit_writers.timm(vit_reference.network())
        del stored["blocks.1.attn.qkv.weight"], stored["norm.bias"]
        stored["conv_root.weight"] = stored["head_dist.bias"] = np.zeros(1)
        message = (
            r"model.safetensors, layout timm: missing keys: blocks.1.attn.qkv.weight, "
            r"norm.bias; unexpected keys: conv_root.weight, head_dist.bias\.$"
        )
        with self.assertRaisesRegex(ValueError, message):
            self.load(stored)

    def test_missing_keys_bear_the_numbering_of_the_file(self):
        stored = vit_writers.augreg(vit_reference.network())
        del stored["Transformer/encoderblock_1/MlpBlock_3/Dense_0/bias"]
        with self.assertRaisesRegex(ValueError, "missing keys: .*MlpBlock_3/Dense_0/b"):
            self.load(stored)

    def test_long_lists_are_cut(self):
        stored = vit_writers.augreg(vit_reference.network())
        stored |= {f"block{i:02}/unit/kernel": np.zeros(1) for i in range(30)}
        with self.assertRaisesRegex(ValueError, "none; .*block19/unit/kernel and 10 m"):
            self.load(stored)

    def test_all_mismatched_shapes_are_listed(self):
        stored = vit_writers.timm(vit_reference.network())
        stored["norm.bias"] = np.zeros(9, np.float32)
        stored["blocks.0.attn.qkv.bias"] = np.zeros(23, np.float32)
        stored["blocks.1.mlp.fc1.weight"] = np.zeros((8, 12), np.float32)
        with self.assertRaisesRegex(ValueError, "shapes differ") as caught:
            self.load(stored)
        for part in (
            "norm.bias (9,) for Transformer/encoder_norm/bias (8,)",
            "blocks.0.attn.qkv.bias (23,) for",
            "blocks.1.mlp.fc1.weight (8, 12) for",
            "MlpBlock_0/Dense_0/kernel (8, 12)",
        ):
            self.assertIn(part, str(caught.exception))

    @parameterized.parameters(
        ("blocks.0.mlp.fc2.weight", None, "key 'blocks.0.mlp.fc2.weight' is missing"),
        ("patch_embed.proj.weight", np.zeros((8, 48)), "to have 4 axes"),
        ("pos_embed", np.zeros((1, 7, 8)), "N square; got 7"),
    )
    def test_arrays_that_tell_the_model(self, key, array, message):
        stored = vit_writers.timm(vit_reference.network())
        stored[key] = array
        if array is None:
            del stored[key]
        with self.assertRaisesRegex(ValueError, message):
            self.load(stored)

    def test_stacked_blocks_of_unequal_number(self):
        stored = vit_writers.big_vision(vit_reference.network(), scan=True)
        name = "params/Transformer/encoderblock/LayerNorm_1/scale"
        stored[name] = stored[name][:1]
        with self.assertRaisesRegex(ValueError, "LayerNorm_1/scale .1, 8. for"):
            self.load(stored)

    @pytest.mark.newest
    def test_wrong_number_of_heads(self):
        with self.assertRaisesRegex(ValueError, "heads=3 to divide"):
            self.load(vit_writers.augreg(vit_reference.network()), heads=3)
        with self.assertRaisesRegex(ValueError, "shapes differ.*query/kernel"):
            self.load(vit_writers.augreg(vit_reference.network()), heads=4)

    def test_layouts_are_told_apart(self):
        with self.assertRaisesRegex(ValueError, "its 1 keys fit no layout of augreg,"):
            self.load({"a.weight": np.zeros(3)})
        with self.assertRaisesRegex(ValueError, "layout timm: the key 'patch_embed"):
            self.load(vit_writers.hf(vit_reference.network()), layout="timm")
        with self.assertRaisesRegex(ValueError, "Unknown layout 'keras'"):
            self.load(vit_writers.timm(vit_reference.network()), layout="keras")

    def test_files_that_cannot_be_read_are_named(self):
        arrays = vit_reference.network()
        for path in (
            self.write(vit_writers.augreg(arrays)),
            self.write(vit_writers.timm(arrays)),
        ):
            content = path.read_bytes()
            for length in (0, 100, len(content) // 2, len(content) - 5):
                path.write_bytes(content[:length])
                with self.assertRaisesRegex(ValueError, f"Cannot read .*{path.name}"):
                    models.load_vit(path)
        with self.assertRaisesRegex(FileNotFoundError, r"nowhere.npz"):
            models.load_vit(self.folder / "nowhere.npz")
        with self.assertRaisesRegex(ValueError, r"model.pth to end in .npz or"):
            models.load_vit(self.folder / "model.pth")

    def test_a_damaged_array_is_noticed(self):
        path = self.write(vit_writers.augreg(vit_reference.network()))
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 255
        path.write_bytes(content)
        with self.assertRaisesRegex(ValueError, "model.npz"):
            models.load_vit(path)

    def test_nothing_is_unpickled(self):
        stored = vit_writers.augreg(vit_reference.network())
        stored["cls"] = np.array([_Trap()], dtype=object)
        with self.assertRaisesRegex(ValueError, "allow_pickle=False"):
            models.load_vit(self.write(stored))
        path = self.folder / "pickle.npz"
        path.write_bytes(pickle.dumps(_Trap()))
        with self.assertRaisesRegex(ValueError, "Cannot read .*pickle.npz"):
            models.load_vit(path)


class _Trap:
    """Fails where it is unpickled."""

    def __reduce__(self):
        return (_spring, ())


def _spring():
    raise AssertionError("A file was unpickled.")


if __name__ == "__main__":
    absltest.main()
