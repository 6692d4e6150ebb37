"""The names in the folder of a PEFT adapter, which reading and writing share."""

from genepool.weights.formats.safetensors import ADAPTER_FILE

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = ADAPTER_FILE
# What PEFT puts before the names of the model's own modules.
PREFIX = "base_model.model."
