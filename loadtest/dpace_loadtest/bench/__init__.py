"""How fast the generator is, against a server whose delays are known."""
