"""The routes below /dpace and their guards, the same in every engine's own application."""
