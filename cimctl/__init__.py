"""The application: command line, analog layers, mapping, training, data sets and reports."""

__version__ = "0.1.0"
