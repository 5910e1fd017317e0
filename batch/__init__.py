"""Re-analysis of many studies, on Azure Batch or on a local pool."""
