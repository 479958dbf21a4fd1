"""The `dpace_*` metrics: their names, and the exporter that counts them."""
