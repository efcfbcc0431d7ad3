"""How much of a person leaks from federated learning, in Python:

    import fl_sim

    bare = fl_sim.run(name="open", dataset={"users": 8})
    clipped = fl_sim.run(name="clipped", dataset={"users": 8}, defenses=[{"name": "clip", "max_norm": 1.0}])
    clipped.leakage                     # a DataFrame; also .rounds, .verdict, .faces(0), .report
    fl_sim.compare(bare, clipped)       # the same users, side by side

The functions are those of experiments.api, which this package loads when one of them is first used. It is the one
import that points upward: the modules here know nothing of the application.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.api import Result, compare, load, load_runs, run
    from fl_sim.config import ConfigError

    __version__: str
else:  # only here, so that type checkers refuse a name that is not offered

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version

            return version("fl-sim")
        if name == "ConfigError":
            from fl_sim.config import ConfigError

            return ConfigError
        if name in __all__:
            from experiments import api

            return getattr(api, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["ConfigError", "Result", "__version__", "compare", "load", "load_runs", "run"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
