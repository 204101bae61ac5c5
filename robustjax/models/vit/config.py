"""Configurations of vision transformers, and the standard sizes by name."""

import dataclasses
import re
from typing import Any

from robustjax import _validate
from robustjax.models.vit.position_embeddings import RULES

POOLS = ("cls", "gap", "map", "fc_norm")
GELUS = ("tanh", "erf", "quick")
_SIZES: dict[str, dict[str, int]] = {
    "ti": dict(width=192, mlp=768, heads=3, depth=12),
    "s": dict(width=384, mlp=1536, heads=6, depth=12),
    "b": dict(width=768, mlp=3072, heads=12, depth=12),
    "l": dict(width=1024, mlp=4096, heads=16, depth=24),
    "h": dict(width=1280, mlp=5120, heads=16, depth=32),
}
_NAME = re.compile(rf"vit_({'|'.join(_SIZES)})(\d+)")


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """What determines a vision transformer, apart from its weights.

    Raises:
        ValueError: if a value is not possible, naming it.
    """

    width: int  # of a token
    heads: int
    mlp: int  # hidden width of a block's two-layer network
    depth: int
    patch: int = 16  # side in pixels
    resolution: int = 224  # side of the image in pixels
    pool: str = "cls"  # "gap": mean of patches; "map": attention; "fc_norm": mean, LN
    gelu: str = "tanh"  # JAX's sources; "erf": PyTorch's; "quick": x sigmoid(1.702 x)
    ln_eps: float = 1e-6
    class_token: bool = True
    registers: int = 0  # tokens between the class token and the patches
    norm_pre: bool = False  # a LN in front of the blocks, as in CLIP
    layer_scale: bool = False  # one learned factor a channel on every residual branch
    swiglu: bool = False  # silu(a) * b instead of gelu(a)
    pre_logits: bool = False  # tanh(Dense(.)) behind the pooling
    num_classes: int = 0  # 0: no head
    mean: tuple[float, ...] = (0.5,)  # subtracted from the image in [0, 1]
    std: tuple[float, ...] = (0.5,)  # divides the centred image
    position_rule: str | None = None  # that resized the positions; None: as trained

    def __post_init__(self) -> None:
        """Checks the values against each other."""
        _validate.one_of(POOLS, pool=self.pool)
        _validate.one_of(GELUS, gelu=self.gelu)
        if self.position_rule is not None:
            _validate.one_of(RULES, position_rule=self.position_rule)
        for field in ("width", "heads", "mlp", "depth", "patch", "resolution"):
            _validate.integer(1, **{field: getattr(self, field)})
        _validate.integer(0, registers=self.registers, num_classes=self.num_classes)
        _validate.positive(ln_eps=self.ln_eps, std=self.std)
        if self.width % self.heads:
            raise ValueError(f"Expected heads={self.heads} to divide {self.width=}.")
        if self.resolution % self.patch:
            raise ValueError(f"Expected {self.patch=} to divide {self.resolution=}.")
        if self.pool == "cls" and not self.class_token:
            raise ValueError("pool='cls' needs class_token=True.")

    @property
    def grid(self) -> int:
        """Patches along a side of the image."""
        return self.resolution // self.patch


def vit_config(name: str, **changes: Any) -> ViTConfig:
    """The standard sizes by name: "vit_b16" is base with patches of 16 x 16 pixels.

    [host]

    ======  =======  ======  =======  =======
    size    width    mlp     heads    depth
    ======  =======  ======  =======  =======
    ti      192      768     3        12
    s       384      1536    6        12
    b       768      3072    12       12
    l       1024     4096    16       24
    h       1280     5120    16       32
    ======  =======  ======  =======  =======

    Args:
        name: `vit_`, the size, and the side of a patch in pixels, as in "vit_s32".
        **changes: other fields of `ViTConfig`, such as `resolution` or `num_classes`.

    Returns:
        The `ViTConfig`.

    Raises:
        ValueError: if the name or a value is not known.

    Example:
        >>> config = vit_config("vit_b16", num_classes=1000)
        >>> config.width, config.heads, config.depth, config.grid
        (768, 12, 12, 14)

    Reference:
        Dosovitskiy et al. (2021), table 1; Touvron et al. (2021), table 1 (ti, s).
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            f"Unknown name {name!r}; expected vit_ + one of {', '.join(_SIZES)} + the "
            "patch side, as in 'vit_b16'."
        )
    size, patch = match.groups()
    fields: dict[str, Any] = {**_SIZES[size], "patch": int(patch)}
    return ViTConfig(**(fields | changes))
