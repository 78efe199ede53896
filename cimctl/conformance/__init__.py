"""One regression suite for every board: what the specification asks of a firmware, case by case."""
