"""What all tests share: no network, a cache of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

os.environ["GENGAUGE_OFFLINE"] = "1"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["GENGAUGE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Rounding depends on the number of threads; the goldens were made with one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
