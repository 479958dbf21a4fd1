"""Acceptance without a server: a readable decode loop and its teacher-forced replay."""
