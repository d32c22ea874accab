"""What all tests share: no network, a cache of their own."""

from __future__ import annotations

import os

import pytest

os.environ["GENGAUGE_OFFLINE"] = "1"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["GENGAUGE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
