"""Merge methods, one file each; a file that defines a registered `Method` is found by being here."""
