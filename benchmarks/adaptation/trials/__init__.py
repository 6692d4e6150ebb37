"""Claims that streams of digits and strings cannot ask: each is a trial of its own, with its beds, arms and rule."""
