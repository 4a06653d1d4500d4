"""From records to tables, figures and claims. Nothing here imports torch."""
