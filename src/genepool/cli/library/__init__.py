"""Keep skills in a library: find, compare, trace and share them."""
