"""How the bundled demo models were made, reproducible by one command."""
