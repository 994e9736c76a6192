"""`pytest --record-launches FILE`: every interpreted launch, as `bench.gpu_variants --launches FILE` compiles it."""

import pathlib
from unittest import mock

from bench.common.jit_launches import recorded


class LaunchRecorder:
    """A plugin; launches that are alike to the JIT are written once."""

    def __init__(self, path: pathlib.Path):
        self.path, self.launches = path, {}

    def pytest_sessionstart(self) -> None:
        from triton.runtime.interpreter import InterpretedFunction

        run = InterpretedFunction.run

        def record(kernel, *args, grid, warmup=False, **options):
            self.launches[recorded(kernel, args, options)] = None
            return run(kernel, *args, grid=grid, warmup=warmup, **options)

        mock.patch.object(InterpretedFunction, "run", record).start()

    def pytest_sessionfinish(self) -> None:
        self.path.write_text("".join(f"{launch}\n" for launch in self.launches))
