"""What acceptance is: counts, requests and their statistics, in plain Python."""
