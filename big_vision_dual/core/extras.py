"""Which extra brings a package that is not installed: pip install 'big_vision_dual[EXTRA]'."""

from __future__ import annotations

PACKAGES = {
    "absl": "train",
    "etils": "train",
    "flax": "train",
    "libtpu": "preflight",
    "matplotlib": "report",
    "ml_collections": "train",
    "mlxtend": "demo",
    "orbax": "train",
    "plotly": "report",
    "rich": "train",
    "safetensors": "train",
    "tensorflow": "tfds",
    "tensorflow_datasets": "tfds",
    "tensorstore": "train",
    "wandb": "wandb",
    "wandb_workspaces": "wandb-report",
}
"""{name as it is imported: extra}."""


def remedy(error: ModuleNotFoundError) -> str | None:
    """One line that says what is missing and how to install it; None for a package of no extra."""
    package = (error.name or "").partition(".")[0]
    extra = PACKAGES.get(package)
    if extra is None:
        return None
    return f"this needs {package}, which is not installed: pip install 'big_vision_dual[{extra}]'"
