"""The words: tables, experiments, records, claims, the store. It imports nothing else of ours."""
