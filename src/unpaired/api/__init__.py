"""What `import unpaired as up` offers in a notebook; the command line's work in Python's words."""
