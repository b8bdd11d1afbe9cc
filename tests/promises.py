"""The table of `make reliability`: each promise, how many cases it was tried on, how many are named, how many failed.
Where all tests were run, fewer cases than docs/reliability.md names are a failure, too.

A test that keeps a promise is marked `@pytest.mark.reliability("The promise")`; one that goes through many cases asks
for the fixture `cases` and calls `cases(n)` as they pass. Those marked `long` run only with `--thorough`.
"""

import re
from collections import defaultdict
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reliability.md"
ROW = re.compile(r"^\| \*\*(?P<promise>.+?)\*\*.*?\| (?P<cases>[\d,/ ]+) \| (?P<tests>.+?) \|$", re.MULTILINE)
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


def named() -> dict[str, int]:
    """How many cases the page names for each promise: the last of its numbers is that of all tests."""
    rows = ROW.finditer(PAGE.read_text(encoding="utf-8"))
    return {row["promise"]: int(row["cases"].split("/")[-1].replace(",", "")) for row in rows}


def fewer(config) -> list[str]:
    """The promises that were tried on fewer cases than the page names, by a session of all tests."""
    all_of_them = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.option.keyword
    if not (config.option.thorough and all_of_them and config.option.markexpr == "reliability"):
        return []
    return [promise for promise, cases in named().items() if config.stash[TABLE][promise][0] < cases]


def pytest_sessionfinish(session, exitstatus):
    if exitstatus == pytest.ExitCode.OK and fewer(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    table = dict(config.stash[TABLE])
    if not table or not config.getoption("--thorough"):
        return
    width, expected, few = max(map(len, table)), named(), fewer(config)
    terminalreporter.write_line(f"\n{'promise':<{width}}  {'cases':>7}  {'named':>7}  {'failures':>8}")
    for promise, (count, failed) in table.items():
        told = f"{promise:<{width}}  {count:>7,}  {expected.get(promise, 0):>7,}  {failed:>8,}"
        terminalreporter.write_line(told + ("  fewer than named" if promise in few else ""))
