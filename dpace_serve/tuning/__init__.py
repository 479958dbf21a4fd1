"""`dpace tune`: measures draft lengths on this machine and writes the schedule that follows."""
