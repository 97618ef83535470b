"""How fast, how big, how idle: one question a file, the rivals beside us in the same run. `python -m benchmarks`."""
