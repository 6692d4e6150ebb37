"""The whole story on real models in minutes: train, merge, breed, measure, and open a page that shows it."""

from genepool.demo.story import DemoResult, run_demo

__all__ = ["DemoResult", "run_demo"]
