"""Writes docs/settings.md from the schema and the presets (`make map`)."""

from unpaired.config.reference import markdown

print(markdown(), end="")
