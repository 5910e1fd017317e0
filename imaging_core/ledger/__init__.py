"""The ledger: every delivery, instance and study, and how far each has come.

Functions here take an open connection: the caller's unit of work decides what stands or falls together.
"""
