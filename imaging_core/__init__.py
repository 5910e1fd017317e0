"""What the parts share: settings, telemetry, errors, storage, ledger, DICOM and the command line."""

__version__ = "0.1.0"
