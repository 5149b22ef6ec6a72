"""The training side of Precept: SFT, RL and serving, each one process with one job file.

The Go worker starts `python -m precept_trainer <kind> --job job.json`, reads events from its standard output and
signals it to stop. `job` says what can be asked for, `protocol` what is answered.
"""
