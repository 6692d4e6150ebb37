"""Compositions of classifiers with modules for each task, which must be told: `FOLDER#TASK`.

`memorial_experts` are TaskExpert's experts, gates and memory, and `expert_model` asks them; `token_model` adds the
tokens of a task to a frozen network. `told_task` is what their compositions share. All files but the last import torch,
so composers import them inside their functions.
"""
