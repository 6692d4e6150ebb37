"""Stream adapters asked on small testbeds: every adapter on every bed that it suits, and what is claimed of them."""
