"""Measurements beside aiosmtpd: transactions a second, memory an idle connection, the time of a certification.

Nothing in here passes or fails; ``docs/benchmarks.md`` says how to read what comes out.
"""
