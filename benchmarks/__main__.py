"""`python -m gengauge.benchmarks`: the command `gengauge`, for launchers that start modules."""

from gengauge.benchmarks.cli import main

if __name__ == "__main__":
    main()
