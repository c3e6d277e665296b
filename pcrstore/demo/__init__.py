"""demo."""

from pcrstore.demo.run import DemoReport, Epoch, run_demo

__all__ = ["DemoReport", "Epoch", "run_demo"]
