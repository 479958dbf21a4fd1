"""The live page at /dpace/: acceptance, verdicts and drafters of a running server."""
