"""Supervised heads on frozen features of tables: one signature, chosen on validation rows."""
