"""A trained model as a file: loading it, and exporting it to other formats."""
