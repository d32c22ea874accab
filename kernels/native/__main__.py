"""Builds the native library again, in place: `python -m gengauge.kernels.native`."""

import sys

from gengauge.kernels.native.build import build

sys.exit(0 if build() else 1)
