"""Train block-diffusion drafters: data, drafter, losses, fitting, and evaluation without a server."""
