"""Tasks learned one after another: `genepool train TASK TASK ... --learner NAME`.

Each task is a training of its own with its record and its states, begun with what the tasks before it left. Between
two tasks a learner keeps a memory, which is on the disk before the next task begins. After every task the model is
asked the test split of every task. Uses the learners (`genepool.training.learners`, one file each) and the runs.
"""
