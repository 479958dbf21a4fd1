"""Figures described once, drawn as PNG files and as interactive, self-contained HTML."""
