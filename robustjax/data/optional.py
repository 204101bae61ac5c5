"""Optional libraries, imported only by the reader that needs them."""

import importlib
from types import ModuleType


def require(module: str, *, extra: str) -> ModuleType:
    """Imports a module of an optional dependency.

    [host]

    Args:
        module: dotted name of the module.
        extra: the extra of robustjax that installs it.

    Returns:
        The module.

    Raises:
        ValueError: if it is not installed; the text gives the command that helps.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise ValueError(
            f"This data set needs {library}: pip install 'robustjax[{extra}]'."
        ) from error
