"""The demo: bundled models behind the real server, and the run that compares and shows them."""
