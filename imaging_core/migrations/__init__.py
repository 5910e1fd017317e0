"""Migrations of schema `ledger`, applied by `imaging_core.migrate`."""
