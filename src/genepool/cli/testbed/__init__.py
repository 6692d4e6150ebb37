"""Small real models with real skills, trained on the spot."""
