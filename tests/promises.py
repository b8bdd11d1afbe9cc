"""The table of `make reliability`: each promise, how many cases it was tried on, how many failed.

A test that keeps a promise is marked `@pytest.mark.reliability("The promise")`; one that goes through many cases asks
for the fixture `cases` and calls `cases(n)` as they pass. Those marked `long` run only with `--thorough`.
"""

from collections import defaultdict

import pytest

COUNTED = pytest.StashKey[int]()
TABLE = pytest.StashKey[dict]()


def pytest_addoption(parser):
    parser.addoption("--thorough", action="store_true", help="also the long tests, as `make reliability` runs them")


def pytest_configure(config):
    config.stash[TABLE] = defaultdict(lambda: [0, 0])


def pytest_collection_modifyitems(config, items):
    if config.getoption("--thorough"):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@pytest.fixture
def cases(request):
    """Counts the cases that a test has gone through."""

    def count(n):
        request.node.stash[COUNTED] = request.node.stash.get(COUNTED, 0) + n

    return count


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    marker = item.get_closest_marker("reliability")
    if marker and (call.when == "call" or report.failed):
        line = item.config.stash[TABLE][marker.args[0]]
        line[0] += item.stash.get(COUNTED, 0) or 1
        line[1] += report.failed
    return report


def pytest_terminal_summary(terminalreporter, config):
    table = config.stash[TABLE]
    if not table or not config.getoption("--thorough"):
        return
    width = max(len(promise) for promise in table)
    terminalreporter.write_line(f"\n{'promise':<{width}}  {'cases':>7}  {'failures':>8}")
    for promise, (count, failed) in table.items():
        terminalreporter.write_line(f"{promise:<{width}}  {count:>7,}  {failed:>8,}")
