"""What the speed suite's files share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Times of one thread, as the published code was timed."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def full_size(request: pytest.FixtureRequest) -> bool:
    """Whether this measures, and not only tries."""
    return bool(request.config.getoption("benchmark_enable"))
