"""The application: command line, analog layers, mapping, training, data sets and reports."""
