"""Migrations of schema `cache`, applied by `imaging_core.migrate`."""
