"""The one place through which torchvision is imported.

torchvision's wheel is built against the CUDA build of torch. Beside a CPU build its compiled operators do
not load, and its import fails because fake implementations are registered for operators that were never
defined. Defining the schemas of those operators first makes models, transforms and datasets work; the box
operators themselves stay unavailable, and nothing here needs them.
"""

from __future__ import annotations

import torch

_OPERATORS = ("nms", "qnms")
_LIBRARY: torch.library.Library | None = None

try:
    import torchvision
except RuntimeError:
    _LIBRARY = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for _name in _OPERATORS:
        _LIBRARY.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    import torchvision

from torchvision import datasets, models  # noqa: E402 (only now does it import)

__all__ = ["datasets", "models", "torchvision"]
