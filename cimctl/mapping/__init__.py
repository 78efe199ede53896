"""Which rows and columns of which tile hold which part of which layer, and what that costs."""
