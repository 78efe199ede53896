"""One module per artefact that comes from the specification."""
