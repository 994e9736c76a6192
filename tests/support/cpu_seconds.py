"""`pytest --cpu-seconds FILE`: what each test costs the processor, the programs that it starts included.

Unlike the seconds of `--durations` they are nearly the same on a busy machine. What the first test of a module prepares
for all of them is counted with it. Processes that share the tests write to one file, a line for each test.
"""

import collections
import pathlib
import resource

import pytest
import warm_python

FILES, TESTS = 20, 40  # shown at the end


class CPUSeconds:
    def __init__(self, path: pathlib.Path):
        self.path = path

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        before = used()
        done = yield
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{used() - before:.2f}\t{ascii(item.nodeid)[1:-1]}\n")
        return done

    def pytest_terminal_summary(self, terminalreporter):
        terminalreporter.section("CPU seconds")
        for line in table(self.path.read_text(encoding="utf-8")):
            terminalreporter.write_line(line)


def used() -> float:
    """CPU seconds of this process and of those that it started and that have ended."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime + warm_python.cpu_seconds()


def table(text: str) -> list[str]:
    """The sum, the files that cost most and the tests that cost most."""
    costs = [(float(cost), test) for cost, test in (line.split("\t", 1) for line in text.splitlines())]
    files = collections.Counter()
    for cost, test in costs:
        files[test.partition("::")[0]] += cost
    shown = [*((cost, file) for file, cost in files.most_common(FILES)), *sorted(costs, reverse=True)[:TESTS]]
    return [f"{sum(files.values()):9.2f} {len(costs)} tests", *(f"{cost:9.2f} {name}" for cost, name in shown)]
