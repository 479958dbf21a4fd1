"""The file that locust is given: `locust -f` reads files, not packages."""

from dpace_loadtest.users import ModelTraffic

__all__ = ["ModelTraffic"]
