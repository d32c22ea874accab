"""Hot loops behind one function each: plain torch (the definition), native CPU code, Triton."""

from gengauge.kernels.ways import Way, available

__all__ = ["Way", "available"]
