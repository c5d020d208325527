"""How fast it is, and beside what: one module per question, run with `python -m benchmarks.NAME`."""
