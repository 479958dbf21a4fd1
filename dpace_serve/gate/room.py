"""Room: how many answers there may be at a time."""

from http import HTTPStatus

from dpace_serve.gate.refusal import RequestError

RETRY_AFTER_SECONDS = 1


class Room:
    """Places for answers that are being written or wait for it; used on one event loop."""

    def __init__(self, places: int) -> None:
        """Begin empty.

        Args:
            places: Most answers at a time.
        """
        self._places = places
        self._taken = 0

    def take(self, number: int) -> None:
        """Take places; each must be given back.

        Raises:
            RequestError: If there are not as many, now or at all.
        """
        self.require_possible(number)
        if self._taken + number > self._places:
            raise RequestError(
                "busy",
                HTTPStatus.TOO_MANY_REQUESTS,
                "too many requests are running. Try again later.",
                {"Retry-After": str(RETRY_AFTER_SECONDS)},
            )
        self._taken += number

    def require_possible(self, number: int) -> None:
        """Check that there are as many places at all.

        Raises:
            RequestError: If there are not.
        """
        if number > self._places:
            raise RequestError(
                "request",
                HTTPStatus.BAD_REQUEST,
                f"a request must ask for at most {self._places} answers, prompts times n, got "
                f"{number}. Split it.",
            )

    def give_back(self, number: int) -> None:
        """Give places back."""
        self._taken -= number
