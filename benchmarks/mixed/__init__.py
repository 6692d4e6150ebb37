"""How fast a batch is whose requests want different adapters: see `__main__`."""
