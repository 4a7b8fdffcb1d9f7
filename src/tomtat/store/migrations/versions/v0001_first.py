"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    key = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "branches",
        sa.Column("number", key, primary_key=True, autoincrement=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("conversation", sa.Text, nullable=False),
        sa.Column("branch", sa.Integer, nullable=False),
        sa.Column("parent", key),
        sa.Column("fork", sa.Integer, nullable=False),
        sa.Column("last", sa.Integer, nullable=False),
        sa.Column("packed", sa.Integer, nullable=False),
        sa.Column("chain", sa.LargeBinary, nullable=False),
        sa.Column("user", sa.Text),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("tenant", "conversation", "branch"),
        sqlite_autoincrement=True,
    )
    op.create_index("branches_by_chain", "branches", ["chain"])
    op.create_table(
        "turns",
        sa.Column("key", key, primary_key=True, autoincrement=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("chain", sa.LargeBinary, nullable=False),
        sa.Column("words", sa.Integer),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("content", sa.Text),
        sa.Column("rest", sa.Text),
        sa.Column("sealed", sa.LargeBinary),
        sa.Column("vector", sa.LargeBinary),
    )
    op.create_index(
        "turns_to_index",
        "turns",
        ["key"],
        sqlite_where=sa.text("words IS NULL"),
        postgresql_where=sa.text("words IS NULL"),
    )
    op.create_table(
        "segments",
        sa.Column("key", key, primary_key=True, autoincrement=False),
        sa.Column("last", sa.Integer, nullable=False),
        sa.Column("chain", sa.LargeBinary, nullable=False),
        sa.Column("words", sa.LargeBinary, nullable=False),
        sa.Column("vectors", sa.LargeBinary),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index(
        "segments_to_embed",
        "segments",
        ["key"],
        sqlite_where=sa.text("vectors IS NULL"),
        postgresql_where=sa.text("vectors IS NULL"),
    )
    op.create_table(
        "client_ids",
        sa.Column("number", key, nullable=False),
        sa.Column("id", sa.LargeBinary, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("number", "id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "derived",
        sa.Column("number", key, nullable=False),
        sa.Column("last", sa.Integer, nullable=False),
        sa.Column("first", sa.Integer, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("chain", sa.LargeBinary, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("number", "last", "first", "kind"),
        sqlite_with_rowid=False,
    )
    op.create_index("derived_by_chain", "derived", ["chain"])
    op.create_table(
        "damaged",
        sa.Column("home", sa.Text, nullable=False),
        sa.Column("key", key, nullable=False),
        sa.Column("last", sa.Integer, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("bytes", sa.LargeBinary),
        sa.PrimaryKeyConstraint("home", "key"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "facts",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
