"""The objective: {position weights} x {token loss} + {joint term}, reduced over blocks."""
