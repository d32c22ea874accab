"""Maps the folders at the top of the repository into one import package, `gengauge`, so that no name clashes."""

from setuptools import find_packages, setup

TOP = ("benchmarks", "reference", "kernels", "datasets", "reports")

setup(
    packages=[f"gengauge.{name}" for top in TOP for name in (top, *(f"{top}.{sub}" for sub in find_packages(top)))],
    package_dir={f"gengauge.{top}": top for top in TOP},
    package_data={
        "": ["py.typed"],
        "gengauge.benchmarks": ["published/*.csv", "zoo/weights/*"],
        "gengauge.reports": ["templates/*"],
    },
)
