"""The names in the folder of a PEFT adapter that reading and writing share; each file format names its own file."""

CONFIG_FILE = "adapter_config.json"
# What genepool says of an adapter beside what PEFT does.
NOTES_FILE = "genepool.json"
# What PEFT puts before the names of the model's own modules.
PREFIX = "base_model.model."
