"""The wire: one specification, the frames and the typed messages that come from it."""
