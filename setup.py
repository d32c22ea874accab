"""Maps the folders at the top of the repository into one import package, `gengauge`, so that no name clashes;
builds the native kernels where there is a compiler, and installs without them where there is none."""

import runpy
from pathlib import Path

from setuptools import Command, Distribution, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build

TOP = ("benchmarks", "reference", "kernels", "datasets", "reports")
NATIVE = Path("kernels", "native")


class BuildNative(Command):
    """The step of `build` that compiles `kernels/native/*.cpp`; beside the sources in an editable install."""

    description = "compile the native kernels"
    user_options = ()

    def initialize_options(self):
        self.build_lib = None
        self.editable_mode = False

    def finalize_options(self):
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def run(self):
        # By path: the package is not installed yet, and its parents import torch.
        compile_all = runpy.run_path(str(NATIVE / "build.py"))["build"]
        compile_all(NATIVE.absolute() if self.editable_mode else Path(self.build_lib, "gengauge", NATIVE).absolute())

    def get_outputs(self):
        made = Path(self.build_lib, "gengauge", NATIVE)
        return [] if self.editable_mode else [str(file) for file in made.glob("*.so")]

    def get_output_mapping(self):
        return {}

    def get_source_files(self):
        return [str(file) for file in sorted(NATIVE.glob("*.cpp")) + sorted(NATIVE.glob("*.h"))]


class Build(build):
    sub_commands = (*build.sub_commands, ("build_native", None))


class PlatformWheel(bdist_wheel):
    """A wheel of this platform, for every Python: the library is loaded by ctypes."""

    def get_tag(self):
        return ("py3", "none", super().get_tag()[2])


class PlatformDistribution(Distribution):
    def has_ext_modules(self):
        return True


setup(
    packages=[f"gengauge.{name}" for top in TOP for name in (top, *(f"{top}.{sub}" for sub in find_packages(top)))],
    package_dir={f"gengauge.{top}": top for top in TOP},
    package_data={
        "": ["py.typed"],
        "gengauge.benchmarks": ["published/*.csv", "zoo/weights/*", "papers/sige/*.npz", "warp_ui/page/*"],
        "gengauge.kernels.native": ["*.cpp", "*.h"],
        "gengauge.reports": ["templates/*", "baselines/*"],
    },
    cmdclass={"build": Build, "build_native": BuildNative, "bdist_wheel": PlatformWheel},
    distclass=PlatformDistribution,
)
