"""Measurements of speed that a user repeats: of a board, its link, and training through it."""
