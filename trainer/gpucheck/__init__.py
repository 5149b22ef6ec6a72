"""Proves on a machine with an NVIDIA GPU that training works there: `make gpu-check`.

It needs no network, no store and no Temporal: jobs are given to the trainer as a worker gives them.

- Section: one thing that is checked, with its verdict (PASS, FAIL, NOT CHECKED), the reason for it, and what was seen.
- Whole run: a job that nothing interrupts; the others are compared with it.
- Killed run: the same job, ended by SIGKILL behind a checkpoint, and started again from it.
- Placement: how a worker would place the job on the device, by the program gpuplan.
"""
