"""Certificates: the signed text, when it was made, and perhaps the image."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """An empty database to the first schema."""
    op.create_table(
        "certificates",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("created", sa.Float(53), nullable=False),
        sa.Column("signed", sa.Text, nullable=False),
        sa.Column("image", sa.LargeBinary),
    )
    op.create_index("certificates_by_age", "certificates", ["created", "id"])
