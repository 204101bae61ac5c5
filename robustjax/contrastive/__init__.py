"""Contrastive losses as composable transforms, dense, in blocks or over devices."""

from robustjax.contrastive.adversarial_views import (
    IntegratedAux,
    adversarial_view,
    in_chunks,
    integrate,
)
from robustjax.contrastive.augmentations import (
    additive_noise,
    color_jitter,
    cut_out,
    in_turn,
    make_views,
    pixel_shift,
    random_blur,
    random_brightness,
    random_flip,
    random_grey,
    random_resized_crop,
    sometimes,
)
from robustjax.contrastive.batch import Batch, from_arrays, from_views
from robustjax.contrastive.composition import LossAux, compose
from robustjax.contrastive.losses import (
    adversarial,
    debiased,
    hard_negative,
    int_cl,
    int_nacl,
    mix_nca,
    nca,
    nt_xent,
)
from robustjax.contrastive.steps.negatives import debias, hard, plain
from robustjax.contrastive.steps.positives import (
    clean_plus_soft,
    mean_of_logs,
    soft_target,
    sum_inside,
    supcon,
)
from robustjax.contrastive.steps.similarity import (
    Transform,
    mean,
    per_anchor,
    similarity,
    weighted,
)

__all__ = [
    "Batch",
    "IntegratedAux",
    "LossAux",
    "Transform",
    "additive_noise",
    "adversarial",
    "adversarial_view",
    "clean_plus_soft",
    "color_jitter",
    "compose",
    "cut_out",
    "debias",
    "debiased",
    "from_arrays",
    "from_views",
    "hard",
    "hard_negative",
    "in_chunks",
    "in_turn",
    "int_cl",
    "int_nacl",
    "integrate",
    "make_views",
    "mean",
    "mean_of_logs",
    "mix_nca",
    "nca",
    "nt_xent",
    "per_anchor",
    "pixel_shift",
    "plain",
    "random_blur",
    "random_brightness",
    "random_flip",
    "random_grey",
    "random_resized_crop",
    "similarity",
    "soft_target",
    "sometimes",
    "sum_inside",
    "supcon",
    "weighted",
]
