"""What `scripts/evidence.py` is made of: texts, methods, judges, tables."""
