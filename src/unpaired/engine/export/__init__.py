"""Exported forms of a trained model, each written whole, checked, and only then named."""
