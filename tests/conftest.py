"""For all tests: examples may take long on a busy machine, and that is no failure."""

from hypothesis import settings

settings.register_profile("dpace", deadline=None)
settings.load_profile("dpace")
