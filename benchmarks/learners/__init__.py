"""Learners asked on a small testbed: tasks in two orders, five seeds, and what the papers claim of them."""
