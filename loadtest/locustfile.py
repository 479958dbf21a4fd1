"""For `locust -f loadtest/locustfile.py`: the users of dpace_loadtest."""

from dpace_loadtest.users import ModelTraffic

__all__ = ["ModelTraffic"]
