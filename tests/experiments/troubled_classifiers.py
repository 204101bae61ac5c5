"""A classifier for --apply_fn whose process is in the trouble that TROUBLE names.

"late": its first batch of rows takes 90 s. "slow": each batch takes 2 s.
"full": its disk is full from its second batch on.
"""

import errno
import os
import time
from collections.abc import Iterable
from typing import Any

import jax
import sample_classifiers

from robustjax.results.run_folder import rows


def troubled() -> jax.tree_util.Partial:
    """The nearest class mean."""
    trouble = os.environ.get("TROUBLE", "")
    if trouble:
        rows.RowsFile.append = _hindered(trouble)
    return sample_classifiers.nearest_mean()


def _hindered(trouble: str) -> Any:
    append = rows.RowsFile.append

    def hindered(self: rows.RowsFile, new_rows: Iterable[Any]) -> None:
        if trouble == "full" and self.finished:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        is_first = not self.finished
        append(self, new_rows)
        time.sleep({"slow": 2, "late": 90 * is_first}.get(trouble, 0))

    return hindered
