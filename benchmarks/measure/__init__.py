"""How measuring is measured: examples a second, coverage of intervals, large ledgers."""
