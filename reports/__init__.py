"""Reports: records in, pages and tables out."""

from gengauge.reports.build import build_report
from gengauge.reports.content import Illustration

__all__ = ["Illustration", "build_report"]
