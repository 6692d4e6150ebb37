"""Export outcomes to a JSONL file, import them from one."""
