"""A recipe: its keys and types, how YAML and flags are read, what is said when they are wrong. No torch.

`schema` has the recipe and its JSON schema; `sections`, `search_section` and `training_sections` the keys of
each section; `amounts` reads budgets; `loading` reads and writes files by way of `yaml_reader`; `explain`
words every mistake.
"""
