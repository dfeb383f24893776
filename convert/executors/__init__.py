"""Where a step runs: one module an executor, called as `--executor` says it; other packages add theirs.

A module has EXECUTOR, a subclass of `base.Executor`; the entry-point group `convert.executors` names others.
"""
