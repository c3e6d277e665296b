"""demo."""

from pcrstore.demo.run import DemoReport, run_demo

__all__ = [
    "DemoReport",
    "run_demo",
]
