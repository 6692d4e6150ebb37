"""What every adapter form is made of: the places it can stand at, its folder, its change and its model.

A form is one file of `genepool.weights.adapter_forms`. `sites` finds the places from headers, `adapter_form` says what
a form declares, `attached` puts one into a network, `form_folder` writes and reads it, `form_change` folds it, and
`formed_weights` stands for a base with one that does not fold.
"""
