"""Names for tensors with their shapes, as in `Float[Tensor, "n channels height width"]`.

They come from jaxtyping. Annotations are strings in this library, so where only torch, torchvision and numpy
are installed the names may be empty: nothing looks at them then. The tests do, through jaxtyping's import hook.
"""

from __future__ import annotations

try:
    from jaxtyping import Bool, Float, Int, UInt8
except ImportError:
    Bool = Float = Int = UInt8 = None  # type: ignore[assignment,misc]

__all__ = ["Bool", "Float", "Int", "UInt8"]
