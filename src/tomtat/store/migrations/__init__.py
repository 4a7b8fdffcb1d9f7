"""How a store of an older version becomes one of this: a small file for each step, applied once, by Alembic."""
