"""Train block-diffusion drafters: data, drafter, losses, fitting, evaluation without a server."""
