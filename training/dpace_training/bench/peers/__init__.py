"""Time of a D-PACE step against the steps of other trainers; `make bench-peers` runs it.

Each side is a process of its own interpreter. It takes one step for every line that it reads, so
that the rounds of all sides interleave in one run.
"""
