"""What components hold: a file for each promise, and for each rule that has no exceptions.

Each function decorated with `check` is one check; `checks_for` collects them, and there is no list of them anywhere.
"""
