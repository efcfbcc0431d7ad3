"""Studies: one question, a few runs, one table and one plot.

    python -m experiments.studies batch_size            # a shipped one
    python -m experiments.studies MINE.toml -o base.dataset.users=16 --json

A study is a TOML file: a `base` config as `fl-sim run` takes it, what is varied from run to run (`cells`,
`grid`), and what is varied from attack to attack within each run (`vary`), which costs no training.
"""
