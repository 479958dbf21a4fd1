"""The objective: {position weights} x {token loss}, and a named reduction over blocks."""
