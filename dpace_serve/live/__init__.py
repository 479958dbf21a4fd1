"""Several drafters in one server: who serves and who shadows a request, and how that changes."""
